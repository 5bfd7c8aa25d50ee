"""A picture is read in one way everywhere, and what cannot be is refused for one reason everywhere.

Read is the first frame, upright as EXIF says, in 8-bit RGB: grey, palette, CMYK and 1-bit pictures
are converted, transparency is left out, and of 16-bit colour Pillow keeps the high byte. Pictures
of 16-bit grey, 32-bit or float pixels are refused: how they become 8 bits depends on the range of
their values, which no file states, and Pillow would cut them at 255.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from ..errors import UserError

ORIENTATION = 274  # EXIF's key
TURNS = {  # EXIF's orientation -> how the picture becomes upright; 5 to 8 swap width and height
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SPECIAL_FILES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
LONGEST_REASON = 200  # characters
_TOO_THIN = "height and width must be > 0"  # as Pillow has it
# Pillow hands PostScript to another program, and of the others it knows the name alone.
NO_PICTURES = ("EPS", "BUFR", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")
HEIC_ENDINGS = (".heic", ".heif")  # of photographs that must be converted first, and say so

OpenFile = Callable[[str | Path], BinaryIO]


def endings() -> list[str]:
    """Of file names, in lower case: those of the formats that Pillow reads here, and of HEIC."""
    Image.init()
    known = Image.registered_extensions().items()
    read = [end for end, kind in known if kind in Image.OPEN and kind not in NO_PICTURES]
    return sorted({*read, *HEIC_ENDINGS})


def read_picture(path: str | Path) -> Image.Image:
    """The first frame of a picture, upright, in 8-bit RGB.

    Raises:
        Exception: of almost any kind, where the bytes are broken; `reason` puts it into words.
    """
    with opened(path) as image:
        image.load()
        turn = TURNS.get(orientation(image))
        image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def open_local(path: str | Path) -> BinaryIO:
    return open(path, "rb")


@contextmanager
def opened(path: str | Path, open_file: OpenFile = open_local) -> Iterator[Image.Image]:
    """The picture with its header read, and no pixel yet, where it is one that can be used.

    Args:
        open_file: how a path becomes a file; for paths that the file system does not know.

    Raises:
        UserError: it is none that can be used.
        Exception: of almost any kind, where the bytes are broken; `reason` puts it into words.
    """
    _refuse_special_file(path)
    with open_file(path) as file:
        try:
            image = Image.open(file)
        except UnidentifiedImageError:
            raise UserError(_what_else(file)) from None
        if image.mode.startswith(("I", "F")):
            raise UserError(
                f"pixels of 16 bits, 32 bits or float (Pillow's mode {image.mode}), of a range that"
                " the file does not state; scale them to 8 bits"
            )
        if image.format == "EPS":
            raise UserError("PostScript, which is a program; convert it to PNG")
        # Pillow turns a TIFF when it reads the pixels, and detectron2 turns it once more.
        if image.format == "TIFF" and (turned := orientation(image)) > 1:
            raise UserError(
                f"a TIFF with the EXIF orientation {turned}, which Pillow and detectron2 would"
                " apply one after the other; save it upright"
            )
        yield image


def why_unusable(path: str | Path, open_file: OpenFile = open_local) -> str | None:
    """In a few words why the header rules a picture out; None where it does not."""
    try:
        with opened(path, open_file):
            return None
    except Exception as error:
        return reason(error)


def reason(error: Exception) -> str:
    """In a few words, on one line, why a picture cannot be read."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if text == _TOO_THIN:
        return "so thin that no pixel is left of a side when it is resized"
    return text.splitlines()[0][:LONGEST_REASON]


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 for none."""
    try:
        # A PNG's own getexif would decode the whole image, in search of EXIF behind the pixels.
        exif = Image.Image.getexif(image) if image.format == "PNG" else image.getexif()
    except Exception:  # of broken EXIF almost anything; the picture is taken as it stands
        return 1
    found = exif.get(ORIENTATION)
    return found if found in range(1, 9) else 1


def _refuse_special_file(path: str | Path) -> None:
    """Opening a pipe waits for its other end, and some devices never end."""
    try:
        kind = SPECIAL_FILES.get(stat.S_IFMT(os.stat(path).st_mode))
    except (OSError, ValueError):
        return  # opening it says why; or it is a path of another kind, which `open_file` knows
    if kind:
        raise UserError(f"{kind}, and no file")


def _what_else(file: BinaryIO) -> str:
    """What a file is that Pillow does not know."""
    file.seek(0)
    head = file.read(64)
    if not head:
        return "empty"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, and not the picture; git lfs pull brings it"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "HEIC, which Pillow does not know; convert it to JPEG or PNG"
    return "of no format that Pillow knows"
