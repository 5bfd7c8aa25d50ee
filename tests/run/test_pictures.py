"""A picture is read alike, or refused for one reason, wherever it is read."""

import json
import os
import signal
from contextlib import suppress

import numpy as np
import pytest
from detection_helpers import tiny_config
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import read_image
from PIL import Image
from pretrain_helpers import bomb
from torch import nn

from pretrain import data
from randwire_det.coco.lint import check_dataset
from randwire_det.detection.loader import Reading
from randwire_det.detection.predict import Classes, Predictor, predict
from randwire_det.errors import UserError
from randwire_det.run.pictures import read_picture

GREY = np.arange(60 * 50).reshape(50, 60)  # as wide as 12 bits
COLOUR = np.stack([GREY % 256, GREY // 12, 255 - GREY % 256], axis=2).astype(np.uint8)
PICTURE = Image.fromarray(COLOUR)


@pytest.fixture(autouse=True)
def no_waiting():
    """A named pipe that is opened would hold up the test for ever."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def turned(number):
    exif = Image.Exif()
    exif[274] = number
    return exif


def several(path):
    PICTURE.save(path, save_all=True, append_images=[Image.new("RGB", PICTURE.size, "red")])


def clear_palette(path):
    PICTURE.quantize(16).save(path, transparency=bytes(range(0, 256, 16)))


def sixteen_bits(kind):
    return lambda path: Image.fromarray(GREY.astype(kind)).save(path)


READ = {
    "grey.png": lambda path: PICTURE.convert("L").save(path),
    "grey_and_alpha.png": lambda path: PICTURE.convert("LA").save(path),
    "bit.png": lambda path: PICTURE.convert("1").save(path),
    "palette.png": clear_palette,
    "rgba.png": lambda path: PICTURE.convert("RGBA").save(path),
    "cmyk.jpg": lambda path: PICTURE.convert("CMYK").save(path),
    "lab.tif": lambda path: Image.fromarray(COLOUR, "LAB").save(path),
    "moving.gif": several,
    "pages.tif": several,
    "moving.webp": several,
    "new.avif": lambda path: PICTURE.save(path),
    "old.jfif": lambda path: PICTURE.save(path, "JPEG"),
    **{
        f"turned{number}.{end}": lambda path, number=number: PICTURE.save(path, exif=turned(number))
        for number in range(2, 9)
        for end in ("jpg", "png")
    },
}
REFUSED = {
    "twelve_bits.png": (sixteen_bits(np.uint16), "16 bits"),
    "sixteen_bits.png": (lambda path: Image.fromarray(GREY.astype("u2") * 20).save(path), "I;16"),
    "sixteen_bits.tif": (sixteen_bits(np.uint16), "16 bits"),
    "sixteen_bits.pgm": (sixteen_bits(np.uint16), "16 bits"),
    "sixteen_bits.jp2": (sixteen_bits(np.uint16), "16 bits"),
    "whole.tif": (sixteen_bits(np.int32), "32 bits"),
    "float.tif": (sixteen_bits(np.float32), "float"),
    "turned.tif": (lambda path: PICTURE.save(path, exif=turned(3)), "orientation 3"),
    "script.jpg": (lambda path: PICTURE.save(path, "EPS"), "PostScript"),
    "pipe.jpg": (os.mkfifo, "a named pipe"),
    "device.jpg": (lambda path: os.symlink("/dev/zero", path), "a device"),
    "nothing.jpg": (lambda path: path.touch(), "empty"),
    "pointer.jpg": (lambda path: path.write_text("version https://git-lfs.github.com"), "LFS"),
    "phone.heic": (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(90)), "HEIC"),
    "bomb.png": (bomb, "decompression bomb"),
    "loop.jpg": (lambda path: path.symlink_to(path), "symbolic links"),
}


class Blind(nn.Module):
    """In place of a detector, for pictures that never reach one."""


def reasons(path, output, caplog):
    """Why each side refuses a picture; "" where it does not."""
    width, height = PICTURE.size
    entry = {"file_name": str(path), "image_id": 1, "width": width, "height": height}
    content = {"images": [entry | {"id": 1, "file_name": path.name}], "annotations": []}
    (output / "a.json").write_text(json.dumps(content | {"categories": [{"id": 1, "name": "a"}]}))
    for training in (True, False):
        mapper = DatasetMapper(tiny_config(), training)
        read = Reading(mapper)(entry | {"annotations": []})
        yield str(read) if isinstance(read, UserError) else ""
    for depth in ("headers", "decode"):
        report = check_dataset(output / "a.json", path.parent, training=False, images=depth)
        yield str(next((each for each in report.fatal if each.kind == "image-unreadable"), ""))
    read = data._read(str(path))
    yield read if isinstance(read, str) else ""
    caplog.clear()
    cfg = tiny_config()
    with suppress(UserError, NotImplementedError):  # no picture; or one, but no detector
        predict(Predictor(Blind(), cfg), Classes(cfg, None), {path.name: path}, output / "out")
    yield caplog.text


@pytest.mark.parametrize("name", REFUSED)
def test_a_picture_is_refused_for_one_reason_on_every_side(tmp_path, caplog, name):
    """detectron2 and torchvision read most of these, as something else than they are."""
    make, reason = REFUSED[name]
    folder = tmp_path / "images"
    folder.mkdir()
    make(folder / name)
    found = list(reasons(folder / name, tmp_path, caplog))
    assert len(found) == 6
    for each in found:
        assert reason in each


@pytest.mark.parametrize("name", READ)
def test_a_picture_that_is_read_is_the_same_on_every_side(tmp_path, name):
    """The first frame, upright, in the colours that detectron2 trains on."""
    path = tmp_path / name
    READ[name](path)
    ours = np.asarray(read_picture(path))
    assert np.array_equal(ours, read_image(str(path), "RGB"))
    assert np.array_equal(ours, np.asarray(data._read(str(path))))
    assert np.array_equal(ours, Predictor(Blind(), tiny_config()).read(path)[0])
    assert len(np.unique(ours)) > 1 and ours.mean() < 250
    if name.startswith("turned"):
        wide = path.stem[-1] in "234"
        assert ours.shape == ((50, 60, 3) if wide else (60, 50, 3))


def test_a_picture_too_thin_to_be_resized_says_so(tmp_path, caplog):
    path = tmp_path / "thin.png"
    Image.new("RGB", (4000, 1)).save(path)
    entry = {"file_name": str(path), "image_id": 1, "width": 4000, "height": 1}
    assert "too thin" in str(Reading(DatasetMapper(tiny_config(), False))(entry))
    cfg = tiny_config()
    with pytest.raises(UserError):
        predict(Predictor(Blind(), cfg), Classes(cfg, None), {"thin.png": path}, tmp_path / "out")
    assert "so thin" in caplog.text
