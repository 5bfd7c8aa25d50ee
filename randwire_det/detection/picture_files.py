"""Which pictures a prediction is to be made of, what they are called, and their ids in COCO."""

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import UsageError, UserError
from ..run.pictures import endings

logger = logging.getLogger(__name__)
DRAWN_ENDINGS = (".jpeg", ".jpg", ".png")  # of copies
COCO_NAME = re.compile("(?:.*_)?([0-9]{12})")  # without its ending
NAMED = 10  # files that one line names


def find_pictures(inputs: Iterable[str | Path]) -> dict[str, Path]:
    """The pictures among files and folders, by a name that no two of them share.

    Of a folder its files with an ending of a format that Pillow reads, by name. Hidden files, as
    macOS leaves them behind, and other endings are passed over and named in the log; folders in it
    are not looked into. A file is taken whatever its name. One that is given twice is taken once.

    Returns:
        {name: path}: the name of the file, with a number where another's copy had it.

    Raises:
        UserError: there is no such file or folder, or it cannot be read.
        UsageError: there are no pictures.
    """
    found = {}
    for given in map(Path, inputs):
        if not os.path.exists(given):
            raise UserError(f"input {given}: no such file or folder")
        for path in _pictures_of(given) if given.is_dir() else [given]:
            found.setdefault(os.path.realpath(path), path)  # Path.resolve would raise on a loop
    if not found:
        raise UsageError(
            f"no pictures in {', '.join(map(str, inputs))}: expected files that Pillow reads, such"
            " as .jpg and .png; folders in a folder are not looked into"
        )
    named, taken = {}, set()
    for path in found.values():
        name, number = path.name, 1
        while copy_name(name) in taken:
            number += 1
            name = f"{path.stem}-{number}{path.suffix}"
        taken.add(copy_name(name))
        named[name] = path
    return named


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
        logger.warning(f"passed over in {folder}, hidden: {len(hidden)} files: {few(hidden)}")
    if others:
        names = few([path.name for path in others])
        logger.warning(
            f"passed over in {folder}, of no ending of a picture that Pillow reads:"
            f" {len(others)} files: {names}"
        )
    return taken


def few(names: list) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(str, names[:NAMED])) + more


def copy_name(name: str) -> str:
    """The file name of a picture's copy: its own of a JPEG or PNG, else with .png behind it."""
    return name if name.lower().endswith(DRAWN_ENDINGS) else f"{name}.png"


def image_ids(pictures: dict[str, Path]) -> dict[str, int]:
    """Numbers for pictures by name, so that COCO's own pictures have COCO's ids.

    The number in the name where all have one of their own as COCO's pictures do, such as
    000000000139.jpg or COCO_val2014_000000000042.jpg; else the position, from 1.
    """
    found = [COCO_NAME.fullmatch(path.stem) for path in pictures.values()]
    ids = [int(match[1]) for match in found if match]
    if len(set(ids)) < len(pictures):
        ids = range(1, len(pictures) + 1)
    return dict(zip(pictures, ids, strict=True))
