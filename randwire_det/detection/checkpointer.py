"""detectron2's checkpointer, which refuses what does not fit and never leaves half a file."""

import logging
import os
from pathlib import Path

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling.backbone import ResNet
from torch import nn

from ..coco.classes import CURE
from ..config.network_keys import check_same_spec
from ..errors import UserError
from ..network import RandWire
from ..network.resnet_names import detectron2_names
from ..run.average import WeightAverage
from ..run.checkpoint import (
    KINDS,
    Preprocessing,
    check_same_preprocessing,
    fits,
    load_checkpoint,
    replace_file,
    save_checkpoint,
)
from ..run.classes import check_same_classes, few
from ..spec.spec import NetworkSpec
from .preprocessing import PREPROCESSING_KEYS

logger = logging.getLogger(__name__)
CHECKPOINTS = "model_*.pth"


class RandWireCheckpointer(DetectionCheckpointer):
    """Loads a classifier's file into a detector, and a detector's own files, each after a check.

    The backbone holds a RandWire, or detectron2's ResNet, which takes a baseline's file. Of a
    classifier the head is left out by name, and every tensor of the backbone must be there. A
    detector's file must hold every tensor of the model on `--resume` and for an evaluation; as the
    start of another training it may have other classes, as usual in detectron2. Where the file has
    averaged weights, an evaluation or another training takes those.

    Args:
        model: a detector with a RandWire or a ResNet in it.
        save_dir: OUTPUT_DIR.
        preprocessing: what the detector's config does to an image.
        classes: names of the dataset's classes, kept in the file and compared with a file's.
        config: the whole config as YAML, kept in the file.
        average: of the model's weights, kept in the file and resumed with them.
        checkpointables: as in detectron2.

    Raises:
        UserError: a model with neither network; on loading, a file that is missing, damaged, of
            another network, another preprocessing, another kind of normalisation, or other classes.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        preprocessing: Preprocessing,
        classes: list[str] | None = None,
        config: str | None = None,
        average: WeightAverage | None = None,
        save_to_disk: bool | None = None,
        **checkpointables,
    ):
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.preprocessing, self.classes, self.config = preprocessing, classes, config
        self.average = average
        self.trunk_name, self.trunk = _find_trunk(self.model)
        self.spec = self.trunk.spec if isinstance(self.trunk, RandWire) else None

    def save(self, name: str, **kwargs) -> None:
        if not self.save_dir or not self.save_to_disk:
            return
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {path}")
        save_checkpoint(
            path,
            kind="detector",
            model=self.model.state_dict(),
            ema=self.average.model.state_dict() if self.average else None,
            spec=self.spec,
            preprocessing=self.preprocessing,
            classes=self.classes,
            config=self.config,
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
        data = load_checkpoint(filename, kinds=KINDS)
        check_fits(data, filename, self.spec, self.preprocessing)
        check_outputs(data, filename, self.classes, relearned=not self.whole)
        if data["kind"] != "detector" and self.whole:
            raise UserError(
                f"{filename} is a classifier, not a detector: it can start a training as"
                " MODEL.WEIGHTS, but cannot be evaluated or resumed"
            )
        data["matching_heuristics"] = False
        data["filename"] = filename
        return data

    def _load_model(self, checkpoint: dict) -> None:
        filename, kind = checkpoint.pop("filename"), checkpoint["kind"]
        theirs, averaged = checkpoint.pop("model"), checkpoint.pop("ema")
        resuming = self.whole and bool(self.checkpointables)
        if averaged and not resuming:
            theirs = averaged
        head = 0
        if kind != "detector":
            before, theirs = len(theirs), _trunk_tensors(kind, theirs, self.trunk_name)
            head = before - len(theirs)
        ours = self.model.state_dict()
        in_trunk = [name for name in ours if name.startswith(f"{self.trunk_name}.")]
        fitting = {
            name: tensor
            for name, tensor in theirs.items()
            if name in ours and fits(tensor, ours[name])
        }
        needed = list(ours) if self.whole else in_trunk
        # Counters of BN: they change no output, and a frozen BN has none.
        missing = [
            name
            for name in needed
            if name not in fitting and not name.endswith("num_batches_tracked")
        ]
        if missing:
            raise UserError(
                f"{filename} does not hold all of this model: {len(missing)} of {len(needed)}"
                f" tensors are missing or of another shape or number type, such as {missing[0]}"
            )
        self._refuse_what_has_no_place(theirs, ours, filename)
        self.model.load_state_dict(fitting, strict=False)
        if self.average:
            self.average.model.load_state_dict(averaged if averaged and resuming else ours)
        matched = sum(name in fitting for name in in_trunk)
        others = len(fitting) - matched
        network = f" Network: {self.spec.describe()}" if self.spec else ""
        self.logger.info(
            f"Loaded {filename}: {matched} of {len(in_trunk)} trunk tensors and {others} others;"
            f" left out {head} of the classifier's head;"
            f" {len(ours) - len(fitting)} tensors of the detector start fresh.{network}"
        )

    def _refuse_what_has_no_place(self, theirs: dict, ours: dict, filename: str) -> None:
        """BN's scale and shift mean nothing without its statistics, as under GN.

        And a deeper ResNet has all the tensors of one less deep.
        """
        stages = ("stem", *self.trunk.stage_names)  # later ones may be left unbuilt
        built = tuple(f"{self.trunk_name}.{stage}." for stage in stages)
        for name in theirs:
            if not name.startswith(built) or name in ours:
                continue
            if name.endswith("running_mean") and f"{name.rpartition('.')[0]}.weight" in ours:
                raise UserError(
                    f"{filename} was trained with BN, but this model's {name.rpartition('.')[0]}"
                    f" keeps no BN statistics; set MODEL.{'RANDWIRE' if self.spec else 'RESNETS'}"
                    ".NORM to FrozenBN, BN or SyncBN"
                )
            if isinstance(self.trunk, ResNet) and not name.endswith("num_batches_tracked"):
                raise UserError(
                    f"{filename} holds a larger network than MODEL.RESNETS builds: there is no"
                    f" place for {name}; does its DEPTH fit?"
                )


def _find_trunk(model: nn.Module) -> tuple[str, RandWire | ResNet]:
    """The network that a classifier's file fills, and its name in the detector."""
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, RandWire | ResNet)
    ]
    if len(found) != 1:
        raise UserError(
            f"the model holds {len(found)} RandWires and ResNets, expected one; is"
            " MODEL.BACKBONE.NAME one of randwire_det's builders, or of detectron2's for ResNets?"
        )
    return found[0]


def _trunk_tensors(kind: str, weights: dict, trunk_name: str) -> dict:
    """Of a classifier's state dict what a detector takes, under the detector's names."""
    if kind == "baseline":
        named = detectron2_names(weights)
    else:
        named = {
            name.removeprefix("trunk."): tensor
            for name, tensor in weights.items()
            if name.startswith("trunk.")
        }
    return {f"{trunk_name}.{name}": tensor for name, tensor in named.items()}


def check_fits(
    data: dict, path: str, spec: NetworkSpec | None, preprocessing: Preprocessing
) -> None:
    """Refuse a checkpoint of another network, or of images prepared in another way.

    Args:
        data: what `load_checkpoint` read from `path`.
        spec: of the config's RandWire, None where the config builds a ResNet.
        preprocessing: the config's.

    Raises:
        UserError: names what differs, and the key to change.
    """
    if (data["spec"] is None) != (spec is None):
        theirs, ours = (
            "no RandWire" if each is None else "a RandWire" for each in (data["spec"], spec)
        )
        raise UserError(
            f"{path} holds {theirs}, but the config builds {ours}; take the config that its"
            " pretraining goes with, or set MODEL.BACKBONE.NAME"
        )
    if spec is not None:
        check_same_spec(data["spec"], spec, path)
    check_same_preprocessing(data["preprocessing"], preprocessing, path, PREPROCESSING_KEYS)


def check_outputs(
    data: dict, path: str, classes: list[str] | None, *, relearned: bool = False
) -> None:
    """Refuse a detector whose outputs stand for other classes, or for the same in another order.

    A classifier's file, and one that does not know its classes, fits any.

    Args:
        data: what `load_checkpoint` read from `path`.
        classes: of the run's data sets; None where they have no names.
        relearned: the file only starts a training, which may have other classes: that is logged.

    Raises:
        UserError: names what differs.
    """
    theirs = data["classes"]
    if data["kind"] != "detector" or not theirs or not classes:
        return
    theirs, ours = list(map(str, theirs)), "the data sets of this run"
    if relearned and sorted(theirs) != sorted(classes):
        logger.warning(
            f"{path} detects {few(theirs)}, {ours} have {few(classes)}: its outputs are relearned"
        )
        return
    check_same_classes(path, theirs, ours, classes, CURE)


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
