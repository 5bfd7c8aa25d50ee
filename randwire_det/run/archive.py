"""Reads a torch.save file safely: every byte is verified before torch.load sees the file.

torch.load verifies no checksum and trusts the archive's directory: a single flipped bit can make it
treat a record as a folder and return uninitialized memory. Therefore each directory entry must be
exactly what torch.save writes, and each record's checksum must match.
"""

import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import UserError

SIGNATURE = b"PK\x03\x04"  # how torch.load recognizes an archive
FOLDER = 0x10  # among a record's external attributes
SIZES_FOLLOW, UTF8 = 0x8, 0x800  # the flags that torch.save sets
LONGEST_REASON = 200  # characters; a name in the file may be as long as the file


def read_plain(path: str | Path):
    """torch.load of verified plain data and dense tensors, onto the CPU.

    Raises:
        UserError: the file is missing, damaged or not from torch.save (torch 1.6 or later); it
            holds objects other than plain data and tensors, or a tensor that is meta, sparse,
            quantized, or larger than the file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file{_those_in(Path(path))}")
    try:
        with open(path, "rb") as file:
            if file.read(len(SIGNATURE)) != SIGNATURE:
                raise UserError(f"{path} was refused: it is no torch file of torch 1.6 or later")
            check_archive(file)
            file.seek(0)
            data = torch.load(file, map_location="cpu", weights_only=True)
            size = os.fstat(file.fileno()).st_size
    except UserError:
        raise
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} was refused: it is no torch file, or holds more than plain data and tensors,"
            " which could run code on loading"
        ) from None
    except Exception as error:  # on broken bytes the unpickler may raise anything at all
        reason = str(error).partition(". ")[0].partition("\n")[0] or "it ends too early"
        if isinstance(error, KeyError):  # all it says is a byte that is no opcode
            reason = "no torch file"
        reason = reason[:LONGEST_REASON]
        raise UserError(f"{path} is truncated or damaged ({reason}); take an older file") from None
    check_tensors(data, path, size)
    return data


def check_tensors(data, path: str | Path, file_size: int) -> None:
    """Refuse tensors that are not dense, or larger than a file of `file_size` bytes can hold.

    Raises:
        UserError: names the tensor.
    """
    for name, tensor in _tensors(data):
        if reason := _not_dense(tensor, file_size):
            raise UserError(f"{path}: its tensor {name[:LONGEST_REASON]} {reason}")


def check_archive(file: BinaryIO) -> None:
    """Read every record of an archive once and verify its checksum.

    Records are not decompressed: torch.save stores them as they are.

    Raises:
        zipfile.BadZipFile: the archive is not as torch.save writes one.
        OSError: it cannot be read.
    """
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        for record in records:
            if reason := _not_as_written(record):
                raise zipfile.BadZipFile(f"the record {record.filename!r} {reason}")
        if len({record.filename for record in records}) < len(records):
            raise zipfile.BadZipFile("two records have one name")
        if sum(record.file_size for record in records) > os.fstat(file.fileno()).st_size:
            raise zipfile.BadZipFile("its records overlap")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of {damaged!r} is wrong")


def _not_as_written(record: zipfile.ZipInfo) -> str | None:
    if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
        return "is compressed, which torch.save never does"
    if record.external_attr & FOLDER or record.is_dir():
        return "is marked as a folder, which torch.save never does"
    if record.flag_bits & ~(SIZES_FOLLOW | UTF8):
        return f"has the flags {record.flag_bits:#x}, which torch.save never sets"
    return None


def _tensors(content) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested plain data, with its key; the data may contain cycles."""
    pending, seen = [("", content)], set()
    while pending:
        name, value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, dict):
            pending += [(repr(key), each) for key, each in value.items() if _may_hold(each)]
        elif isinstance(value, list | tuple | set):
            pending += [(name, each) for each in value if _may_hold(each)]


def _may_hold(value) -> bool:
    return isinstance(value, Tensor | dict | list | tuple | set)


def _not_dense(tensor: Tensor, file_size: int) -> str | None:
    """Why a tensor is not fully stored in a file of `file_size` bytes; None if it is."""
    if tensor.is_meta:
        return "has a shape and no content (it was saved from the meta device)"
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized:
        kind = "quantized" if tensor.is_quantized else f"of the layout {tensor.layout}"
        return f"is {kind}; expected a dense tensor of plain numbers"
    # An expanded tensor stores one number but can claim any shape, and any amount of memory later.
    if tensor.numel() * tensor.element_size() > file_size:
        return f"has the shape {tuple(tensor.shape)}, more than the file of {file_size} bytes holds"
    return None


def _those_in(folder: Path) -> str:
    """Of a folder: which checkpoints are in it."""
    if not folder.is_dir():
        return ""
    names = sorted(path.name for path in folder.glob("*.pth"))
    held = f", which holds {', '.join(names[:5])}" if names else " without any"
    return f", but a folder{held}"
