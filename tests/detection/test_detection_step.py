"""One iteration of a detector's training: clipping, a scaled loss, AMP, the weight average."""

import copy
import itertools
import logging
from statistics import median

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detection_helpers import RUN, one_input, tiny_config
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage

from randwire_det.coco.datasets import register_coco_datasets
from randwire_det.detection.step import TrainStep, amp_dtype
from randwire_det.detection.trainer import RandWireTrainer
from randwire_det.errors import UserError
from randwire_det.run.average import WeightAverage
from randwire_det.run.parallel import World

# A change of the weights is then -BASE_LR times what became of the gradient.
PLAIN = {"SOLVER.BASE_LR": 0.01, "SOLVER.MOMENTUM": 0.0, "SOLVER.WEIGHT_DECAY": 0.0}


@pytest.fixture(scope="module")
def detector():
    """A tiny detector, for copies, and one batch."""
    torch.manual_seed(0)
    return build_model(tiny_config()), [one_input(), one_input()]


def step_of(detector, *, amp=None, parts=1, decay=0.0, **changes):
    """A `TrainStep` on a copy of the detector, with the optimizer of a config."""
    model, batch = copy.deepcopy(detector)
    cfg = tiny_config(**PLAIN | changes)
    return TrainStep(
        model,
        itertools.repeat(batch),
        build_optimizer(cfg, model),
        seed=1,
        amp=amp,
        parts=parts,
        world=World(),
        average=WeightAverage(model, decay) if decay else None,
    )


def run(step, iterations=1, after=lambda iteration: None):
    """Some iterations; the total loss of each."""
    losses = []
    with EventStorage() as storage:
        for step.iter in range(iterations):
            step.run_step()
            losses.append(storage.latest()["total_loss"][0])
            after(step.iter)
    return losses


def moved(step, detector):
    """By how much each parameter has changed, in units of the learning rate."""
    before = dict(detector[0].named_parameters())
    return {
        name: (before[name] - after).detach() / PLAIN["SOLVER.BASE_LR"]
        for name, after in step.model.named_parameters()
    }


@pytest.fixture(scope="module")
def gradients(detector):
    """Of every parameter, from an iteration that clips none."""
    step = step_of(detector)
    run(step)
    return {name: parameter.grad for name, parameter in step.model.named_parameters()}


# --- clipping


def by_norm(gradients):
    """As detectron2 does it, each parameter for itself: in the same direction, no longer than."""
    limit = median(gradient.norm().item() for gradient in gradients.values())
    return limit, {
        name: gradient * min(1, limit / (gradient.norm().item() or 1))
        for name, gradient in gradients.items()
    }


def by_value(gradients):
    limit = torch.cat([each.abs().flatten() for each in gradients.values()]).median().item()
    return limit, {name: each.clamp(-limit, limit) for name, each in gradients.items()}


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled-loss"])
@pytest.mark.parametrize(("kind", "clip"), [("norm", by_norm), ("value", by_value)])
def test_gradients_are_clipped_after_they_are_unscaled(detector, gradients, kind, clip, scaled):
    limit, expected = clip(gradients)
    keys = {"ENABLED": True, "CLIP_TYPE": kind, "CLIP_VALUE": limit}
    step = step_of(detector, **{f"SOLVER.CLIP_GRADIENTS.{key}": keys[key] for key in keys})
    if scaled:
        step._scaler = torch.amp.GradScaler("cpu", init_scale=1024)
    run(step)
    torch.testing.assert_close(moved(step, detector), expected, rtol=1e-3, atol=2e-5)
    touched = [not torch.equal(expected[name], gradients[name]) for name in expected]
    assert any(touched)
    assert not all(touched)


# --- AMP


def test_amp_on_the_cpu_learns_as_without_it(detector):
    plain, amp = step_of(detector), step_of(detector, amp=torch.bfloat16)
    ours, theirs = run(amp, 3), run(plain, 3)
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.02)
    assert {parameter.dtype for parameter in amp.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("device", "changes", "dtype"),
    [
        ("cuda", {}, None),
        ("cuda", {"SOLVER.AMP.ENABLED": True}, torch.float16),
        ("cpu", {"SOLVER.AMP.ENABLED": True}, torch.bfloat16),
        ("cuda:1", {"SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": "bf16"}, torch.bfloat16),
        ("cpu", {"SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": "fp16"}, torch.float16),
    ],
)
def test_the_dtype_of_amp_is_that_of_the_config(device, changes, dtype):
    assert amp_dtype(tiny_config(**{"MODEL.DEVICE": device} | changes)) is dtype


# --- a batch in parts


def losses_and_gradients(detector, parts, rank=0):
    """The slow way: each part by itself, the same random draws, the mean of the results."""
    model, batch = copy.deepcopy(detector)
    torch.manual_seed(int(np.random.SeedSequence(1, spawn_key=(0, rank)).generate_state(1)[0]))
    total, size = 0, len(batch) // parts
    for at in range(0, len(batch), size):
        with EventStorage():
            loss = sum(model(batch[at : at + size]).values()) / parts
        loss.backward()
        total += loss.item()
    return total, {name: each.grad for name, each in model.named_parameters()}


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_batch_in_parts_is_the_mean_of_its_parts(detector, parts):
    model, batch = detector
    several = model, batch * 2
    step = step_of(several, parts=parts)
    (loss,) = run(step)
    expected, gradients = losses_and_gradients(several, parts)
    assert loss == pytest.approx(expected, rel=1e-5)
    ours = {name: each.grad for name, each in step.model.named_parameters()}
    torch.testing.assert_close(ours, gradients)


def step_in_two(rank, detector, folder):
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.set_num_threads(1)
    world = World(rank, 2)
    step = step_of(detector, parts=2)
    step.world, step.model, step.iter = world, world.parallel(step.model), 0
    with EventStorage():
        step.run_step()
    gradients = {name: each.grad for name, each in step.model.module.named_parameters()}
    torch.save(gradients, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.slow_suite
def test_two_processes_with_parts_have_the_mean_of_their_gradients(detector, tmp_path):
    torch.multiprocessing.spawn(step_in_two, (detector, str(tmp_path)), nprocs=2)
    alone = [losses_and_gradients(detector, 2, rank)[1] for rank in (0, 1)]
    expected = {name: (alone[0][name] + alone[1][name]) / 2 for name in alone[0]}
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pth"), expected)


# --- average


def test_the_average_is_that_of_a_plain_loop(detector):
    step = step_of(detector, decay=0.3)
    expected = {name: each.clone() for name, each in detector[0].state_dict().items()}

    def take_in(iteration):
        decay = min(0.3, (2 + iteration) / (11 + iteration))
        for name, latest in step.model.state_dict().items():
            old = expected[name]
            average = old * decay + latest * (1 - decay)
            expected[name] = average if old.is_floating_point() else latest.clone()

    run(step, 4, take_in)
    average = step.average.model.state_dict()
    torch.testing.assert_close(dict(average), expected)
    latest = step.model.state_dict()
    assert any(not torch.equal(average[name], latest[name]) for name in average)
    assert not step.average.model.training


# --- the number of processes


@pytest.fixture
def registered(shapes):
    cfg = tiny_config(**RUN | {"MODEL.DEVICE": "cpu"})
    register_coco_datasets(cfg, str(shapes))
    yield
    DatasetCatalog.pop("shapes")
    MetadataCatalog.pop("shapes")


def test_half_as_many_processes_train_twice_as_long_on_half_a_batch(
    registered, tmp_path, caplog, monkeypatch
):
    schedule = {
        "SOLVER.REFERENCE_WORLD_SIZE": 2,
        "SOLVER.IMS_PER_BATCH": 4,
        "SOLVER.BASE_LR": 0.02,
        "SOLVER.MAX_ITER": 6,
        "SOLVER.STEPS": "(4,)",
        "SOLVER.WARMUP_ITERS": 2,
    }
    cfg = tiny_config(**RUN | schedule | {"MODEL.DEVICE": "cpu", "OUTPUT_DIR": tmp_path})
    monkeypatch.setattr(logging.getLogger("randwire_det"), "propagate", True)
    with caplog.at_level("INFO", "randwire_det"):
        trainer = RandWireTrainer(cfg)
    theirs = DefaultTrainer.auto_scale_workers(cfg, 1)
    assert trainer.cfg == theirs
    solver = trainer.cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.MAX_ITER, trainer.max_iter) == (2, 12, 12)
    assert (solver.BASE_LR, solver.STEPS, solver.WARMUP_ITERS) == (0.01, (8,), 4)
    for key in ("IMS_PER_BATCH 2", "BASE_LR 0.01", "MAX_ITER 12", "STEPS (8,)", "WARMUP_ITERS 4"):
        assert key in caplog.text
    assert len(next(iter(trainer.data_loader))) == 2
    ours, optimizer = trainer.optimizer, build_optimizer(theirs, trainer.model)
    scheduler = build_lr_scheduler(theirs, optimizer)
    for _ in range(solver.MAX_ITER):
        assert ours.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        for each in (ours, trainer.scheduler, optimizer, scheduler):
            each.step()


def test_an_optimizer_of_other_parameters_is_refused(detector):
    """Such as one from before the aggregation weights had a group of their own."""
    step = step_of(detector)
    state = step_of(detector).state_dict()
    step.load_state_dict(state)
    groups = state["optimizer"]["param_groups"]
    groups[0]["params"] += groups.pop()["params"]
    with pytest.raises(UserError, match="optimizer does not fit"):
        step.load_state_dict(state)
