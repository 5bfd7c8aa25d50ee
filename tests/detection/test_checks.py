"""What train_net refuses before it writes: the run that OUTPUT_DIR holds stays as it was."""

import pytest
from detection_helpers import tiny_config, tiny_detector
from detectron2.data import DatasetCatalog, MetadataCatalog

from randwire_det import UsageError, UserError
from randwire_det.detection.checkpointer import RandWireCheckpointer
from randwire_det.detection.checks import check_run, report_other_test
from randwire_det.detection.trainer import build_checkpointer


@pytest.fixture
def dataset():
    """A registered data set of three classes without files, as a user's own loader makes it."""
    name = "three_classes"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(thing_classes=["a", "b", "c"])
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def config(dataset, output, **changes):
    names = {"DATASETS.TRAIN": f"('{dataset}',)", "DATASETS.TEST": f"('{dataset}',)"}
    return tiny_config(**names | {"OUTPUT_DIR": output} | changes)


def saved(cfg) -> RandWireCheckpointer:
    checkpointer = build_checkpointer(cfg, tiny_detector())
    checkpointer.save("model_0000001")
    return checkpointer


def test_a_run_starts_from_its_weights_or_goes_on_from_its_checkpoint(dataset, tmp_path):
    fresh = config(dataset, tmp_path / "new")
    assert check_run(fresh, resume=True, eval_only=False) is None
    saved(config(dataset, tmp_path))
    path = str(tmp_path / "model_0000001.pth")
    weights = {"MODEL.WEIGHTS": path}
    assert check_run(config(dataset, tmp_path), resume=True, eval_only=True).path == path
    with pytest.raises(UsageError, match=f"{path} exists already: add --resume .* OUTPUT_DIR"):
        check_run(config(dataset, tmp_path), resume=False, eval_only=False)
    evaluated = config(dataset, tmp_path, **weights)
    assert check_run(evaluated, resume=False, eval_only=True).path == path
    new = config(dataset, tmp_path / "new", **weights)
    assert check_run(new, resume=True, eval_only=False).path == path


def test_an_evaluation_of_other_sizes_than_the_checkpoints_is_reported(dataset, tmp_path, caplog):
    checkpointer = build_checkpointer(config(dataset, tmp_path), tiny_detector())
    checkpointer.save("model_final")
    weights = {"MODEL.WEIGHTS": str(tmp_path / "model_final.pth")}
    same = config(dataset, tmp_path, **weights)
    checkpoint = check_run(same, resume=False, eval_only=True)
    report_other_test(checkpoint, same)
    assert not caplog.records
    size = same.INPUT.MIN_SIZE_TEST
    other = config(dataset, tmp_path, **weights, **{"INPUT.MIN_SIZE_TEST": size + 8})
    report_other_test(checkpoint, other)
    assert f"INPUT.MIN_SIZE_TEST {size + 8} instead of {size}" in caplog.text


def test_nothing_to_evaluate_is_refused_and_not_made_up(dataset, tmp_path):
    """detectron2 would evaluate random weights and print their AP."""
    with pytest.raises(UsageError, match=f"OUTPUT_DIR {tmp_path} holds no checkpoint"):
        check_run(config(dataset, tmp_path), resume=True, eval_only=True)
    with pytest.raises(UsageError, match=r"set MODEL\.WEIGHTS"):
        check_run(config(dataset, tmp_path), resume=False, eval_only=True)


@pytest.mark.parametrize("content", ["gone.pth", "", "\n"])
def test_a_broken_last_checkpoint_is_passed_over(dataset, tmp_path, content):
    """detectron2 would look for a file of that name, or for an empty one."""
    (tmp_path / "last_checkpoint").write_text(content)
    assert check_run(config(dataset, tmp_path), resume=True, eval_only=False) is None
    saved(config(dataset, tmp_path))
    path = str(tmp_path / "model_0000001.pth")
    (tmp_path / "last_checkpoint").write_text(content)
    assert check_run(config(dataset, tmp_path), resume=True, eval_only=False).path == path


def test_a_broken_newest_checkpoint_is_passed_over(dataset, tmp_path):
    saved(config(dataset, tmp_path))
    path = tmp_path / "model_0000001.pth"
    for name in ("model_0000007.pth", "model_final.pth"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    assert check_run(config(dataset, tmp_path), resume=True, eval_only=False).path == str(path)
    path.unlink()
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
        check_run(config(dataset, tmp_path), resume=True, eval_only=False)


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(dataset, tmp_path):
    saved(config(dataset, tmp_path / "old"))
    output = tmp_path / "new"
    for change in ({"MODEL.RANDWIRE.SEED": 2}, {"INPUT.FORMAT": "BGR"}):
        weights = {"MODEL.WEIGHTS": tmp_path / "old/model_0000001.pth"}
        with pytest.raises(UserError, match=next(iter(change))):
            check_run(config(dataset, output, **weights, **change), resume=False, eval_only=False)
    assert not output.exists()


def test_other_numbers_of_classes_than_outputs(dataset, tmp_path, caplog):
    """Too few outputs fail in training; too many in the evaluation, once one is detected."""
    fewer = {"MODEL.ROI_HEADS.NUM_CLASSES": 2}
    with pytest.raises(UsageError, match=r"NUM_CLASSES 2, .* 3 classes; set .*NUM_CLASSES 3"):
        check_run(config(dataset, tmp_path, **fewer), resume=False, eval_only=False)
    more = {"MODEL.ROI_HEADS.NUM_CLASSES": 9}
    with pytest.raises(UsageError, match=r"NUM_CLASSES 9, .* 3 classes; set .*NUM_CLASSES 3"):
        check_run(config(dataset, tmp_path, **more), resume=False, eval_only=False)
    untested = more | {"DATASETS.TEST": "()"}
    check_run(config(dataset, tmp_path, **untested), resume=False, eval_only=False)
    assert "NUM_CLASSES 9" in caplog.text


@pytest.mark.parametrize(
    ("change", "eval_only"),
    [
        ({"SOLVER.MAX_ITER": 0}, False),
        ({"SOLVER.IMS_PER_BATCH": -1}, False),
        ({"SOLVER.CHECKPOINT_PERIOD": 0}, False),
        ({"SOLVER.BASE_LR": -0.1}, False),
        ({"SOLVER.IMS_PER_BATCH": 15, "SOLVER.REFERENCE_WORLD_SIZE": 2}, False),
        ({"SOLVER.ACCUMULATE": 0}, False),
        ({"SOLVER.ACCUMULATE": 3, "SOLVER.IMS_PER_BATCH": 4}, False),
        ({"SOLVER.AMP.DTYPE": "half"}, False),
        ({"SOLVER.STEPS": "(40000,)", "SOLVER.MAX_ITER": 40000}, False),
        ({"SOLVER.STEPS": "(5, 3)"}, False),
        ({"SOLVER.STEPS": "('a',)"}, False),
        ({"SOLVER.LR_SCHEDULER_NAME": "WarmupFoo"}, False),
        ({"DATALOADER.SAMPLER_TRAIN": "Foo"}, False),
        ({"DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler"}, False),
        ({"DATALOADER.REPEAT_THRESHOLD": 1.5}, False),
        ({"INPUT.FORMAT": "XYZ"}, False),
        ({"INPUT.MIN_SIZE_TRAIN": "()"}, False),
        ({"MODEL.PIXEL_STD": "[1.0, 1.0]"}, False),
        ({"OUTPUT_DIR": ""}, True),
        ({"SOLVER.MOMENTUM": -1.0}, False),
        ({"SOLVER.NESTEROV": True, "SOLVER.MOMENTUM": 0.0}, False),
        ({"SOLVER.WEIGHT_DECAY": -1.0}, False),
        ({"SOLVER.WEIGHT_DECAY": 1e999}, False),
        ({"SOLVER.BASE_LR": 1e300}, False),
        ({"SOLVER.GAMMA": -0.1}, False),
        ({"SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "x"}, False),
        ({"SOLVER.WARMUP_ITERS": -1}, False),
        ({"SOLVER.IMS_PER_BATCH": 10**9}, False),
        ({"SEED": 2**40}, False),
        ({"DATALOADER.NUM_WORKERS": -1}, False),
        ({"DATALOADER.NUM_WORKERS": 10**9}, False),
        ({"INPUT.MIN_SIZE_TRAIN": f"({10**9},)"}, False),
        ({"INPUT.MIN_SIZE_TEST": 10**9}, True),
        ({"INPUT.MAX_SIZE_TEST": 0}, True),
        ({"INPUT.CROP.TYPE": "x"}, False),
        ({"INPUT.CROP.SIZE": "[0.5]"}, False),
        ({"INPUT.RANDOM_FLIP": "x"}, False),
        ({"MODEL.PIXEL_STD": "[1.0, 0.0, 1.0]"}, False),
        ({"MODEL.PIXEL_MEAN": "[1.0, 1e999, 1.0]"}, True),
        ({"TEST.DETECTIONS_PER_IMAGE": -2}, True),
        ({"DATASETS.TRAIN": "()"}, False),
        ({"DATASETS.TEST": "()"}, True),
    ],
)
def test_values_that_would_fail_late_are_named(dataset, tmp_path, change, eval_only):
    with pytest.raises(UsageError) as caught:
        check_run(config(dataset, tmp_path, **change), resume=False, eval_only=eval_only)
    section, _, name = next(iter(change)).rpartition(".")
    assert section in str(caught.value) and name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"MODEL.BACKBONE.NAME": "build_randwire_fpn_backbon"}, "did you mean build_randwire_fpn"),
        ({"MODEL.META_ARCHITECTURE": "FasterRCNN"}, "known are"),
        ({"MODEL.ROI_HEADS.NAME": "StandardROIHead"}, "did you mean StandardROIHeads"),
        ({"MODEL.RPN.IN_FEATURES": "['p2', 'p9']"}, "p9"),
        ({"MODEL.ROI_HEADS.IN_FEATURES": "['res4']"}, "p6"),
        ({"MODEL.ANCHOR_GENERATOR.SIZES": "[[32], [64], [128]]"}, "5 lists"),
        ({"MODEL.ANCHOR_GENERATOR.SIZES": "[]"}, "one list"),
        ({"MODEL.ANCHOR_GENERATOR.SIZES": "[[]]"}, "above 0"),
        ({"MODEL.ANCHOR_GENERATOR.SIZES": "[[32], 64, [1], [1], [1]]"}, "above 0"),
        ({"MODEL.ANCHOR_GENERATOR.SIZES": "[-32]"}, "above 0"),
        ({"MODEL.ANCHOR_GENERATOR.SIZES": "['a']"}, "above 0"),
        ({"MODEL.ANCHOR_GENERATOR.SIZES": "[[1e999]]"}, "1e+38"),
        ({"MODEL.ANCHOR_GENERATOR.SIZES": "[[1], [1], [1], [1], [1, 2]]"}, "[3, 3, 3, 3, 6]"),
        ({"MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": "[[1.0], [2.0]]"}, "5 lists"),
        ({"MODEL.RPN.IN_FEATURES": "['p2', 'p3']"}, "2 lists"),
        ({"MODEL.RPN.IN_FEATURES": "[['p2']]"}, "p6"),
        ({"MODEL.ANCHOR_GENERATOR.OFFSET": 7.0}, "from 0 to 1"),
        ({"MODEL.ROI_HEADS.IN_FEATURES": "['p2', 'p4']"}, "pyramid"),
        ({"MODEL.ROI_BOX_HEAD.POOLER_TYPE": "Foo"}, "Foo"),
        ({"MODEL.RPN.BBOX_REG_WEIGHTS": "(1.0,)"}, "four"),
        ({"MODEL.RPN.IOU_LABELS": "[0, 1]"}, "MODEL"),
        ({"MODEL.RPN.IOU_THRESHOLDS": "['x']"}, "thresholds"),
        ({"MODEL.RPN.HEAD_NAME": "x"}, "registry"),
        ({"MODEL.RPN.CONV_DIMS": "[0]"}, "channels"),
        ({"MODEL.RPN.BBOX_REG_LOSS_TYPE": "x"}, "giou"),
        ({"MODEL.FPN.NORM": "x"}, "'x'"),
        ({"MODEL.FPN.IN_FEATURES": "[[]]"}, "conv5"),
        ({"TEST.EXPECTED_RESULTS": "['bbox']"}, "rows"),
        ({"MODEL.LOAD_PROPOSALS": True}, "PROPOSAL_FILES_TRAIN"),
        ({"SOLVER.WEIGHT_DECAY_BIAS": "x"}, "None or 0"),
        ({"MODEL.FPN.FUSE_TYPE": "x"}, "sum or avg"),
        ({"MODEL.ROI_BOX_HEAD.FC_DIM": 10**9}, "65536"),
        ({"MODEL.FPN.OUT_CHANNELS": 10**9}, "65536"),
        ({"MODEL.ROI_BOX_HEAD.NUM_FC": 10**9}, "256"),
        ({"MODEL.ROI_HEADS.NUM_CLASSES": 10**9}, "65536"),
        ({"MODEL.RPN.NMS_THRESH": -0.5}, "from 0 to 1"),
        ({"MODEL.RPN.POST_NMS_TOPK_TRAIN": 0}, "1 or more"),
        ({"MODEL.RANDWIRE.CHANNELS": 10**9}, "GB of memory"),
        ({"MODEL.RANDWIRE.NODES": 10**9}, "at most"),
        ({"SOLVER.EMA_DECAY": 1.0}, "below 1"),
        ({"DATASETS.CHECK": "all"}, "decode"),
    ],
)
def test_parts_and_features_that_are_not_there_are_named(dataset, tmp_path, change, hint):
    (key,) = change
    with pytest.raises(UsageError) as caught:
        check_run(config(dataset, tmp_path / "out", **change), resume=False, eval_only=False)
    message = str(caught.value)
    assert hint in message and "\n" not in message
    named = [key, f"{key.split('.')[0]}.*", key.rpartition(".")[2]]
    assert any(name in message for name in named), message
    assert not (tmp_path / "out").exists()


def test_an_address_that_leads_nowhere_is_named(dataset, tmp_path):
    for address in ("http://127.0.0.1:9/model.pth", "nosuch://model.pth"):
        weights = {"MODEL.WEIGHTS": address}
        with pytest.raises(UserError, match=f"MODEL.WEIGHTS {address}"):
            check_run(config(dataset, tmp_path, **weights), resume=False, eval_only=False)
