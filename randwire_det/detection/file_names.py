"""An image that lies there under another spelling of its name: case, slash, escape, accents."""

import os
import unicodedata
from functools import lru_cache
from urllib.parse import unquote


def other_spelling(folder: str, name: str) -> str | None:
    """The file in `folder` that `name` seems to mean, as a path from there; None if there is none.

    Taken for the same are upper and lower case, / and \\, URL escapes, and the Unicode forms of an
    accent. Of a path the first folders may be too many, as in "images/1.jpg" of the folder images.
    """
    parts = [each for each in unquote(name).replace("\\", "/").split("/") if each not in ("", ".")]
    for start in range(len(parts)):
        found, here = [], folder or "."
        for part in parts[start:]:
            actual = _entries(here).get(_folded(part))
            if actual is None:
                break
            found.append(actual)
            here = os.path.join(here, actual)
        else:
            if os.path.isfile(here):
                return "/".join(found)
    return None


@lru_cache(maxsize=1024)
def _entries(folder: str) -> dict[str, str]:
    try:
        return {_folded(each): each for each in os.listdir(folder)}
    except OSError:
        return {}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unquote(name)).casefold()
