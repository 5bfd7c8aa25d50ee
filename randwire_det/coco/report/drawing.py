"""An image of the gallery drawn twice, with its objects and with its detections."""

import colorsys
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from ...run.pictures import read_picture
from .gallery import SCORE, Picture
from .matches import Matches
from .tide import KINDS, Breakdown

SIDE = 480  # pixels of the longer side
GREY = (150, 150, 150)


def draw_pair(
    matches: Matches, errors: Breakdown, picture: Picture, image_root: Path
) -> tuple[Image.Image, Image.Image]:
    """Objects and detections over the image, or over a grey box where it cannot be read.

    Objects that no detection from SCORE up has found and detections that are wrong say so.
    """
    canvas, scale = _canvas(picture, image_root)
    truth, predictions = ImageDraw.Draw(canvas), ImageDraw.Draw(copy := canvas.copy())
    for number in picture.objects:
        if matches.object_crowd[number]:
            label, colour = "crowd, not counted", GREY
        else:
            category = matches.object_category[number]
            found = matches.object_score[number] >= SCORE
            label = matches.classes[category] + ("" if found else ", not found")
            colour = class_colour(category)
        _box(truth, matches.object_box[number], scale, label, colour)
    for number in sorted(picture.detections, key=lambda one: matches.score[one]):
        label = f"{matches.classes[matches.category[number]]} {matches.score[number]:.2f}"
        if errors.kind[number] >= 0:
            label += f", {KINDS[errors.kind[number]]}"
        colour = class_colour(matches.category[number])
        _box(predictions, matches.box[number], scale, label, colour)
    return canvas, copy


def class_colour(category: int) -> tuple[int, int, int]:
    """A colour that classes of near numbers do not share: steps of the golden ratio in hue."""
    red, green, blue = colorsys.hsv_to_rgb(int(category) * 0.618034 % 1, 0.75, 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


def _canvas(picture: Picture, image_root: Path) -> tuple[Image.Image, tuple[float, float]]:
    """The image at its size on the page, and that size over the one that boxes refer to."""
    try:
        image = read_picture(image_root / picture.name)
    except Exception:  # PIL raises almost anything at broken bytes
        image = None
    width, height = (picture.image.get(key) for key in ("width", "height"))
    if not all(isinstance(side, int | float) and side > 0 for side in (width, height)):
        width, height = image.size if image else (SIDE, SIDE)
    shrink = SIDE / max(width, height)
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    if image:
        image = image.resize(size)
    else:
        image = Image.new("RGB", size, (200, 200, 200))
        centre = size[0] / 2, size[1] / 2
        text = _plain(f"{picture.name}\nis absent or unreadable", lines=True)
        ImageDraw.Draw(image).text(
            centre, text, fill=(60, 60, 60), font=_font(13), anchor="mm", align="center"
        )
    return image, (size[0] / width, size[1] / height)


def _box(pen: ImageDraw.ImageDraw, box, scale: tuple[float, float], label: str, colour) -> None:
    x, y, width, height = box
    left, right = sorted((x * scale[0], (x + width) * scale[0]))
    top, bottom = sorted((y * scale[1], (y + height) * scale[1]))
    draw_box(pen, (left, top, right, bottom), label, colour)


def draw_box(pen: ImageDraw.ImageDraw, corners, label: str, colour, size: int = 12) -> None:
    """A box with its label on top of it, or where there is room for it inside the picture.

    Args:
        corners: (left, top, right, bottom) in pixels.
        size: of the text, in pixels; the lines go with it.
    """
    left, top, right, bottom = corners
    pen.rectangle((left, top, right, bottom), outline=colour, width=max(2, size // 6))
    font, label = _font(size), _plain(label)
    long, tall = pen.textlength(label, font) + size / 2, 1.3 * size
    left = max(0, min(left, pen.im.size[0] - long))
    top = max(0, min(top - tall, pen.im.size[1] - tall))
    pen.rectangle((left, top, left + long, top + tall), fill=colour)
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    at = left + size / 4, top + tall / 2
    pen.text(at, label, fill="black" if light else "white", font=font, anchor="lm")


def _plain(text: str, lines: bool = False) -> str:
    """Text without control characters, which a font has no sign for."""
    return "".join(c if c.isprintable() or (lines and c == "\n") else " " for c in text)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu, which has more scripts than Pillow's own font."""
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
