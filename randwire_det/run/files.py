"""Atomic writes: after a kill or a full disk, a file or a new folder is complete or absent."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import UsageError, UserError


def replace_file(
    path: str | Path,
    write: Callable[[BinaryIO], object],
    check: Callable[[str], object] = lambda temporary: None,
) -> None:
    """Write a temporary file next to `path`, sync and check it, then rename it to `path`.

    Raises:
        UserError: the disk is full or the folder not writable; the old file is unchanged.
    """
    try:
        _replace_file(Path(path), write, check)
    except (OSError, RuntimeError) as error:
        # torch's writer raises a second error after the real one, which stays its context.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, KeyboardInterrupt):
            raise cause from None
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"{path} could not be written: {cause.strerror}; any earlier file there is unchanged"
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
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp creates 0600, unreadable for others
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself
    finally:
        os.close(directory)


def refuse_input(option: str, output: str | Path, inputs: Iterable[str | Path]) -> None:
    """Raises UsageError if `output`, of `option`, is one of the files that are read."""
    for path in inputs:
        if os.path.realpath(path) == os.path.realpath(output):
            raise UsageError(f"{option} {output} is the file that is read; name another file")


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder to write into that becomes `output` at the end, unless an error comes first.

    A kill leaves a .<output>.partial-* beside it.

    Raises:
        UsageError: `output` exists.
    """
    if output.exists() or output.is_symlink():
        raise UsageError(f"--output {output}: exists already; remove it, or name another folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.partial-", dir=output.parent) as aside:
        folder = Path(aside) / output.name  # not `aside` itself, which only its owner may enter
        folder.mkdir()
        yield folder
        folder.rename(output)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
