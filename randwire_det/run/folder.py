"""OUTPUT_DIR: one run at a time, none over an earlier one, and what a kill leaves is cleared."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ..errors import UsageError, UserError

CHECKPOINTS = "checkpoint_*.pth", "model_*.pth"  # of a pretraining, of both
# Files that a kill left half-written: beside what `replace_file` was to replace.
HALF_WRITTEN = [
    f"{folder}.*.tmp"
    for folder in ("", "inference/", "inference/*/", "report/", "report/*/")  # not of runs below
]


def refuse_used(output: Path, *, resume: bool) -> None:
    """Keep a training out of the folder of an earlier one, which it would write over.

    Raises:
        UsageError: there is a checkpoint and `resume` is not set.
    """
    written = [path for pattern in CHECKPOINTS for path in sorted(output.glob(pattern))]
    if written and not resume:
        raise UsageError(
            f"{written[-1]} exists already: add --resume to go on with that run, or choose another"
            " OUTPUT_DIR"
        )


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep a second run out of OUTPUT_DIR, and clear away what a killed one left half-written.

    The system releases the lock when this process ends, however it ends.

    Raises:
        UserError: another process is writing into it, or the folder cannot be written to.
    """
    with _lock_file(output) as file:
        try:
            # Unlike flock, this is not handed down to the workers, which outlive a kill by seconds.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"OUTPUT_DIR {output}: another process is writing into it; wait for it, or choose"
                " another OUTPUT_DIR"
            ) from None
        except OSError:  # a file system without locks
            pass
        for pattern in HALF_WRITTEN:
            for leftover in output.glob(pattern):
                leftover.unlink()
        yield


def _lock_file(output: Path) -> TextIO:
    try:
        output.mkdir(parents=True, exist_ok=True)
        return (output / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"OUTPUT_DIR {output}: {error.strerror}; set it to a folder that can be written to"
        ) from None


def cut_lines(path: Path, keep: Callable[[dict], bool] = lambda row: True) -> None:
    """Cut a file of one JSON object a line after the last one that `keep` takes, in place.

    Past it are half a line, as a kill or a full disk leaves it, and what a run that was stopped
    wrote after its last checkpoint: a resumed run writes that again.
    """
    if not path.exists():
        return
    end = position = 0
    with path.open("rb") as file:
        for line in file:
            position += len(line)
            if line.endswith(b"\n") and _takes(keep, line):
                end = position
    if end < position:
        os.truncate(path, end)


def _takes(keep: Callable[[dict], bool], line: bytes) -> bool:
    try:
        return keep(json.loads(line))
    except (ValueError, LookupError, TypeError):
        return False
