"""Opens pictures, and finds files whose names are spelled differently (case, slash, accents)."""

import os
import unicodedata
from typing import BinaryIO
from urllib.parse import unquote

from detectron2.utils.file_io import PathManager


class FileNames:
    """The files of a folder, to be found by misspelled names.

    Upper and lower case, / and \\, URL escapes, and the Unicode forms of an accent are equal. A
    path may have too many leading folders, such as "images/1.jpg" in the folder images.

    Args:
        folder: the folder that names are relative to; one that cannot be listed is empty.
    """

    def __init__(self, folder: str):
        self._folder, self._entries = folder or ".", {}

    def nearest(self, name: str) -> str | None:
        """The file that `name` seems to mean, as a path in the folder; None if there is none."""
        plain = unquote(name).replace("\\", "/").split("/")
        parts = [each for each in plain if each not in ("", ".")]
        for start in range(len(parts)):
            found = self._follow(parts[start:])
            if found:
                return found
        return None

    def _follow(self, parts: list[str]) -> str | None:
        here = ""
        for part in parts:
            actual = self._listed(here).get(_folded(part))
            if actual is None:
                return None
            here = os.path.join(here, actual)
        return here if os.path.isfile(os.path.join(self._folder, here)) else None

    def _listed(self, below: str) -> dict[str, str]:
        if below not in self._entries:
            try:
                names = os.listdir(os.path.join(self._folder, below))
            except OSError:
                names = []
            self._entries[below] = {_folded(each): each for each in names}
        return self._entries[below]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unquote(name)).casefold()


def open_file(path: str) -> BinaryIO:
    """Open a picture's file, by any path that detectron2 supports."""
    return PathManager.open(path, "rb")
