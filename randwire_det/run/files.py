"""A file that is whole or absent, whenever a process is killed or a disk is full."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ..errors import UserError


def replace_file(
    path: str | Path,
    write: Callable[[BinaryIO], object],
    check: Callable[[str], object] = lambda temporary: None,
) -> None:
    """Write a temporary file beside `path`, sync and check it, rename it to `path`.

    Raises:
        UserError: the disk is full, or the folder cannot be written to; the old file is as it was.
    """
    try:
        _replace_file(Path(path), write, check)
    except (OSError, RuntimeError) as error:
        # torch trips over its own writer after the real error, which stays the context.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, KeyboardInterrupt):
            raise cause from None
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"{path} could not be written: {cause.strerror}; what stood there before is as it was"
        ) from None


def _replace_file(path: Path, write, check) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        check(temporary)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would lock colleagues out
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself
    finally:
        os.close(directory)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
