"""A training goes on by the recipe that it was begun with, or not at all."""

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from ..config import same_result
from ..config.files import flat
from ..config.network_keys import add_spec_config
from ..errors import UserError
from ..run.checkpoint import Checkpoint
from ..run.parallel import current_world
from .stored_config import config_of

# What a resumed run may change: how long it is, and how it is run and tested.
FREE = (*same_result.DETECTION, "SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.ACCUMULATE", "TEST.")
FOR_TESTS = "_TEST"  # the ending of keys that only a test reads


def check_same_recipe(checkpoint: Checkpoint, cfg: CfgNode) -> None:
    """Refuse to resume with another config than the checkpoint's, and to end before it.

    Args:
        cfg: as given; SEED < 0 stands for the seed that was drawn.

    Raises:
        UserError: names both values and what to change.
    """
    path, done = checkpoint.path, checkpoint.rest.get("iteration", -1) + 1
    ours = DefaultTrainer.auto_scale_workers(cfg, current_world().size)
    if done > ours.SOLVER.MAX_ITER:
        raise UserError(
            f"{path} has {done} iterations behind it, SOLVER.MAX_ITER is"
            f" {ours.SOLVER.MAX_ITER}: set {done} or more, or choose another OUTPUT_DIR"
        )
    if checkpoint.config is None:  # of an older version
        return
    theirs, values = flat(config_of(checkpoint)), flat(ours)
    network = tuple(f"MODEL.RANDWIRE.{key}" for key in _spec_keys())  # the spec is compared as such
    for key, value in values.items():
        if key.startswith((*FREE, *network)) or key.endswith(FOR_TESTS):
            continue
        if key == "SEED" and value < 0:
            continue
        stored = theirs.get(key, value)
        if not _equal(stored, value):
            raise UserError(
                f"{path} was trained with {key} {stored}, the config says {value}: set {key}"
                f" {stored}, or choose another OUTPUT_DIR"
            )


def _spec_keys() -> list[str]:
    node = CfgNode()
    add_spec_config(node)
    return list(node)


def _equal(one, other) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other
