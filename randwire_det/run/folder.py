"""OUTPUT_DIR: a lock against concurrent runs, refusal of used folders, cleanup after kills."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ..errors import UsageError, UserError

CHECKPOINTS = "checkpoint_*.pth", "model_*.pth"  # of a pretraining, of both
# Temporary files of `replace_file` that a kill left behind.
HALF_WRITTEN = [
    f"{folder}.*.tmp"
    for folder in ("", "inference/", "inference/*/", "report/", "report/*/")  # not of runs below
]


def refuse_used(output: Path, *, resume: bool) -> None:
    """Refuse to overwrite an earlier run.

    Raises:
        UsageError: the folder holds a checkpoint and `resume` is not set.
    """
    written = [path for pattern in CHECKPOINTS for path in sorted(output.glob(pattern))]
    if written and not resume:
        raise UsageError(
            f"{written[-1]} exists already: add --resume to go on with that run, or choose another"
            " OUTPUT_DIR"
        )


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Lock OUTPUT_DIR against a second run and remove temporary files of a killed one.

    The system releases the lock when this process ends, even by a kill.

    Raises:
        UserError: another process holds the lock, or the folder is not writable.
    """
    with _lock_file(output) as file:
        try:
            # Unlike flock, this is not inherited by the workers, which outlive a kill by seconds.
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


def is_locked(output: Path) -> bool:
    """Whether another process is writing into OUTPUT_DIR."""
    try:
        with (output / ".lock").open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False


def _lock_file(output: Path) -> TextIO:
    try:
        output.mkdir(parents=True, exist_ok=True)
        return (output / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"OUTPUT_DIR {output}: {error.strerror}; set it to a folder that can be written to"
        ) from None


def cut_lines(path: Path, keep: Callable[[dict], bool] = lambda row: True) -> None:
    """Truncate a JSON-lines file after the last line that `keep` accepts, in place.

    This removes a partial last line, left by a kill or a full disk, and the lines written after the
    last checkpoint, which a resumed run writes again.
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
