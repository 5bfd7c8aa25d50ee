"""detectron2's checkpointer, which refuses what does not fit and never leaves half a file."""

import logging
import os
from pathlib import Path

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from torch import nn

from ..checkpoint import (
    Preprocessing,
    check_same_preprocessing,
    load_checkpoint,
    replace_file,
    save_checkpoint,
)
from ..errors import UserError
from ..network import RandWire
from ..spec_config import check_same_spec

logger = logging.getLogger(__name__)
CHECKPOINTS = "model_*.pth"
# What of `Preprocessing` a detection config sets; its image size is the detector's own.
PREPROCESSING_KEYS = {
    "channel_order": "INPUT.FORMAT",
    "mean": "MODEL.PIXEL_MEAN",
    "std": "MODEL.PIXEL_STD",
}


class RandWireCheckpointer(DetectionCheckpointer):
    """Loads a classifier's file into a detector, and a detector's own files, each after a check.

    Of a classifier the head is left out by name, and every tensor of the trunk must be there. A
    detector's file must hold every tensor of the model on `--resume` and for an evaluation; as the
    start of another training it may have other classes, as usual in detectron2.

    Args:
        model: a detector with a RandWire trunk in it.
        save_dir: OUTPUT_DIR.
        preprocessing: what the detector's config does to an image.
        classes: names of the dataset's classes, kept in the file.
        checkpointables: as in detectron2.

    Raises:
        UserError: a model without a RandWire trunk; on loading, a file that is missing, damaged, of
            another network, another preprocessing or another kind of normalisation.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        preprocessing: Preprocessing,
        classes: list[str] | None = None,
        save_to_disk: bool | None = None,
        **checkpointables,
    ):
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.preprocessing = preprocessing
        self.classes = classes
        trunks = [
            (name, module)
            for name, module in self.model.named_modules()
            if isinstance(module, RandWire)
        ]
        if len(trunks) != 1:
            raise UserError(
                f"the model holds {len(trunks)} RandWire trunks, expected one; is"
                " MODEL.BACKBONE.NAME one of randwire_det's builders?"
            )
        self.trunk_name, self.trunk = trunks[0]

    def save(self, name: str, **kwargs) -> None:
        if not self.save_dir or not self.save_to_disk:
            return
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {path}")
        save_checkpoint(
            path,
            kind="detector",
            model=self.model.state_dict(),
            spec=self.trunk.spec,
            preprocessing=self.preprocessing,
            classes=self.classes,
            **{key: value.state_dict() for key, value in self.checkpointables.items()},
            **kwargs,
        )
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        # fvcore truncates the file first: a kill at that moment would lose the run's trace.
        text = last_filename_basename.encode()
        replace_file(Path(self.save_dir) / "last_checkpoint", lambda file: file.write(text))

    def has_checkpoint(self) -> bool:
        return any(Path(self.save_dir).glob(CHECKPOINTS))

    def get_checkpoint_file(self) -> str:
        return str(newest_checkpoint(self.save_dir) or "")

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict:
        if path and "://" not in path and not os.path.isfile(path):
            raise UserError(f"MODEL.WEIGHTS {path}: no such checkpoint file")
        self.whole = checkpointables is None
        return super().load(path, checkpointables)

    def _load_file(self, filename: str) -> dict:
        data = load_checkpoint(filename)
        check_same_spec(data["spec"], self.trunk.spec, filename, "MODEL.RANDWIRE")
        check_same_preprocessing(
            data["preprocessing"], self.preprocessing, filename, PREPROCESSING_KEYS
        )
        if data["kind"] == "classifier" and self.whole:
            raise UserError(
                f"{filename} is a classifier, not a detector: it can start a training as"
                " MODEL.WEIGHTS, but cannot be evaluated or resumed"
            )
        data["matching_heuristics"] = False
        data["filename"] = filename
        return data

    def _load_model(self, checkpoint: dict) -> None:
        filename, theirs = checkpoint.pop("filename"), checkpoint.pop("model")
        if checkpoint["kind"] == "classifier":
            left_out = [name for name in theirs if name.startswith("head.")]
            theirs = {
                f"{self.trunk_name}.{name.removeprefix('trunk.')}": tensor
                for name, tensor in theirs.items()
                if name.startswith("trunk.")
            }
        else:
            left_out = []
        ours = self.model.state_dict()
        in_trunk = [name for name in ours if name.startswith(f"{self.trunk_name}.")]
        fits = {
            name: tensor
            for name, tensor in theirs.items()
            if name in ours and ours[name].shape == tensor.shape
        }
        needed = list(ours) if self.whole else in_trunk
        # Counters of BN: they change no output, and a frozen BN has none.
        missing = [
            name for name in needed if name not in fits and not name.endswith("num_batches_tracked")
        ]
        if missing:
            raise UserError(
                f"{filename} does not hold all of this model: {len(missing)} of {len(needed)}"
                f" tensors are missing or of another shape, such as {missing[0]}"
            )
        self._refuse_lost_statistics(theirs, ours, filename)
        self.model.load_state_dict(fits, strict=False)
        matched = sum(name in fits for name in in_trunk)
        others = len(fits) - matched
        self.logger.info(
            f"Loaded {filename}: {matched} of {len(in_trunk)} trunk tensors and {others} others;"
            f" left out {len(left_out)} of the classifier's head;"
            f" {len(ours) - len(fits)} tensors of the detector start fresh."
            f" Network: {self.trunk.spec.describe()}"
        )

    def _refuse_lost_statistics(self, theirs: dict, ours: dict, filename: str) -> None:
        """BN's scale and shift mean nothing without its statistics, as under GN."""
        built = tuple(f"{self.trunk_name}.{name}." for name in self.trunk.stage_names)
        for name in theirs:
            if name.startswith(built) and name.endswith("running_mean") and name not in ours:
                raise UserError(
                    f"{filename} was trained with BN, but this model's {name.rpartition('.')[0]}"
                    " keeps no BN statistics; set MODEL.RANDWIRE.NORM to FrozenBN, BN or SyncBN"
                )


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The checkpoint that `last_checkpoint` names, or else the newest one that is whole.

    Returns:
        its path; None where there is none.

    Raises:
        UserError: there are some, and none can be read.
    """
    folder = Path(folder)
    found = sorted(folder.glob(CHECKPOINTS), reverse=True)  # model_final.pth comes first
    tag = folder / "last_checkpoint"
    named = tag.read_text(encoding="utf-8", errors="replace").strip() if tag.is_file() else ""
    found.sort(key=lambda path: path.name != named)
    problems = []
    for path in found:
        try:
            load_checkpoint(path)
        except UserError as error:
            logger.warning(f"passed over {error}")
            problems.append(str(error))
        else:
            return path
    if problems:
        raise UserError(f"no checkpoint in {folder} can be read, the newest because: {problems[0]}")
    return None


def preprocessing_from_config(cfg: CfgNode) -> Preprocessing:
    """What a detection config does to an image; its input size is that of tests."""
    return Preprocessing(
        channel_order=cfg.INPUT.FORMAT,
        mean=tuple(cfg.MODEL.PIXEL_MEAN),
        std=tuple(cfg.MODEL.PIXEL_STD),
        input_size=cfg.INPUT.MIN_SIZE_TEST,
    )
