"""What a run needs to go on is in one checkpoint, and nothing goes on that does not fit it."""

from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from randwire_det.config import same_result
from randwire_det.config.network_keys import check_same_spec, stored_values
from randwire_det.errors import UsageError, UserError
from randwire_det.run.checkpoint import Checkpoint, load_checkpoint
from randwire_det.run.classes import check_same_classes
from randwire_det.run.folder import refuse_used
from randwire_det.spec import NetworkSpec

from .data import ClassFolders

CHECKPOINT = "checkpoint_{:08d}.pth"  # of an iteration; holds all that it takes to go on
FINAL, BEST = "model_final.pth", "model_best.pth"  # weights alone
KINDS = "classifier", "baseline"  # of checkpoint that a pretraining writes
FREE = (*same_result.PRETRAINING, "SOLVER.ACCUMULATE")  # what a resumed run may change


@dataclass
class Progress:
    """How far a run is: all that a checkpoint keeps of it besides tensors, as plain data.

    Attributes:
        iteration: finished iterations.
        epoch_length: iterations of an epoch.
        train_images, train_digest: of the training set: images of an epoch, and their names.
        processes: that train it together.
        bad_images: unreadable images met.
        losses: since the last line of the log.
        top1, top5, best_top1, best_epoch: accuracies in percent, of the latest evaluation and the
            best; None before the first.
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
        """That of a checkpoint to go on from, of `find_checkpoint`."""
        return cls(**{each.name: checkpoint.progress[each.name] for each in fields(cls)})

    def to_dict(self) -> dict:
        return vars(self) | {"epoch": self.iteration // self.epoch_length}


def architecture(cfg: CfgNode, spec: NetworkSpec | None) -> dict:
    """What a checkpoint says of the network, as arguments of `save_checkpoint`."""
    if spec is not None:
        return {"kind": "classifier", "spec": spec}
    named = {"name": cfg.MODEL.NAME, "width": cfg.MODEL.WIDTH}
    return {"kind": "baseline", "spec": None, "architecture": named}


def checkpoints(output: Path) -> list[Path]:
    """Those of a run, newest first."""
    return sorted(output.glob("checkpoint_*.pth"), reverse=True)


def find_checkpoint(output: Path, resume: bool) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint in `output` that can be read, if the run is to go on from one.

    Returns:
        it, or None where there is none, and why newer ones were passed over.

    Raises:
        UsageError: there is one and `resume` is not set, or only the weights of a finished run.
        UserError: there are some, and none can be read.
    """
    refuse_used(output, resume=resume)
    problems = []
    for path in checkpoints(output):
        try:
            checkpoint = load_checkpoint(path, kinds=KINDS)
            if not {"optimizer", "scaler"} <= checkpoint.rest.keys():
                raise UserError(f"{path}: holds no state of a training run to go on from")
            return checkpoint, problems
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(
            f"no checkpoint in {output} can be read, the newest because: {problems[0]};"
            " without them, --resume starts anew"
        )
    if (output / FINAL).exists():
        raise UsageError(
            f"{output / FINAL} is of a finished run, and there is no checkpoint to go on from:"
            " choose another OUTPUT_DIR"
        )
    return None, []


def check_same_run(
    checkpoint: Checkpoint, cfg: CfgNode, spec: NetworkSpec | None, train_data: ClassFolders
) -> None:
    """Refuse to go on with another network, recipe or data set than the checkpoint's.

    Raises:
        UserError: naming both sides and what to change.
    """
    check_same_network(checkpoint, cfg, spec)
    path, progress = checkpoint.path, Progress.of(checkpoint)
    then, now = stored_values(checkpoint.config), stored_values(cfg.dump())
    for key in sorted(then.keys() | now.keys()):
        if not key.startswith(FREE) and then.get(key) != now.get(key):
            raise UserError(
                f"{path} was trained with {key} {then.get(key)}, the config says {now.get(key)}:"
                f" set {key} {then.get(key)}, or choose another OUTPUT_DIR"
            )
    check_same_classes(path, checkpoint.classes, cfg.DATA.ROOT, train_data.classes)
    if progress.train_digest != train_data.digest:
        raise UserError(
            f"{path} was trained on {progress.train_images} images, DATA.ROOT"
            f" {cfg.DATA.ROOT} holds {len(train_data)}, or some by other names or in other classes:"
            " an epoch would be another one"
        )


def check_same_network(checkpoint: Checkpoint, cfg: CfgNode, spec: NetworkSpec | None) -> None:
    """Raises UserError where the checkpoint is not of the network of the config."""
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
    """Raises UserError where a tensor is missing, superfluous or of another shape."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip()
        raise UserError(f"{path} does not fit the network of MODEL.*: {problem}") from None
