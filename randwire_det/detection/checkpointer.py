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
    Checkpoint,
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
        newest = newest_checkpoint(self.save_dir)
        return newest.path if newest else ""

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        newest = newest_checkpoint(self.save_dir) if resume else None
        return self.take(newest) if newest else self.load(path, checkpointables=[])

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict:
        if not path:
            self.logger.info("No checkpoint found. Initializing model from scratch")
            return {}
        if "://" in path:
            path = self.path_manager.get_local_path(path)
        elif not os.path.isfile(path):
            raise UserError(f"MODEL.WEIGHTS {path}: no such checkpoint file")
        return self.take(load_checkpoint(path, kinds=KINDS), checkpointables)

    def take(self, checkpoint: Checkpoint, checkpointables: list[str] | None = None) -> dict:
        """Load what was read before.

        Args:
            checkpointables: the names of those to load; None stands for all, and for a checkpoint
                that must hold the whole model.

        Returns:
            what else the writer kept, as of `load`.

        Raises:
            UserError: as of `load`.
        """
        self.logger.info(f"[Checkpointer] Loading from {checkpoint.path} ...")
        whole = checkpointables is None
        check_fits(checkpoint, self.spec, self.preprocessing)
        check_outputs(checkpoint, self.classes, relearned=not whole)
        if checkpoint.kind != "detector" and whole:
            raise UserError(
                f"{checkpoint.path} is a classifier, not a detector: it can start a training as"
                " MODEL.WEIGHTS, but cannot be evaluated or resumed"
            )
        self._take_weights(checkpoint, whole)
        rest = dict(checkpoint.rest)
        for key in self.checkpointables if whole else checkpointables:
            if key in rest:
                self.logger.info(f"Loading {key} from {checkpoint.path} ...")
                self.checkpointables[key].load_state_dict(rest.pop(key))
        return rest

    def _take_weights(self, checkpoint: Checkpoint, whole: bool) -> None:
        filename, kind = checkpoint.path, checkpoint.kind
        resuming = whole and bool(self.checkpointables)
        theirs = checkpoint.model if resuming else checkpoint.weights_to_use
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
        needed = list(ours) if whole else in_trunk
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
            self.average.model.load_state_dict((resuming and checkpoint.ema) or ours)
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
    checkpoint: Checkpoint, spec: NetworkSpec | None, preprocessing: Preprocessing
) -> None:
    """Refuse a checkpoint of another network, or of images prepared in another way.

    Args:
        spec: of the config's RandWire, None where the config builds a ResNet.
        preprocessing: the config's.

    Raises:
        UserError: names what differs, and the key to change.
    """
    if (checkpoint.spec is None) != (spec is None):
        theirs, ours = (
            "no RandWire" if each is None else "a RandWire" for each in (checkpoint.spec, spec)
        )
        raise UserError(
            f"{checkpoint.path} holds {theirs}, but the config builds {ours}; take the config that"
            " its pretraining goes with, or set MODEL.BACKBONE.NAME"
        )
    if spec is not None:
        check_same_spec(checkpoint.spec, spec, checkpoint.path)
    check_same_preprocessing(
        checkpoint.preprocessing, preprocessing, checkpoint.path, PREPROCESSING_KEYS
    )


def check_outputs(
    checkpoint: Checkpoint, classes: list[str] | None, *, relearned: bool = False
) -> None:
    """Refuse a detector whose outputs stand for other classes, or for the same in another order.

    A classifier's file, and one that does not know its classes, fits any.

    Args:
        classes: of the run's data sets; None where they have no names.
        relearned: the file only starts a training, which may have other classes: that is logged.

    Raises:
        UserError: names what differs.
    """
    path, theirs = checkpoint.path, checkpoint.classes
    if checkpoint.kind != "detector" or not theirs or not classes:
        return
    theirs, ours = list(map(str, theirs)), "the data sets of this run"
    if relearned and sorted(theirs) != sorted(classes):
        logger.warning(
            f"{path} detects {few(theirs)}, {ours} have {few(classes)}: its outputs are relearned"
        )
        return
    check_same_classes(path, theirs, ours, classes, CURE)


def newest_checkpoint(folder: str | Path) -> Checkpoint | None:
    """The checkpoint that `last_checkpoint` names, or else the newest one that is whole.

    Returns:
        None where there is none.

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
            return load_checkpoint(path)
        except UserError as error:
            logger.warning(f"passed over {error}")
            problems.append(str(error))
    if problems:
        raise UserError(f"no checkpoint in {folder} can be read, the newest because: {problems[0]}")
    return None
