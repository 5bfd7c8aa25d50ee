"""The pictures that an input stands for, their names and ids; HEIC."""

from pathlib import Path

import numpy as np
import pytest
from conftest import run_python
from detection_helpers import tiny_config, tiny_detector
from PIL import Image
from predict_helpers import SMALL

from randwire_det import UsageError, UserError
from randwire_det.detection.picture_files import find_pictures, image_ids
from randwire_det.detection.predict import (
    Predictor,
)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["COCO_val2014_000000000042.jpg", "000000000139.jpg"], [42, 139]),
        (["000000000139.jpg", "holiday.jpg"], [1, 2]),  # not all are COCO's
        (["a_000000000139.jpg", "b_000000000139.jpg"], [1, 2]),  # which of them is COCO's?
        (["20240131.jpg", "20240201.jpg"], [1, 2]),  # dates of a camera
    ],
)
def test_ids_are_cocos_numbers_or_positions(names, ids):
    assert image_ids({name: Path(name) for name in names}) == dict(zip(names, ids, strict=True))


def test_pictures_of_folders_and_files_get_names_of_their_own(tmp_path):
    for name in ("a/x.jpg", "a/sub/deep.jpg", "a/notes.txt", "b/x.jpg", "c/x-2.JPG", "c/scan.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "folder.png").mkdir()
    a, b, c = (tmp_path / name for name in "abc")
    found = find_pictures([b, a, a / "x.jpg", c, a / "notes.txt"])
    assert found == {
        "x.jpg": b / "x.jpg",
        "x-2.jpg": a / "x.jpg",
        "scan.tif": c / "scan.tif",
        "x-2.JPG": c / "x-2.JPG",
        "notes.txt": a / "notes.txt",
    }
    twice = [tmp_path / "1" / "scan.tif.png", c]  # whose copy would have that name
    twice[0].parent.mkdir()
    twice[0].touch()
    assert list(find_pictures(twice)) == ["scan.tif.png", "scan-2.tif", "x-2.JPG"]


def test_of_a_folder_all_that_pillow_reads_is_taken_and_the_rest_is_named(tmp_path, caplog):
    taken = ["a.gif", "b.avif", "c.JFIF", "d.heic", "e.jp2", "f.webp", "round.jpg"]
    left_out = ["._a.gif", ".hidden.jpg", "clip.mpg", "doc.pdf", "plan.eps", "Thumbs.db", "README"]
    for name in [*taken[:-1], *left_out]:
        (tmp_path / name).touch()
    (tmp_path / "round.jpg").symlink_to("round.jpg")
    (tmp_path / "again").symlink_to(tmp_path)
    assert list(find_pictures([tmp_path])) == taken
    for name in left_out:
        assert name in caplog.text
    assert list(find_pictures([tmp_path / "README"])) == ["README"]


def test_folders_in_a_folder_are_looked_into_if_asked_for(tmp_path, caplog):
    for name in ("a.png", "sub/b.png", "sub/deep/c.jpg", "out/a.png", ".hidden/d.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def found(*inputs, **options):
        paths = find_pictures([tmp_path / each for each in inputs], **options).values()
        return [str(path.relative_to(tmp_path)) for path in paths]

    assert found("") == ["a.png"]
    below = ["a.png", "sub/b.png", "sub/deep/c.jpg"]
    assert found("", recursive=True, leave_out=tmp_path / "out") == below
    assert found("", recursive=True) == ["a.png", "out/a.png", *below[1:]]
    assert found("**/*.jpg") == ["sub/deep/c.jpg"]
    assert found("s*") == ["sub/b.png"]
    assert found("[ab].png", "a.png") == ["a.png"]
    (tmp_path / "[1].png").touch()
    assert found("[1].png") == ["[1].png"]  # a file of that name
    with pytest.raises(UserError, match=r"x\*\.png: no file or folder fits"):
        found("x*.png")


def test_input_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such file"):
        find_pictures([tmp_path / "nowhere"])
    with pytest.raises(UsageError, match=r"no pictures in .*\.png"):
        find_pictures([tmp_path])


def test_heic_is_read_where_pillow_heif_is(pictures, tmp_path):
    picture = Image.open(pictures / "colour.png")
    exif = Image.Exif()
    exif[274] = 6
    turned, path = picture.transpose(Image.ROTATE_90), tmp_path / "phone.heic"
    turned.save(path, exif=exif.tobytes(), quality=-1)
    model, cfg = tiny_detector(**SMALL).eval(), tiny_config(**SMALL)
    assert list(find_pictures([tmp_path]).values()) == [path]
    read, _ = Predictor(model, cfg).read(path)
    assert read.shape == np.asarray(picture).shape
    assert np.abs(read.astype(int) - np.asarray(picture)).mean() < 3  # of YCbCr


def test_without_pillow_heif_heic_says_what_to_install(tmp_path):
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(90))
    program = """
import sys
sys.modules["pillow_heif"] = None  # cannot be imported
from randwire_det.run.pictures import why_unusable
print(why_unusable("phone.heic"))
"""
    done = run_python("-c", program, cwd=tmp_path)
    assert "pip install pillow-heif" in done.stdout, done.stderr
