"""detectron2's checkpointer, with checks on loading and atomic writes."""

import logging
import os
from pathlib import Path

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling.backbone import ResNet
from torch import nn

from ..coco.classes import CURE
from ..config.files import flat
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
    newest_readable,
    save_checkpoint,
)
from ..run.classes import check_same_classes, few
from ..run.files import replace_file
from ..spec.spec import NetworkSpec
from ..strict import load_yaml
from .preprocessing import PREPROCESSING_KEYS

logger = logging.getLogger(__name__)
CHECKPOINTS = "model_*.pth"
BEST = "model_best.pth"  # no checkpoint to go on from
# Keys by which equal weights put out other maps, with their values in files from before the key.
OUTPUT_KEYS = {"MODEL.RANDWIRE.RELU_OUTPUTS": False, "MODEL.RANDWIRE.OUTPUT_STRIDE": 32}


class RandWireCheckpointer(DetectionCheckpointer):
    """Loads the checkpoint of a classifier or a detector into a detector, if it fits.

    A RandWire backbone takes a RandWire classifier's file, and detectron2's ResNet a baseline's.
    The classifier's head is left out, and every tensor of the backbone is required. A detector's
    file must hold every tensor of the model to resume or evaluate it; to start another training it
    may have other classes, as in detectron2. Evaluation and another training take the averaged
    weights if the file has any.

    Args:
        model: a detector that contains one RandWire or ResNet.
        save_dir: OUTPUT_DIR.
        preprocessing: of the detector's config.
        classes: class names of the data set, saved and compared on loading.
        config: the whole config as YAML, saved.
        average: of the model's weights, saved and resumed with them.
        checkpointables: as in detectron2.

    Raises:
        UserError: the model does not contain exactly one such network; on loading, the file is
            missing or damaged, or its network, preprocessing, normalisation or classes differ.
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
        relu = any(getattr(each, "relu_outputs", False) for each in self.model.modules())
        stride = getattr(self.trunk, "output_stride", 32)
        self.output_values = dict(zip(OUTPUT_KEYS, (relu, stride), strict=True))

    def save(self, name: str, **kwargs) -> None:
        if not self.save_dir or not self.save_to_disk:
            return
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {path}")
        states = {key: value.state_dict() for key, value in self.checkpointables.items()}
        self._write(path, **states, **kwargs)
        self.tag_last_checkpoint(path.name)

    def save_best(self, about: dict) -> None:
        """Write model_best.pth, without what a resumed run needs.

        Args:
            about: plain data: "metric", "score" and finished "iteration"s.
        """
        self._write(Path(self.save_dir, BEST), iteration=about["iteration"] - 1, best=about)

    def _write(self, path: Path, **more) -> None:
        save_checkpoint(
            path,
            kind="detector",
            model=self.model.state_dict(),
            ema=self.average.model.state_dict() if self.average else None,
            spec=self.spec,
            preprocessing=self.preprocessing,
            classes=self.classes,
            config=self.config,
            **more,
        )

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        # fvcore truncates the file first: a kill at that moment would leave it empty.
        text = last_filename_basename.encode()
        replace_file(Path(self.save_dir) / "last_checkpoint", lambda file: file.write(text))

    def has_checkpoint(self) -> bool:
        return bool(_checkpoints(Path(self.save_dir)))

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
        """Load a checkpoint that has been read already.

        Args:
            checkpointables: the names of those to load. None loads all, and requires that the
                checkpoint holds the whole model.

        Returns:
            as `load`: the remaining entries of the checkpoint.

        Raises:
            UserError: the checkpoint does not fit.
        """
        self.logger.info(f"[Checkpointer] Loading from {checkpoint.path} ...")
        whole = checkpointables is None
        check_fits(checkpoint, self.spec, self.preprocessing, self.output_values)
        check_outputs(checkpoint, self.classes, relearned=not whole)
        if checkpoint.kind != "detector" and whole:
            raise UserError(
                f"{checkpoint.path} is a {checkpoint.kind}, not a detector: it can start a training"
                " as MODEL.WEIGHTS, but cannot be evaluated or resumed"
            )
        self._take_weights(checkpoint, whole)
        rest = dict(checkpoint.rest)
        for key in self.checkpointables if whole else checkpointables:
            if key in rest:
                self.logger.info(f"Loading {key} from {checkpoint.path} ...")
                self.checkpointables[key].load_state_dict(rest.pop(key))
        return rest

    def _take_weights(self, checkpoint: Checkpoint, whole: bool) -> None:
        resuming = whole and bool(self.checkpointables)
        saved = checkpoint.model if resuming else checkpoint.weights_to_use
        theirs = saved
        if checkpoint.kind != "detector":
            theirs = _trunk_tensors(checkpoint.kind, saved, self.trunk_name)
        ours = self.model.state_dict()
        in_trunk = [name for name in ours if name.startswith(f"{self.trunk_name}.")]
        fitting = {
            name: tensor
            for name, tensor in theirs.items()
            if name in ours and fits(tensor, ours[name])
        }
        needed = list(ours) if whole else in_trunk
        # num_batches_tracked changes no output, and a frozen BN has none.
        missing = [
            name
            for name in needed
            if name not in fitting and not name.endswith("num_batches_tracked")
        ]
        if missing:
            raise UserError(
                f"{checkpoint.path} does not hold all of this model: {len(missing)} of"
                f" {len(needed)} tensors are missing or of another shape or number type, such as"
                f" {missing[0]}"
            )
        self._refuse_unexpected(theirs, ours, checkpoint.path)
        self.model.load_state_dict(fitting, strict=False)
        if self.average:
            self.average.model.load_state_dict((resuming and checkpoint.ema) or ours)
        matched = sum(name in fitting for name in in_trunk)
        others = len(fitting) - matched
        network = f" Network: {self.spec.describe()}" if self.spec else ""
        self.logger.info(
            f"Loaded {checkpoint.path}: {matched} of {len(in_trunk)} trunk tensors and {others}"
            f" others; left out {len(saved) - len(theirs)} of the classifier's head;"
            f" {len(ours) - len(fitting)} tensors of the detector start fresh.{network}"
        )

    def _refuse_unexpected(self, theirs: dict, ours: dict, filename: str) -> None:
        """Refuse BN weights for a model without BN statistics, where they would mean something
        else, and a deeper ResNet, which has all tensors of a shallower one.
        """
        stages = ("stem", *self.trunk.stage_names)  # the model may be built without the last stages
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
                    f" place for {name}; check its DEPTH"
                )


def _find_trunk(model: nn.Module) -> tuple[str, RandWire | ResNet]:
    """The name and the module of the network that a classifier's file is loaded into."""
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
    """The trunk of a classifier's state dict, under the detector's names."""
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
    checkpoint: Checkpoint,
    spec: NetworkSpec | None,
    preprocessing: Preprocessing,
    output_values: dict,
) -> None:
    """Refuse a checkpoint of another network or another preprocessing than the config's.

    Args:
        spec: of the config's RandWire; None if the config builds a ResNet.
        preprocessing: of the config.
        output_values: of OUTPUT_KEYS, in the config.

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
        if checkpoint.kind == "detector" and checkpoint.config is not None:
            _check_same_outputs(checkpoint, output_values)
    check_same_preprocessing(
        checkpoint.preprocessing, preprocessing, checkpoint.path, PREPROCESSING_KEYS
    )


def _check_same_outputs(checkpoint: Checkpoint, output_values: dict) -> None:
    """A detector's heads have learned from what the trunk put out; no weight shows it."""
    stored = flat(load_yaml(checkpoint.config))
    for key, earlier in OUTPUT_KEYS.items():
        theirs, ours = stored.get(key, earlier), output_values[key]
        if theirs != ours:
            raise UserError(
                f"{checkpoint.path} was trained with {key} {theirs}, but the config has {ours};"
                f" set {key} {theirs}"
            )


def check_outputs(
    checkpoint: Checkpoint, classes: list[str] | None, *, relearned: bool = False
) -> None:
    """Refuse a detector of other classes, or of the same classes in another order.

    A classifier's file, and one without class names, is accepted.

    Args:
        classes: of the run's data sets; None if they have no names.
        relearned: the file only starts a training: other classes are just logged.

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
    """Read the checkpoint that `last_checkpoint` names or, if that fails, the newest readable one.

    Returns:
        None if there is no checkpoint.

    Raises:
        UserError: none of the checkpoints can be read.
    """
    folder = Path(folder)
    found = _checkpoints(folder)
    tag = folder / "last_checkpoint"
    named = tag.read_text(encoding="utf-8", errors="replace").strip() if tag.is_file() else ""
    found.sort(key=lambda path: path.name != named)
    return newest_readable(
        found, load_checkpoint, lambda problem: logger.warning(f"passed over: {problem}")
    )


def _checkpoints(folder: Path) -> list[Path]:
    """Those to go on from, newest first if none is missing: model_final.pth, then by iteration."""
    return sorted((each for each in folder.glob(CHECKPOINTS) if each.name != BEST), reverse=True)
