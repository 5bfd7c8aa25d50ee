"""Resuming a run: finds its newest checkpoint, and refuses one that does not fit the config."""

from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from randwire_det.config import same_result
from randwire_det.config.network_keys import check_same_spec, stored_values
from randwire_det.errors import UsageError, UserError
from randwire_det.run.checkpoint import Checkpoint, load_checkpoint, newest_readable
from randwire_det.run.classes import check_same_classes
from randwire_det.run.folder import refuse_used
from randwire_det.spec import NetworkSpec

from .config import get_cfg
from .data import ClassFolders

CHECKPOINT = "checkpoint_{:08d}.pth"  # of an iteration; holds everything needed to resume
FINAL, BEST = "model_final.pth", "model_best.pth"  # weights only
KINDS = "classifier", "baseline"  # of the checkpoints that pretraining writes
FREE = (*same_result.PRETRAINING, "SOLVER.ACCUMULATE")  # what a resumed run may change


@dataclass
class Progress:
    """The state of a run that a checkpoint keeps besides tensors, as plain data.

    Attributes:
        iteration: number of finished iterations.
        epoch_length: iterations per epoch.
        train_images, train_digest: size and `ClassFolders.digest` of the training set.
        processes: number of processes that train together.
        bad_images: number of unreadable images so far.
        losses: one per iteration since the last report.
        top1, top5: percent, of the latest evaluation; None before the first.
        best_top1, best_epoch: of the best evaluation; None before the first.
    """

    epoch_length: int
    train_images: int
    train_digest: str
    processes: int
    iteration: int = 0
    bad_images: int = 0
    losses: list[float] = field(default_factory=list)
    top1: float | None = None
    top5: float | None = None
    best_top1: float | None = None
    best_epoch: int | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Progress":
        """The progress in a checkpoint of `find_checkpoint`."""
        return cls(**{each.name: checkpoint.progress[each.name] for each in fields(cls)})

    def to_dict(self) -> dict:
        return vars(self) | {"epoch": self.iteration // self.epoch_length}


def architecture(cfg: CfgNode, spec: NetworkSpec | None) -> dict:
    """The arguments of `save_checkpoint` that identify the network."""
    if spec is not None:
        return {"kind": "classifier", "spec": spec}
    baseline = {"name": cfg.MODEL.NAME, "width": cfg.MODEL.WIDTH}
    return {"kind": "baseline", "spec": None, "architecture": baseline}


def checkpoints(output: Path) -> list[Path]:
    """The paths of a run's checkpoints, newest first."""
    return sorted(output.glob("checkpoint_*.pth"), reverse=True)


def find_checkpoint(output: Path, resume: bool) -> tuple[Checkpoint | None, list[str]]:
    """Read the newest checkpoint in `output` that can be read.

    Returns:
        the checkpoint, or None if there is none; and why newer files were passed over.

    Raises:
        UsageError: there is a checkpoint and `resume` is False, or there are only the weights of a
            finished run.
        UserError: none of the checkpoints can be read.
    """
    refuse_used(output, resume=resume)
    problems = []
    checkpoint = newest_readable(checkpoints(output), _load_resumable, problems.append)
    if checkpoint is None and (output / FINAL).exists():
        raise UsageError(
            f"{output / FINAL} belongs to a finished run, and there is no checkpoint to resume"
            " from: choose another OUTPUT_DIR"
        )
    return checkpoint, problems


def _load_resumable(path: Path) -> Checkpoint:
    checkpoint = load_checkpoint(path, kinds=KINDS)
    if not {"optimizer", "scaler"} <= checkpoint.rest.keys():
        raise UserError(f"{path}: holds no state of a training run to resume from")
    return checkpoint


def check_same_run(
    checkpoint: Checkpoint, cfg: CfgNode, spec: NetworkSpec | None, train_data: ClassFolders
) -> None:
    """Refuse to resume with another network, recipe or data set than the checkpoint's.

    Raises:
        UserError: names both values and what to change.
    """
    check_same_network(checkpoint, cfg, spec)
    path, progress = checkpoint.path, Progress.of(checkpoint)
    # A key that is newer than the checkpoint has a default that leaves older runs as they were.
    theirs = stored_values(get_cfg().dump()) | stored_values(checkpoint.config)
    ours = stored_values(cfg.dump())
    for key in sorted(theirs.keys() | ours.keys()):
        if not key.startswith(FREE) and theirs.get(key) != ours.get(key):
            raise UserError(
                f"{path} was trained with {key} {theirs.get(key)}, the config says {ours.get(key)}:"
                f" set {key} {theirs.get(key)}, or choose another OUTPUT_DIR"
            )
    check_same_classes(path, checkpoint.classes, cfg.DATA.ROOT, train_data.classes)
    if progress.train_digest != train_data.digest:
        raise UserError(
            f"{path} was trained on {progress.train_images} images, DATA.ROOT"
            f" {cfg.DATA.ROOT} holds {len(train_data)}, or other file names or classes: an epoch"
            " would differ"
        )


def check_same_network(checkpoint: Checkpoint, cfg: CfgNode, spec: NetworkSpec | None) -> None:
    """Refuse a checkpoint of another network than the config's.

    Raises:
        UserError: names both networks and the keys to change.
    """
    ours, path = architecture(cfg, spec), checkpoint.path
    if checkpoint.kind == ours["kind"] == "classifier":
        check_same_spec(checkpoint.spec, spec, path)
    elif checkpoint.kind == ours["kind"]:
        theirs = checkpoint.architecture
        if theirs != ours["architecture"]:
            raise UserError(
                f"{path} holds a {theirs['name']} of width {theirs['width']}: set MODEL.NAME"
                f" {theirs['name']} MODEL.WIDTH {theirs['width']}"
            )
    else:
        name = "randwire" if spec is None else checkpoint.architecture["name"]
        raise UserError(
            f"{path} holds a {name}, MODEL.NAME is {cfg.MODEL.NAME}: set MODEL.NAME {name}"
        )


def load_weights(path: str, weights: dict, model: torch.nn.Module) -> None:
    """Load a state dict from the file `path`.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip()
        raise UserError(f"{path} does not fit the network of MODEL.*: {problem}") from None
