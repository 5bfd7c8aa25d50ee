"""Values of a config that detectron2 would stop on with a traceback, told in one line each."""

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler

from ..config_files import flat
from ..errors import UsageError
from ..parallel import World

LOWEST = {"SOLVER.MAX_ITER": 1, "SOLVER.IMS_PER_BATCH": 1, "SOLVER.CHECKPOINT_PERIOD": 1}
CHOICES = {
    "INPUT.FORMAT": ("RGB", "BGR"),
    "DATALOADER.SAMPLER_TRAIN": (
        "TrainingSampler",
        "RepeatFactorTrainingSampler",
        "RandomSubsetTrainingSampler",
    ),
}
SCHEDULE = ("LR_SCHEDULER_NAME", "STEPS", "MAX_ITER", "WARMUP_ITERS", "WARMUP_METHOD")


def value_of(cfg: CfgNode, key: str):
    """The value of a key with dots."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def check_values(cfg: CfgNode) -> None:
    """Look at single values.

    Raises:
        UsageError: naming the key, its value and what was expected.
    """
    for key, lowest in LOWEST.items():
        if value_of(cfg, key) < lowest:
            raise UsageError(f"{key} {value_of(cfg, key)}: expected {lowest} or more")
    for key, choices in CHOICES.items():
        if value_of(cfg, key) not in choices:
            raise UsageError(f"{key} {value_of(cfg, key)!r}: expected {' or '.join(choices)}")
    if not cfg.SOLVER.BASE_LR > 0:
        raise UsageError(f"SOLVER.BASE_LR {cfg.SOLVER.BASE_LR}: expected a number above 0")
    if not 0 <= cfg.SOLVER.EMA_DECAY < 1:
        raise UsageError(
            f"SOLVER.EMA_DECAY {cfg.SOLVER.EMA_DECAY}: expected a number from 0 to below 1"
        )
    if not cfg.OUTPUT_DIR:
        raise UsageError("OUTPUT_DIR '': expected a folder for what the run writes")
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    if not sizes or not all(isinstance(each, int) and each > 0 for each in sizes):
        raise UsageError(f"INPUT.MIN_SIZE_TRAIN {sizes}: expected sizes in pixels, such as (800,)")
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(cfg.MODEL[key]) != 3:
            raise UsageError(f"MODEL.{key} {cfg.MODEL[key]}: expected three numbers, one a channel")
    _check_schedule(cfg)


def _check_schedule(cfg: CfgNode) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    try:
        build_lr_scheduler(cfg, optimizer)
    except (ValueError, TypeError) as error:
        values = ", ".join(f"{name} {cfg.SOLVER[name]}" for name in SCHEDULE)
        raise UsageError(
            f"SOLVER's schedule ({values}): {error}; expected a scheduler of detectron2, and STEPS"
            " that ascend and lie below MAX_ITER"
        ) from None


def check_same_config(cfg: CfgNode, world: World) -> None:
    """Refuse processes, of several machines mostly, that were not started with the same keys.

    Raises:
        UsageError: naming the keys that differ.
    """
    texts = world.gather([cfg.dump()])
    for text in texts[1:]:
        first, other = (flat(yaml.safe_load(each)) for each in (texts[0], text))
        keys = sorted(key for key in first | other if first.get(key) != other.get(key))
        if keys:
            listed = ", ".join(f"{key} ({first.get(key)} and {other.get(key)})" for key in keys[:5])
            raise UsageError(f"the processes' configs differ in {listed}; start all with the same")
