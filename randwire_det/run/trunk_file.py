"""The trunk alone as a safetensors file, with the spec and the preprocessing in its metadata."""

import json
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UsageError, UserError, brief
from ..network import RandWire
from ..strict import load_json
from .files import replace_file

ENDING = ".safetensors"
KEY = "randwire_det"  # in the file's metadata
VERSION = 1
PREFIX = "trunk."  # of the trunk in a classifier


def save_trunk(path: str | Path, checkpoint) -> None:
    """Write the trunk of a classifier or a detector, averaged weights if there are any.

    Args:
        path: ends in .safetensors.
        checkpoint: a `Checkpoint` of a RandWire.

    Raises:
        UsageError: another ending, or safetensors is not installed.
        UserError: no RandWire, or the file cannot be written.
    """
    if Path(path).suffix != ENDING:
        raise UsageError(f"{path}: expected a file name that ends in {ENDING}")
    if checkpoint.spec is None:
        raise UserError(f"{checkpoint.path} holds no RandWire, whose trunk could be written")
    tensors = {name: tensor.contiguous() for name, tensor in _tensors(checkpoint).items()}
    about = {
        "version": VERSION,
        "spec": checkpoint.spec.to_dict(),
        "preprocessing": checkpoint.preprocessing.to_dict(),
    }
    content = _safetensors().torch.save(tensors, {"format": "pt", KEY: json.dumps(about)})
    replace_file(path, lambda file: file.write(content))


def read_trunk(path: str | Path) -> dict:
    """The file in the layout of a checkpoint (`checkpoint`), of the kind "trunk".

    Raises:
        UsageError: safetensors is not installed.
        UserError: the file is missing, damaged, or not of `save_trunk`.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint file")
    library = _safetensors()
    try:
        with library.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # of the library's own, and of the system
        raise UserError(f"{path} was refused: no safetensors file ({brief(str(error))})") from None
    if KEY not in metadata:
        raise UserError(
            f"{path} is no trunk of randwire_det: its metadata hold no spec; expected a file of"
            " tools/export.py --to safetensors"
        )
    try:
        about = load_json(metadata[KEY])
        version, spec, preprocessing = (about[key] for key in ("version", "spec", "preprocessing"))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path}: its metadata cannot be read; the file is damaged") from None
    return {
        "format": KEY,
        "version": version,
        "kind": "trunk",
        "model": {f"{PREFIX}{name}": tensor for name, tensor in tensors.items()},
        "spec": spec,
        "preprocessing": preprocessing,
        "classes": None,
    }


def load_trunk(path: str | Path, **options) -> RandWire:
    """A RandWire with the weights of a file of `save_trunk`, or of any checkpoint with one.

    Args:
        options: of `RandWire`, such as out_features, memory or output_stride.

    Raises:
        UserError: the file cannot be read, or holds no RandWire.
    """
    from .checkpoint import KINDS, load_checkpoint

    checkpoint = load_checkpoint(path, kinds=KINDS)
    if checkpoint.spec is None:
        raise UserError(f"{path} holds no RandWire")
    trunk = RandWire(checkpoint.spec, **options)
    stored, ours = _tensors(checkpoint), trunk.state_dict()
    # A frozen BN counts no batches.
    missing = [
        name for name in ours if name not in stored and not name.endswith("num_batches_tracked")
    ]
    if missing:
        raise UserError(
            f"{path} does not hold all of this trunk: {len(missing)} of {len(ours)} tensors are"
            f" missing, such as {missing[0]}: name the stages that it has as out_features"
        )
    with torch.no_grad():
        trunk.load_state_dict({name: stored.get(name, each) for name, each in ours.items()})
    return trunk


def _tensors(checkpoint) -> dict[str, Tensor]:
    """The trunk's in a classifier or a detector, by their names in the trunk."""
    return {
        name.rpartition(PREFIX)[2]: tensor
        for name, tensor in checkpoint.weights_to_use.items()
        if PREFIX in name
    }


def _safetensors():
    try:
        import safetensors
        import safetensors.torch
    except ImportError:
        raise UsageError(
            "safetensors is not installed: pip install 'randwire_det[export]', or in a clone:"
            " pip install -e '.[export]'"
        ) from None
    return safetensors
