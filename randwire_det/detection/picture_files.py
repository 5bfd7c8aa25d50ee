"""Finds the picture files to run a detector on, and gives them names and COCO image ids."""

import glob
import logging
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import UsageError, UserError
from ..run.classes import few
from ..run.pictures import endings

logger = logging.getLogger(__name__)
DRAWN_ENDINGS = (".jpeg", ".jpg", ".png")  # of copies
COCO_NAME = re.compile("(?:.*_)?([0-9]{12})")  # without the ending
NAMED = 10  # file names in one log line


def find_pictures(
    inputs: Iterable[str | Path], recursive: bool = False, leave_out: str | Path | None = None
) -> dict[str, Path]:
    """Find pictures in files and folders, and give each a unique name.

    A folder stands for its files with an ending of a format that Pillow reads, sorted by name.
    Hidden files, such as macOS's, and other endings are passed over and logged. An input file is
    taken whatever its name. Duplicates are taken once.

    Args:
        inputs: files, folders, and patterns of either, as of a shell; ** stands for any folders.
        recursive: also look into the folders in a folder, but not into hidden ones.
        leave_out: a folder that is not looked into in doing so.

    Returns:
        {name: path}: the name is the file's, with a number added if its copy's name is taken.

    Raises:
        UserError: an input does not exist, fits no file or cannot be read.
        UsageError: there are no pictures.
    """
    found = {}
    for given in expand(inputs):
        folders = _folders(given, leave_out) if recursive else [given]
        for folder in folders:
            for path in _pictures_of(folder) if folder.is_dir() else [folder]:
                found.setdefault(os.path.realpath(path), path)  # Path.resolve raises on a loop
    if not found:
        raise UsageError(
            f"no pictures in {', '.join(map(str, inputs))}: expected files that Pillow reads, such"
            " as .jpg and .png; folders in a folder are looked into by --recursive alone"
        )
    return unique_names(found.values(), copy_name)


def unique_names(paths: Iterable[Path], copy_name: Callable[[str], str]) -> dict[str, Path]:
    """{name: path}: the name is the file's, with a number added if its copy's name is taken."""
    named, taken = {}, set()
    for path in paths:
        name, number = path.name, 1
        while copy_name(name) in taken:
            number += 1
            name = f"{path.stem}-{number}{path.suffix}"
        taken.add(copy_name(name))
        named[name] = path
    return named


def expand(inputs: Iterable[str | Path]) -> list[Path]:
    """The files and folders that are meant: those of each pattern, sorted, and others as they are.

    Raises:
        UserError: an input does not exist, and as a pattern fits nothing.
    """
    found = []
    for given in map(str, inputs):
        if os.path.exists(given):
            found.append(Path(given))
        elif not glob.has_magic(given):
            raise UserError(f"input {given}: no such file or folder")
        elif fitting := sorted(glob.glob(given, recursive=True)):
            found += map(Path, fitting)
        else:
            raise UserError(f"input {given}: no file or folder fits this pattern")
    return found


def _folders(given: Path, leave_out: str | Path | None) -> list[Path]:
    """A folder and all below it, sorted; a file is itself."""
    if not given.is_dir():
        return [given]
    without, found = os.path.realpath(leave_out) if leave_out else None, []

    def fail(error: OSError):
        raise UserError(f"input {error.filename}: {error.strerror}") from None

    for folder, below, _ in os.walk(given, onerror=fail):
        below[:] = sorted(
            name
            for name in below
            if not name.startswith(".") and os.path.realpath(os.path.join(folder, name)) != without
        )
        found.append(Path(folder))
    return found


def _pictures_of(folder: Path) -> list[Path]:
    try:
        paths = sorted(path for path in folder.iterdir() if not path.is_dir())
    except OSError as error:
        raise UserError(f"input {folder}: {error.strerror}") from None
    taken, hidden, others, known = [], [], [], endings()
    for path in paths:
        if path.name.startswith("."):
            hidden.append(path.name)
        else:
            (taken if path.suffix.lower() in known else others).append(path)
    if hidden:
        logger.warning(
            f"passed over in {folder}, hidden: {len(hidden)} files: {few(hidden, NAMED)}"
        )
    if others:
        names = few([path.name for path in others], NAMED)
        logger.warning(
            f"passed over in {folder}, of no ending of a picture that Pillow reads:"
            f" {len(others)} files: {names}"
        )
    return taken


def copy_name(name: str) -> str:
    """The file name of a picture's copy: the same for JPEG and PNG, else with .png appended."""
    return name if name.lower().endswith(DRAWN_ENDINGS) else f"{name}.png"


def image_ids(pictures: dict[str, Path]) -> dict[str, int]:
    """The COCO image id of each picture, by name.

    If all have a unique number in their names, as COCO's 000000000139.jpg or
    COCO_val2014_000000000042.jpg, that number; else their position, from 1.
    """
    found = [COCO_NAME.fullmatch(path.stem) for path in pictures.values()]
    ids = [int(match[1]) for match in found if match]
    if len(set(ids)) < len(pictures):
        ids = range(1, len(pictures) + 1)
    return dict(zip(pictures, ids, strict=True))
