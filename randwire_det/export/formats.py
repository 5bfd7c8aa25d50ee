"""Writes a network as ONNX, TorchScript or torch.export; opens such a file to run it, or reads what
it says of itself."""

import importlib
import io
import json
import logging
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UsageError, UserError
from ..run.checkpoint import EXPORTED
from ..run.files import replace_file
from .exportable import Exportable

METADATA = "metadata.json"  # the name of the metadata in every format
OPSET = 17  # of ONNX: the oldest that has all operations of the detectors
ENDINGS = EXPORTED

Run = Callable[[Tensor], tuple[Tensor, ...]]


def check(to: str, kind: str) -> None:
    """Refuses what cannot be written, before long work.

    Args:
        to: the format, a key of ENDINGS.
        kind: of the checkpoint.

    Raises:
        UsageError: the format cannot hold this kind, or a package that it needs is not installed.
    """
    if to == "torch_export" and kind == "detector":
        raise UsageError(
            "--to torch_export: takes classifiers only, as detectron2's selection of boxes branches"
            " on values; export a detector --to onnx or torchscript"
        )
    if to == "onnx":
        _need_onnx("--to onnx")


def _need_onnx(what: str) -> None:
    try:
        importlib.import_module("onnx")
        importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UsageError(
            f"{what}: {error.name} is not installed: pip install 'randwire_det[export]', or in a"
            " clone: pip install -e '.[export]'"
        ) from None


def write(
    network: Exportable,
    to: str,
    path: Path,
    check: Callable[[str], object] = lambda temporary: None,
) -> None:
    """Write the network to a file of the format `to`, a key of ENDINGS.

    Args:
        check: takes the path of the finished file before it becomes `path`; if it raises, there is
            no such file, and an earlier one stays.

    Raises:
        UserError: the file cannot be written.
    """
    content = {"onnx": _onnx, "torchscript": _torchscript, "torch_export": _torch_export}[to]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracing, about branches that hold for any picture
        for name in ("torch.onnx", "torch.export"):
            logging.getLogger(name).setLevel(logging.ERROR)
        written = content(network)
    replace_file(path, lambda file: file.write(written), check)


def open_file(to: str, path: str | Path) -> Run:
    """A function that runs the file on the CPU, without using this package."""
    if to == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda image: tuple(
            torch.from_numpy(each) for each in session.run(None, {"image": image.numpy()})
        )
    run = torch.jit.load(path) if to == "torchscript" else torch.export.load(path).module()

    def run_module(image: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            found = run(image)
        return (found,) if isinstance(found, Tensor) else tuple(found)

    return run_module


def read_metadata(path: str | Path) -> dict:
    """The metadata of a file that `write` wrote, without running anything in it.

    Raises:
        UserError: the file cannot be read, or has no such metadata.
        UsageError: it is an ONNX file, and onnx is not installed.
    """
    try:
        if Path(path).suffix == ENDINGS["onnx"]:
            text = _onnx_metadata(path)
        else:  # both of torch's formats are zip files with a folder of extra files
            with zipfile.ZipFile(path) as file:
                (name,) = (each for each in file.namelist() if each.endswith(f"extra/{METADATA}"))
                text = file.read(name)
        found = json.loads(text)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, zipfile.BadZipFile):
        raise UserError(f"{path}: expected a file of tools/export.py, which has metadata") from None
    return found


def _onnx_metadata(path: str | Path) -> str:
    _need_onnx(str(path))
    import onnx
    from google.protobuf.message import DecodeError

    try:
        props = onnx.load(path, load_external_data=False).metadata_props
    except DecodeError:
        raise ValueError from None
    return {each.key: each.value for each in props}.get(METADATA, "")


def _onnx(network: Exportable) -> bytes:
    """By the tracing exporter: torch.export, on which the other one rests, cannot take detectors,
    as detectron2's selection of proposals branches on values."""
    import onnx

    first = {0: "batch" if not network.is_detector else "detections"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "network.onnx")
        torch.onnx.export(
            network.graph,
            (network.example,),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(network.outputs),
            dynamic_axes={"image": network.axes} | dict.fromkeys(network.outputs, first),
        )
        model = onnx.load(file)
    onnx.helper.set_model_props(model, {METADATA: json.dumps(network.metadata)})
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _torchscript(network: Exportable) -> bytes:
    traced = torch.jit.trace(network.graph, (network.example,), check_trace=False)
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer, _extra_files={METADATA: json.dumps(network.metadata)})
    return buffer.getvalue()


def _torch_export(network: Exportable) -> bytes:
    sizes = dict.fromkeys(network.axes, torch.export.Dim.AUTO)
    program = torch.export.export(
        network.graph, (network.example,), dynamic_shapes={"image": sizes}
    )
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(network.metadata)})
    return buffer.getvalue()
