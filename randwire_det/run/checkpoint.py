"""Checkpoints: weights, network and preprocessing in one file, written atomically.

A checkpoint holds plain data and tensors only: `torch.load(..., weights_only=True)` reads it, and
an untrusted file cannot run code. Layout (version 1):

    format, version     "randwire_det", 1
    kind                "classifier", of a RandWire; "baseline", a torchvision ResNet; "detector";
                        or "trunk", which is what a file of `trunk_file` is read as
    model               the state dict; the trunk's keys contain "trunk."
    spec                NetworkSpec.to_dict(), or None if the model has no RandWire
    architecture        {"name": "resnet50", "width": 1.0} of a baseline, else None
    preprocessing       Preprocessing.to_dict()
    classes             names in the order of the outputs, or None
    ema                 the state dict of the averaged weights, or None; if present, these are the
                        weights that are evaluated and used
    config              of a detector: the detectron2 config as YAML
    progress            what training needs to resume, or None
    matching_heuristics True in a classifier's file: detectron2's own checkpointer then finds the
                        trunk by name, so that it loads in a project that does not use ours
    ...                 whatever else the writer keeps (optimizer, scheduler, iteration)
"""

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from ..errors import UserError, brief
from ..spec.spec import NetworkSpec
from .archive import check_tensors, read_plain
from .files import replace_file
from .trunk_file import ENDING, read_trunk

FORMAT = "randwire_det"
VERSION = 1
DEFAULT_KINDS = ("classifier", "detector", "trunk")
KINDS = (*DEFAULT_KINDS, "baseline")
# Formats of tools/export.py, and the endings of their files.
EXPORTED = {"onnx": ".onnx", "torchscript": ".ts", "torch_export": ".pt2"}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the trunk's input; a mismatch silently costs accuracy.

    Attributes:
        channel_order: "RGB" or "BGR".
        mean, std: per channel in that order, on the 0..255 scale.
        input_size: height and width in training, in pixels.
        interpolation: of resizing.

    Raises:
        UserError: a value that no image can be prepared with.
    """

    channel_order: str = "RGB"
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    input_size: int = 224
    interpolation: str = "bilinear"

    def __post_init__(self):
        def usable(number):  # not NaN, of which NaN would be made, and not past what a float holds
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            return is_number and abs(number) < 1e30

        def three_numbers(values):
            return len(values) == 3 and all(map(usable, values))

        if self.channel_order not in ("RGB", "BGR"):
            raise UserError(f"channel_order {brief(self.channel_order)}: expected RGB or BGR")
        if not three_numbers(self.mean):
            raise UserError(f"mean {brief(self.mean)}: expected three numbers")
        if not three_numbers(self.std) or not min(self.std) > 0:
            raise UserError(f"std {brief(self.std)}: expected three numbers above 0")
        if type(self.input_size) is not int or self.input_size < 0:
            raise UserError(
                f"input_size {brief(self.input_size)}: expected a whole number of pixels"
            )
        if not isinstance(self.interpolation, str):
            raise UserError(f"interpolation {brief(self.interpolation)}: expected a name")

    def to_dict(self) -> dict:
        plain = asdict(self)
        return plain | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, plain: dict) -> "Preprocessing":
        names = {field.name for field in fields(cls)}
        if not isinstance(plain, dict) or plain.keys() != names:
            found = brief(list(plain) if isinstance(plain, dict) else plain)
            raise UserError(f"expected the keys {', '.join(sorted(names))}, got {found}")
        triples = {name: plain[name] for name in ("mean", "std")}
        for name, values in triples.items():
            if not isinstance(values, list | tuple):
                raise UserError(f"{name} {brief(values)}: expected three numbers")
        return cls(**plain | {name: tuple(values) for name, values in triples.items()})


def check_same_preprocessing(
    theirs: Preprocessing, ours: Preprocessing, path: str | Path, keys: dict[str, str]
) -> None:
    """Refuse weights that were trained with other preprocessing.

    Args:
        theirs: of the checkpoint at `path`.
        ours: of the config.
        keys: the fields to compare, and the config key that sets each.

    Raises:
        UserError: a field differs; names each such field, both values and the keys to change.
    """
    differing = [field for field in keys if getattr(theirs, field) != getattr(ours, field)]
    if not differing:
        return
    wanted = ", ".join(f"{field} {getattr(theirs, field)}" for field in differing)
    given = ", ".join(f"{keys[field]} {getattr(ours, field)}" for field in differing)
    advice = " ".join(f'{keys[field]} "{getattr(theirs, field)}"' for field in differing)
    raise UserError(f"{path} was trained with {wanted}, but the config has {given}; set {advice}")


def check_finite(weights: dict[str, torch.Tensor], path: str | Path) -> None:
    """Refuse weights with NaN or infinity, which would still yield an accuracy: that of chance.

    Args:
        weights: a state dict, from the checkpoint at `path`.

    Raises:
        UserError: a weight is NaN or infinite.
    """
    broken = [name for name, tensor in weights.items() if not _is_finite(tensor)]
    if broken:
        raise UserError(
            f"{path} holds NaN or infinity in {len(broken)} of {len(weights)} tensors, such as"
            f" {broken[0]}: its training has diverged; take another checkpoint"
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.dtype.is_floating_point and not tensor.is_complex():
        return True
    if tensor.element_size() < 2:  # torch cannot sum 8-bit floats
        tensor = tensor.float()
    # The sum first: a fast pass that makes no tensor of bools. Large numbers may overflow it.
    return bool(tensor.sum().isfinite() or tensor.isfinite().all())


def write_atomically(path: str | Path, data: dict) -> None:
    """torch.save that leaves either the old file or a complete, loadable new one.

    Raises:
        UserError: a tensor that `read_plain` would refuse; the file could not be written.
    """

    def check(temporary: str) -> None:
        # A value that weights_only refuses, such as a numpy scalar, would make the file unloadable.
        # With mmap this reads the structure only, no tensor.
        written = torch.load(temporary, map_location="cpu", weights_only=True, mmap=True)
        check_tensors(written, path, os.path.getsize(temporary))

    replace_file(path, lambda file: torch.save(data, file), check)


def save_checkpoint(
    path: str | Path,
    *,
    kind: str,
    model: dict,
    spec: NetworkSpec | None,
    preprocessing: Preprocessing,
    classes: list[str] | None = None,
    progress: dict | None = None,
    architecture: dict | None = None,
    **extra,
) -> None:
    """Write a checkpoint of the layout above.

    Args:
        kind: one of KINDS.
        model: a state dict.
        spec: of a RandWire's wiring; None for a baseline, or a detector on another backbone.
        classes: names in the order of the outputs.
        progress: plain data that training needs to resume.
        architecture: {"name": str, "width": float} of a baseline; None for a RandWire.
        extra: the writer's own plain data and tensors, by key.

    Raises:
        UserError: spec or architecture does not match the kind; the file could not be written.
    """
    _check_network(kind, spec, architecture)
    header = {"format": FORMAT, "version": VERSION, "kind": kind}
    content = {
        "matching_heuristics": kind == "classifier",
        "model": model,
        "spec": None if spec is None else spec.to_dict(),
        "architecture": architecture,
        "preprocessing": preprocessing.to_dict(),
        "classes": classes,
        "progress": progress,
    }
    write_atomically(path, header | content | extra)


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint file, which is read once and passed on as this object.

    Attributes:
        path: of the file, for messages.
        kind, model, ema, spec, architecture, preprocessing, classes, config, progress: as in the
            layout above; `spec` and `preprocessing` as objects.
        rest: whatever else the writer keeps.
    """

    path: str
    kind: str
    model: dict[str, torch.Tensor]
    ema: dict[str, torch.Tensor] | None
    spec: NetworkSpec | None
    architecture: dict | None
    preprocessing: Preprocessing
    classes: list[str] | None
    config: str | None
    progress: dict | None
    rest: dict

    @property
    def weights_to_use(self) -> dict[str, torch.Tensor]:
        """The weights for evaluation, detection and fine-tuning: the average if there is one."""
        return self.ema or self.model

    @property
    def weights_digest(self) -> str:
        """SHA-256, in hex, of the names and values of `weights_to_use`."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.weights_to_use.items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def load_checkpoint(path: str | Path, *, kinds: tuple[str, ...] = DEFAULT_KINDS) -> Checkpoint:
    """Read a checkpoint of this project, or a trunk in safetensors.

    Args:
        kinds: the kinds that the caller accepts.

    Raises:
        UserError: the file is missing, damaged, holds more than plain data and tensors, is not a
            checkpoint of this project, or is of a kind not in `kinds`.
    """
    if Path(path).suffix in EXPORTED.values() and Path(path).is_file():
        raise UserError(f"{path} is an exported file; expected the checkpoint it was made from")
    data = read_trunk(path) if Path(path).suffix == ENDING else read_plain(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(
            f"{path} is no randwire_det checkpoint: it carries no network spec; expected a file of"
            " pretrain_imagenet.py or train_net.py (one that detectron2's own checkpointer wrote"
            " loads with that checkpointer)"
        )
    if type(data.get("version")) is not int or data["version"] != VERSION:
        raise UserError(
            f"{path} has checkpoint version {brief(data.get('version'))}; this randwire_det reads"
            f" version {VERSION}"
        )
    kind = data.get("kind")
    if kind not in KINDS:
        raise UserError(f"{path}: kind {brief(kind)}, expected one of {', '.join(KINDS)}")
    for key in ("architecture", "ema", "config"):  # younger than the first files
        data.setdefault(key, None)
    for key in ("spec", "classes"):
        if key not in data:
            raise UserError(f"{path}: it has no {key}; the file is damaged")
    if not _is_names(data["classes"]):
        raise UserError(f"{path}: its classes are no list of names; the file is damaged")
    for key in ("model", "ema"):
        if not _is_state_dict(data.get(key)) and not (key == "ema" and data[key] is None):
            raise UserError(f"{path}: its {key} is no state dict; the file is damaged")
        for name, tensor in (data[key] or {}).items():
            if kind != "detector" and tensor.is_complex():
                raise UserError(f"{path}: its weight {name} is of complex numbers, expected real")
        check_finite(data[key] or {}, path)
    try:
        _check_network(kind, data.get("spec"), data["architecture"])
    except UserError as error:
        raise UserError(f"{path}: {error}; the file is damaged") from None
    for key, read in (("spec", NetworkSpec.from_dict), ("preprocessing", Preprocessing.from_dict)):
        if key == "spec" and data["spec"] is None:
            continue
        try:
            data[key] = read(data.get(key))
        except UserError as error:
            raise UserError(f"{path}: its {key} cannot be read: {error}") from None
    if kind not in kinds:
        if kind == "baseline":
            raise UserError(
                f"{path} is a {data['architecture']['name']} classifier, not a RandWire; for"
                " detection, tools/convert_baseline.py makes it a detectron2 ResNet"
            )
        raise UserError(f"{path} is a {kind}, expected a {' or '.join(kinds)}")
    for key in ("format", "version", "matching_heuristics"):
        data.pop(key, None)
    named = {field.name for field in fields(Checkpoint)} - {"path", "rest"}
    known = {key: data.pop(key, None) for key in named}
    return Checkpoint(path=str(path), rest=data, **known)


def newest_readable(
    paths: list[Path], read: Callable[[Path], Checkpoint], pass_over: Callable[[str], object]
) -> Checkpoint | None:
    """Read the checkpoints of a run until one can be read.

    Args:
        paths: newest first.
        read: raises UserError if a file cannot be used.
        pass_over: is called with the error message of each file that cannot be used.

    Returns:
        None if `paths` is empty.

    Raises:
        UserError: none of the files can be read.
    """
    problems = []
    for path in paths:
        try:
            return read(path)
        except UserError as error:
            problems.append(str(error))
            pass_over(str(error))
    if problems:
        raise UserError(
            f"no checkpoint in {paths[0].parent} can be read, the newest because: {problems[0]};"
            " remove them all to start from scratch with --resume"
        )
    return None


def fits(theirs: torch.Tensor, ours: torch.Tensor) -> bool:
    """Whether a stored tensor can be copied into a model's; complex to real would lose a part."""
    return theirs.shape == ours.shape and theirs.is_complex() == ours.is_complex()


def _is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items()
    )


def _is_names(value: object) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(name, str) for name in value)
    )


def _check_network(kind: str, spec: object, architecture: object) -> None:
    """A RandWire is identified by its spec, a baseline by its architecture; never by both.

    A detector may have another backbone and then has neither.
    """
    if kind != "baseline":
        if spec is None and kind != "detector":
            raise UserError(f"a {kind} without a spec, which says what network it is")
        if architecture is not None:
            raise UserError(f"a {kind} with a baseline's architecture {brief(architecture)}")
        return
    if spec is not None:
        raise UserError("a baseline with a spec, which only a RandWire has")
    match architecture:
        case {"name": str(), "width": int() | float() as width} if len(architecture) == 2:
            if 0 < width < math.inf and not isinstance(width, bool):
                return
    raise UserError(
        f"architecture {brief(architecture)}: expected a name and a width, such as"
        " {'name': 'resnet50', 'width': 1.0}"
    )
