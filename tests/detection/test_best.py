"""TEST.BEST_METRIC, PATIENCE and LOSS: the best model, the early end, losses on the test sets."""

import copy
import json
import re

import pytest
import torch
from detection_helpers import RUN, in_two, refused, tiny_config, train_net
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from randwire_det import UsageError, UserError
from randwire_det.coco.datasets import register_coco_datasets
from randwire_det.detection.best import Best, check_best
from randwire_det.detection.checkpointer import newest_checkpoint
from randwire_det.detection.loader import TestLoader
from randwire_det.detection.trainer import build_checkpointer
from randwire_det.detection.validation import validation_losses
from randwire_det.run.checkpoint import load_checkpoint
from randwire_det.run.parallel import World
from randwire_det.tables.detection import is_finished, read_evaluations, read_record

ALONE = World()
EVALUATED = {
    "SOLVER.MAX_ITER": 12,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "TEST.EVAL_PERIOD": 2,
    "TEST.REPORT": False,
    "TEST.LOSS": True,
    "TEST.BEST_METRIC": "validation/total_loss",
    "SOLVER.EMA_DECAY": 0.5,
}


def losses_of(output):
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    found = {row["iteration"]: row.get("validation/total_loss") for row in rows}
    return {iteration + 1: loss for iteration, loss in found.items() if loss is not None}


@pytest.mark.slow_suite
def test_the_best_is_kept_and_a_resumed_run_goes_on_with_it(shapes, tmp_path):
    """The learning rate is such that the loss rises in the end."""
    changes = EVALUATED | {"SOLVER.BASE_LR": 0.02, "OUTPUT_DIR": tmp_path / "whole"}
    done = train_net(shapes, changes=changes)
    assert done.returncode == 0, done.stderr
    said = re.findall(r"The best .* so far, ([\d.]+) after iteration (\d+)", done.stdout)
    best = load_checkpoint(tmp_path / "whole/model_best.pth")
    about = best.rest["best"]
    assert int(said[-1][1]) == about["iteration"] == best.rest["iteration"] + 1
    assert about["score"] == pytest.approx(float(said[-1][0]), rel=1e-3)
    at_that_time = tmp_path / f"whole/model_{best.rest['iteration']:07d}.pth"
    theirs = load_checkpoint(at_that_time).weights_to_use
    assert all(torch.equal(each, theirs[name]) for name, each in best.weights_to_use.items())
    assert newest_checkpoint(tmp_path / "whole").path.endswith("model_final.pth")

    part = changes | {"OUTPUT_DIR": tmp_path / "part", "SOLVER.MAX_ITER": 6}
    assert train_net(shapes, changes=part).returncode == 0
    again = changes | {"OUTPUT_DIR": tmp_path / "part"}
    (tmp_path / "part/model_final.pth").rename(tmp_path / "part/model_0000005.pth")
    (tmp_path / "part/last_checkpoint").write_text("model_0000005.pth")
    done = train_net(shapes, "--resume", changes=again)
    assert done.returncode == 0, done.stderr
    resumed = load_checkpoint(tmp_path / "part/model_best.pth")
    assert resumed.rest["best"] == about
    assert all(torch.equal(each, resumed.model[name]) for name, each in best.model.items())

    weights = tmp_path / "whole/model_best.pth"
    evaluated = {"MODEL.WEIGHTS": weights, "OUTPUT_DIR": tmp_path / "eval", "TEST.REPORT": False}
    assert train_net(shapes, "--eval-only", changes=evaluated).returncode == 0


@pytest.mark.slow_suite
@pytest.mark.parametrize("processes", [1, 2])
def test_patience_ends_the_training(shapes, tmp_path, processes):
    """Nothing is learned with this learning rate: the first evaluation stays the best."""
    changes = EVALUATED | {
        "SOLVER.BASE_LR": 1e-12,
        "MODEL.RANDWIRE.NORM": "FrozenBN",
        "SOLVER.EMA_DECAY": 0.0,
        "TEST.BEST_METRIC": "bbox/AP",
        "TEST.PATIENCE": 2,
        "TEST.LOSS": False,
        "OUTPUT_DIR": tmp_path,
    }
    if processes == 1:
        done = train_net(shapes, changes=changes)
    else:
        done = in_two("--num-gpus", shapes, **changes)
    assert done.returncode == 0, done.stderr
    assert "Ended after iteration 6 of 12" in done.stdout and "Traceback" not in done.stdout
    assert load_checkpoint(tmp_path / "model_best.pth").rest["best"]["iteration"] == 2
    assert load_checkpoint(tmp_path / "model_final.pth").rest["iteration"] == 5
    (row,) = read_evaluations([tmp_path], pytest.fail)  # it is a result as any other
    assert is_finished(read_record(tmp_path)) and row


def test_only_better_is_kept_and_nan_is_not(tmp_path):
    cfg = tiny_config(
        **{"TEST.BEST_METRIC": "bbox/AP", "TEST.EVAL_PERIOD": 5, "TEST.PATIENCE": 2},
        OUTPUT_DIR=tmp_path,
    )
    checkpointer = build_checkpointer(cfg, build_model(cfg))
    best = Best(cfg, checkpointer, ALONE)
    kept = []
    for iteration, score in [(5, float("nan")), (10, 3.0), (15, 3.0), (20, 4.0), (25, 1.0)]:
        best.consider({"bbox": {"AP": score}}, iteration)
        path = tmp_path / "model_best.pth"
        kept.append(load_checkpoint(path).rest["best"]["score"] if path.exists() else None)
    assert kept == [None, 3.0, 3.0, 4.0, 4.0]
    assert [best.is_over(each) for each in (25, 29, 30, 35)] == [False, False, True, True]
    with pytest.raises(UserError, match=r"bbox/AP.*has bbox/AP50"):
        best.consider({"bbox": {"AP50": 1.0}}, 30)

    resumed = Best(cfg, checkpointer, ALONE)
    resumed.resume(22)
    assert str(resumed) == str(best)
    earlier = Best(cfg, checkpointer, ALONE)
    earlier.resume(15)  # what was best came later, and comes again
    earlier.consider({"bbox": {"AP": 3.0}}, 20)
    assert load_checkpoint(tmp_path / "model_best.pth").rest["best"]["score"] == 3.0
    (tmp_path / "model_best.pth").write_bytes(b"broken")
    Best(cfg, checkpointer, ALONE).resume(22)


@pytest.mark.parametrize(
    "changes",
    [
        {"TEST.BEST_METRIC": "AP"},
        {"TEST.BEST_METRIC": "segm/AP"},
        {"TEST.BEST_METRIC": "validation/total_loss"},
        {"TEST.BEST_METRIC": "bbox/AP", "TEST.EVAL_PERIOD": 0},
        {"TEST.BEST_METRIC": "bbox/AP", "DATASETS.TEST": "()"},
        {"TEST.BEST_METRIC": "bbox/AP", "DATASETS.TEST": "('one', 'two')"},
        {"TEST.PATIENCE": 2},
    ],
)
def test_keys_that_do_not_fit_are_named(changes):
    usual = {"TEST.EVAL_PERIOD": 5, "DATASETS.TEST": "('one',)"}
    (key, value) = next(iter(changes.items()))
    with pytest.raises(UsageError, match=f"{key} {value}: expected"):
        check_best(tiny_config(**usual | changes))


@pytest.mark.slow_suite
def test_the_command_says_so_before_it_begins(shapes, tmp_path):
    done = train_net(shapes, changes={"TEST.BEST_METRIC": "AP", "OUTPUT_DIR": tmp_path / "out"})
    refused(done, 2, "TEST.BEST_METRIC AP", "bbox/AP")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def cfg(shapes):
    cfg = tiny_config(**RUN | {"MODEL.DEVICE": "cpu", "MODEL.RANDWIRE.NORM": "BN"})
    register_coco_datasets(cfg, str(shapes))
    yield cfg
    DatasetCatalog.pop("shapes")
    MetadataCatalog.pop("shapes")


def test_losses_are_those_of_the_heads_and_nothing_is_left_behind(cfg):
    model = build_model(cfg).train()
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with EventStorage() as storage:
        found = validation_losses(cfg, model, ALONE)
        assert not storage.histories()
    assert found == validation_losses(cfg, model, ALONE)
    assert torch.equal(torch.get_rng_state(), rng) and model.training
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert found["total_loss"] == pytest.approx(sum(found.values()) / 2)
    assert found.keys() == {
        *("total_loss", "loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc")
    }
    pictures = [batch[0]["image"].shape for batch in TestLoader(cfg, "shapes", ALONE)]
    assert len(pictures) == 4
