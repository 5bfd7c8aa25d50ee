"""Reads pictures, the same way in every command.

The result is the first frame, rotated as EXIF says, in 8-bit RGB. Greyscale, palette, CMYK and
1-bit pictures are converted, alpha is dropped, and 16-bit colour keeps its high byte, as in Pillow.
HEIC is read where pillow-heif is installed. Pictures of 16-bit grey, 32-bit or float pixels are
refused: scaling them to 8 bits depends on their value range, which the file does not state, and
Pillow would clip them at 255.
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
TURNS = {  # EXIF orientation -> the transpose that makes it upright; 5 to 8 swap width and height
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
_TOO_THIN = "height and width must be > 0"  # Pillow's message
# Pillow runs another program for PostScript, and only identifies the others.
NO_PICTURES = ("EPS", "BUFR", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")
HEIC_ENDINGS = (".heic", ".heif")

try:  # at import, so that every process that reads pictures has it
    import pillow_heif
except ImportError:
    READS_HEIC = False
else:
    pillow_heif.register_heif_opener()
    READS_HEIC = True

OpenFile = Callable[[str | Path], BinaryIO]


def endings() -> list[str]:
    """Lower-case file name endings of the formats that Pillow reads here, and of HEIC."""
    Image.init()
    known = Image.registered_extensions().items()
    read = [end for end, kind in known if kind in Image.OPEN and kind not in NO_PICTURES]
    return sorted({*read, *HEIC_ENDINGS})


def read_picture(path: str | Path) -> Image.Image:
    """The first frame of a picture, upright, in 8-bit RGB.

    Raises:
        Exception: almost any, if the bytes are broken; `reason` turns it into a message.
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
    """Open a picture and read its header, but no pixel.

    Args:
        open_file: opens a path, for paths that are not in the file system.

    Raises:
        UserError: the format cannot be used.
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
    """In a few words why the header makes a picture unusable; None if it is usable."""
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
        # PNG's getexif would decode the whole image to look for EXIF behind the pixels.
        exif = Image.Image.getexif(image) if image.format == "PNG" else image.getexif()
    except Exception:  # broken EXIF can raise almost anything; the picture is used unrotated
        return 1
    found = exif.get(ORIENTATION)
    return found if found in range(1, 9) else 1


def _refuse_special_file(path: str | Path) -> None:
    """Refuse pipes and devices: opening a pipe blocks, and some devices never end."""
    try:
        kind = SPECIAL_FILES.get(stat.S_IFMT(os.stat(path).st_mode))
    except (OSError, ValueError):
        return  # opening it raises the error; or `open_file` handles such paths
    if kind:
        raise UserError(f"{kind}, and no file")


def _what_else(file: BinaryIO) -> str:
    """Describe a file that Pillow does not recognize."""
    file.seek(0)
    head = file.read(64)
    if not head:
        return "empty"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, and not the picture; git lfs pull brings it"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        if READS_HEIC:
            return "HEIC that pillow-heif cannot read"
        return "HEIC, which Pillow does not know: pip install pillow-heif, or convert it to JPEG"
    return "of no format that Pillow knows"
