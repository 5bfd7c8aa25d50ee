"""An output means the same class in the checkpoint, in every training set and in every test set."""

import json

import pytest
from detection_helpers import tiny_config, tiny_detector
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from randwire_det import UserError
from randwire_det.config.network_keys import spec_from_config
from randwire_det.detection.checks import check_run
from randwire_det.detection.trainer import RandWireTrainer, build_checkpointer
from randwire_det.run.checkpoint import Preprocessing, save_checkpoint

ORDERS = {"abc": ["a", "b", "c"], "cab": ["c", "a", "b"], "abd": ["a", "b", "d"]}


@pytest.fixture(autouse=True)
def datasets():
    """Data sets of a user's own loader, named by their classes; one knows none."""
    for name, classes in ORDERS.items():
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(thing_classes=classes)
    DatasetCatalog.register("nameless", list)
    MetadataCatalog.get("nameless")
    yield
    for name in (*ORDERS, "nameless"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def config(train, test, output, **changes):
    sets = {"DATASETS.TRAIN": repr(tuple(train)), "DATASETS.TEST": repr(tuple(test))}
    return tiny_config(OUTPUT_DIR=output, **sets, **changes)


def run(cfg, *, resume=False, eval_only=False):
    return check_run(cfg, resume=resume, eval_only=eval_only)


@pytest.fixture(scope="module")
def weights():
    return tiny_detector().state_dict()


def stored(folder, weights, classes, kind="detector"):
    """A checkpoint of the tiny detector that detects `classes`, in this order."""
    path = folder / "model_0000001.pth"
    spec = spec_from_config(tiny_config().MODEL.RANDWIRE)
    preprocessing = Preprocessing()
    save_checkpoint(
        path, kind=kind, model=weights, spec=spec, preprocessing=preprocessing, classes=classes
    )
    return path


@pytest.mark.parametrize(
    ("train", "test", "lists"),
    [
        (["abc"], ["cab"], ("a, b, c in data set 'abc'", "c, a, b in data set 'cab'")),
        (["abc", "cab"], [], ("a, b, c in data set 'abc'", "c, a, b in data set 'cab'")),
        (["abc"], ["abc", "abd"], ("only in data set 'abc' (c)", "only in data set 'abd' (d)")),
        (["nameless", "abc"], ["cab"], ("'abc'", "'cab'")),
    ],
)
def test_data_sets_of_other_lists_are_refused_with_both(train, test, lists, tmp_path):
    """Of as many classes in another order AP falls to that of guessing, without an error."""
    cfg = config(train, test, tmp_path / "out")
    for start in (run, RandWireTrainer):  # the tool, and a project of one's own
        with pytest.raises(UserError) as caught:
            start(cfg)
        assert all(part in str(caught.value) for part in lists)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_is_not_trained_on_does_not_matter_to_an_evaluation(tmp_path, weights):
    stored(tmp_path, weights, ORDERS["abc"])
    run(config(["cab"], ["abc", "nameless"], tmp_path), resume=True, eval_only=True)


@pytest.mark.parametrize("options", [{"resume": True}, {"resume": True, "eval_only": True}])
def test_a_checkpoint_of_another_order_is_neither_resumed_nor_evaluated(tmp_path, weights, options):
    path = stored(tmp_path, weights, ORDERS["abc"])
    cfg = config(["cab"], ["cab"], tmp_path)
    with pytest.raises(UserError, match=rf"{path}.* a, b, c in {path}, but c, a, b in "):
        run(cfg, **options)
    checkpointer = build_checkpointer(cfg, tiny_detector())
    with pytest.raises(UserError, match="hold different classes"):
        checkpointer.load(str(path))
    cfg = config(["cab"], ["cab"], tmp_path / "new", **{"MODEL.WEIGHTS": path})
    with pytest.raises(UserError, match="hold different classes"):
        run(cfg, eval_only=True)


def test_a_detector_starts_a_training_of_other_classes_but_not_of_another_order(
    tmp_path, weights, caplog
):
    """Other classes are a transfer, which relearns the outputs; another order is an accident."""
    path = stored(tmp_path, weights, ORDERS["abc"])
    start = {"MODEL.WEIGHTS": path}
    with pytest.raises(UserError, match="their order is another, from class 1 on"):
        run(config(["cab"], [], tmp_path / "new", **start))
    run(config(["abd"], [], tmp_path / "new", **start))
    assert "detects a, b, c, the data sets of this run have a, b, d" in caplog.text


def test_a_checkpoint_without_detector_classes_fits_any(tmp_path, weights):
    stored(tmp_path, weights, None)  # an old file
    run(config(["cab"], ["cab"], tmp_path), resume=True, eval_only=True)
    path = stored(tmp_path / "classifier", weights, ["tench", "goldfish"], kind="classifier")
    run(config(["cab"], ["cab"], tmp_path / "new", **{"MODEL.WEIGHTS": path}))


def test_names_of_a_set_that_detectron2_has_not_loaded_are_read_and_kept(tmp_path):
    """register_coco_instances knows no names; the checkpoint needs them before an evaluation."""
    categories = [{"id": 7, "name": "b"}, {"id": 2, "name": "c"}, {"id": 9, "name": "a"}]
    path = tmp_path / "unloaded.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    register_coco_instances("unloaded", {}, str(path), str(tmp_path))
    try:
        with pytest.raises(UserError, match="c, b, a in data set 'unloaded', but a, b, c in"):
            run(config(["unloaded"], ["abc"], tmp_path))
        checkpointer = build_checkpointer(config(["unloaded"], [], tmp_path), tiny_detector())
        assert checkpointer.classes == ["c", "b", "a"]
    finally:
        DatasetCatalog.remove("unloaded")
        MetadataCatalog.remove("unloaded")


def test_a_model_of_proposals_tells_no_classes_apart(tmp_path):
    proposals = {"MODEL.META_ARCHITECTURE": "ProposalNetwork", "MODEL.ROI_HEADS.NUM_CLASSES": 2}
    run(config(["abc"], ["cab"], tmp_path, **proposals))
