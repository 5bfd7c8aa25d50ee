"""What a run needs to go on is in one checkpoint, and nothing goes on that does not fit it."""

from pathlib import Path

import torch
import yaml
from fvcore.common.config import CfgNode

from randwire_det.checkpoint import load_checkpoint
from randwire_det.errors import UsageError, UserError
from randwire_det.spec import NetworkSpec
from randwire_det.spec_config import check_same_spec

from .config import flatten
from .data import check_same_classes

LAST, FINAL = "checkpoint_last.pth", "model_final.pth"
# What a resumed run may change: keys (or their beginnings) that leave the weights as they are.
FREE = (
    "DATA.",
    "TEST.",
    "MODEL.WEIGHTS",
    "DEVICE",
    "OUTPUT_DIR",
    "LOG_PERIOD",
    "CHECKPOINT",
    "COMPILE",
    "SOLVER.ACCUMULATE",
)


def find_checkpoint(output: Path, resume: bool) -> dict | None:
    """The last checkpoint in `output` if the run is to go on from one.

    Raises:
        UsageError: there is one and `resume` is not set, or only the weights of a finished run.
        UserError: it cannot be read, or cannot be resumed from.
    """
    found = [name for name in (LAST, FINAL) if (output / name).exists()]
    if found and not resume:
        raise UsageError(
            f"{output / found[0]} exists already: add --resume to go on with that run,"
            " or choose another OUTPUT_DIR"
        )
    if not found:
        return None
    if LAST not in found:
        raise UsageError(
            f"{output / FINAL} is of a finished run, and there is no {LAST} to go on from:"
            " choose another OUTPUT_DIR"
        )
    checkpoint = load_checkpoint(output / LAST)
    if not {"optimizer", "config"} <= checkpoint.keys():
        raise UserError(f"{output / LAST}: holds no state of a training run to go on from")
    return checkpoint


def check_same_run(
    path: Path, checkpoint: dict, cfg: CfgNode, spec: NetworkSpec, classes: list[str], images: int
) -> None:
    """Refuse to go on with another network, recipe or data set than the checkpoint's.

    Raises:
        UserError: naming both sides and what to change.
    """
    check_same_network(path, checkpoint, spec)
    then, now = flatten(yaml.safe_load(checkpoint["config"])), flatten(yaml.safe_load(cfg.dump()))
    for key in sorted(then.keys() | now.keys()):
        if not key.startswith(FREE) and then.get(key) != now.get(key):
            raise UserError(
                f"{path} was trained with {key} {then.get(key)}, the config says {now.get(key)}:"
                f" set {key} {then.get(key)}, or choose another OUTPUT_DIR"
            )
    check_same_classes(str(path), checkpoint["classes"], cfg.DATA.ROOT, classes)
    if checkpoint["progress"]["train_images"] != images:
        raise UserError(
            f"{path} was trained on {checkpoint['progress']['train_images']} images, DATA.ROOT"
            f" {cfg.DATA.ROOT} holds {images}: an epoch would be another one"
        )


def check_same_network(path: Path, checkpoint: dict, spec: NetworkSpec) -> None:
    """Raises UserError where the checkpoint is no classifier, or not of `spec`."""
    if checkpoint["kind"] != "classifier":
        raise UserError(f"{path}: holds a {checkpoint['kind']}, expected a classifier")
    check_same_spec(checkpoint["spec"], spec, str(path), "MODEL")


def load_weights(path: Path, checkpoint: dict, model: torch.nn.Module) -> None:
    """Raises UserError where a tensor is missing, superfluous or of another shape."""
    try:
        model.load_state_dict(checkpoint["model"])
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip()
        raise UserError(f"{path} does not fit the network of MODEL.*: {problem}") from None
