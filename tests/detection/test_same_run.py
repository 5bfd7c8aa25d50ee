"""A run goes on by the recipe and on the data that it was begun with, or says why not."""

import json
import shutil

import pytest
from detection_helpers import refused, tiny_config, tiny_detector, train_net

from randwire_det import UserError
from randwire_det.detection.same_run import check_same_recipe
from randwire_det.detection.stored import load_detector
from randwire_det.detection.trainer import build_checkpointer
from randwire_det.run.checkpoint import load_checkpoint

BEGUN = {"SOLVER.BASE_LR": 0.16, "SOLVER.MAX_ITER": 8, "SOLVER.STEPS": "()", "SEED": 3}
pytestmark = pytest.mark.slow_suite


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of a run that has four iterations behind it."""
    folder = tmp_path_factory.mktemp("run")
    cfg = tiny_config(**BEGUN, OUTPUT_DIR=folder)
    build_checkpointer(cfg, tiny_detector(**BEGUN)).save("model_0000003", iteration=3)
    return load_checkpoint(folder / "model_0000003.pth")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"SOLVER.MAX_ITER": 20, "SOLVER.STEPS": "(12,)"},
        {"SOLVER.MAX_ITER": 4, "SEED": -1, "OUTPUT_DIR": "elsewhere", "MODEL.DEVICE": "cpu"},
        {"TEST.EVAL_PERIOD": 2, "INPUT.MIN_SIZE_TEST": 32, "DATALOADER.NUM_WORKERS": 1},
        {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.2, "MODEL.WEIGHTS": "of_the_start.pth"},
        {"MODEL.RANDWIRE.MEMORY": "standard", "SOLVER.ACCUMULATE": 2},
    ],
)
def test_length_tests_and_machine_may_change(checkpoint, changes):
    check_same_recipe(checkpoint, tiny_config(**BEGUN | changes))


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"SOLVER.BASE_LR": 0.1}, ["SOLVER.BASE_LR 0.16", "0.1", "set SOLVER.BASE_LR 0.16"]),
        ({"SOLVER.IMS_PER_BATCH": 3}, ["SOLVER.IMS_PER_BATCH"]),
        ({"SEED": 7}, ["SEED 3", "7"]),
        ({"DATASETS.TRAIN": "('others',)"}, ["DATASETS.TRAIN", "others"]),
        ({"INPUT.MIN_SIZE_TRAIN": "(64,)"}, ["INPUT.MIN_SIZE_TRAIN"]),
        ({"MODEL.RPN.NMS_THRESH": 0.5}, ["MODEL.RPN.NMS_THRESH 0.7"]),
        ({"MODEL.RANDWIRE.NORM": "GN"}, ["MODEL.RANDWIRE.NORM"]),
        ({"SOLVER.MAX_ITER": 3}, ["4 iterations", "SOLVER.MAX_ITER is 3", "set 4 or more"]),
    ],
)
def test_another_recipe_is_refused(checkpoint, changes, fragments):
    with pytest.raises(UserError) as error:
        check_same_recipe(checkpoint, tiny_config(**BEGUN | changes))
    assert all(each in str(error.value) for each in [checkpoint.path, *fragments])


def test_a_refused_run_leaves_everything_as_it_was(shapes, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    run = {"OUTPUT_DIR": tmp_path / "run", "SOLVER.MAX_ITER": 2, "TEST.REPORT": False}
    assert train_net(root, changes=run).returncode == 0
    kept = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.[yp]*")}
    more = run | {"SOLVER.MAX_ITER": 3}
    done = train_net(root, "--resume", changes=more | {"SOLVER.BASE_LR": 0.5})
    refused(done, 1, "SOLVER.BASE_LR 0.001", "0.5", "another OUTPUT_DIR")
    truth = json.loads((root / "shapes.json").read_text())
    truth["annotations"][0]["bbox"][0] += 1
    (root / "shapes.json").write_text(json.dumps(truth))
    done = train_net(root, "--resume", changes=more)
    refused(done, 1, "4 images", "an epoch would differ", "MODEL.WEIGHTS")
    assert kept == {path: path.read_bytes() for path in kept} and len(kept) == 2


@pytest.mark.parametrize("channels", [4.5, 5])
def test_a_detector_of_any_width_is_rebuilt_from_its_file(tmp_path, channels):
    width = {"MODEL.RANDWIRE.CHANNELS": channels}
    build_checkpointer(tiny_config(**width, OUTPUT_DIR=tmp_path), tiny_detector(**width)).save(
        "model_final"
    )
    _, cfg, _ = load_detector(tmp_path / "model_final.pth", "cpu")
    assert channels == cfg.MODEL.RANDWIRE.CHANNELS
