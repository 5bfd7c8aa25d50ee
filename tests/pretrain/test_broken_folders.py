"""Folders and images that cannot be used: all problems in one line, or skipped where asked."""

import shutil
import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from pretrain_helpers import bomb, loaded, make_folders, message_of, tiny

from pretrain import data
from randwire_det.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("colours"))


@pytest.fixture
def small(tmp_path):
    return make_folders(tmp_path / "small", train=2, val=1)


# --- what is wrong with the folders ---------------------------------------------------------------


def refusal(root):
    """What opening both says; nothing must be written for it but perhaps an index."""
    message = message_of(data.open_data, tiny(root, root.parent / "run"))
    assert not (root.parent / "run").exists()
    return message


@pytest.mark.parametrize("missing", [["train"], ["val"], ["train", "val"]])
def test_missing_folders_are_all_named(small, missing):
    for split in missing:
        shutil.rmtree(small / split)
    message = refusal(small)
    for split in ("train", "val"):
        assert (f"{small / split}: no such folder" in message) == (split in missing)
    if "val" in missing:
        assert str(small / "val") in message_of(data.open_val, tiny(small, small.parent / "run"))


def test_a_root_without_class_folders_or_images(small):
    for inner in ("blue", "green", "red"):
        shutil.rmtree(small / "train" / inner)
        for file in (small / "val" / inner).iterdir():
            file.rename(file.with_suffix(".txt"))
    message = refusal(small)
    assert f"{small / 'train'}: holds no class folder" in message
    assert f"{small / 'val'}: no image in any of its 3 class folders" in message
    assert ".jpeg" in message


def test_a_val_folder_without_class_folders_says_what_to_do(small):
    for image in sorted((small / "val").glob("*/*.jpg")):
        image.rename(small / "val" / f"{image.parent.name}_{image.name}")
        image.parent.rmdir()
    message = refusal(small)
    assert f"{small / 'val'}: holds no class folder but 3 images; move each" in message


def test_classes_on_one_side_alone(small):
    (small / "val" / "red").rename(small / "val" / "rot")
    message = refusal(small)
    assert f"1 only in {small / 'train'} (red)" in message
    assert f"1 only in {small / 'val'} (rot)" in message
    (small / "train" / "red").rename(small / "train" / "rot")
    data.open_data(tiny(small, small.parent / "run"))
    shutil.rmtree(small / "train" / "rot")
    message = refusal(small)
    assert f"1 only in {small / 'val'} (rot)" in message and message.count("only in") == 1


def test_empty_classes_are_counted_and_the_first_few_named(small):
    for name in ("k0", "k1", "k2", "k3", "k4"):
        for split in ("train", "val"):
            (small / split / name).mkdir()
            if split == "val":
                Image.new("RGB", (8, 8)).save(small / split / name / "1.png")
    message = refusal(small)
    assert f"{small / 'train'}: 5 classes without any image: k0, k1, k2 and 2 more" in message
    assert f"{small / 'val'}: " not in message
    assert len(data.open_val(tiny(small, small.parent / "run"))) == 8


def test_all_problems_come_at_once(small):
    (small / "train" / "none").mkdir()
    (small / "val" / "alone").mkdir()
    message = refusal(small)
    for part in ("1 classes without any image: none", "without any image: alone", "only in"):
        assert part in message


# --- broken images --------------------------------------------------------------------------------


def truncated(path):
    path.write_bytes(path.read_bytes()[:700])


def zero_bytes(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("<html>404 not found</html>")


def gone(path):
    path.unlink()


BREAKAGES = [truncated, zero_bytes, text, gone, bomb]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("spoil", BREAKAGES)
def test_a_broken_image_is_named_in_one_line(small, spoil, workers):
    sets = data.open_data(tiny(small, small.parent / "run"))
    for dataset, split in zip(sets, ("train", "val"), strict=True):
        path = small / split / "green" / "0.jpg"
        spoil(path)
        plan = data.in_order(len(dataset))
        message = message_of(loaded, dataset, plan, 2, workers)
        assert message.startswith(f"{path}: ") and message.count(str(path)) == 1
        assert "DATA.ON_BAD_IMAGE" in message


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("spoil", BREAKAGES)
def test_a_broken_image_is_skipped_where_asked(small, spoil, workers):
    train_data, val_data = data.open_data(
        tiny(small, small.parent / "run", "DATA.ON_BAD_IMAGE", "skip")
    )
    bad = [str(small / "train" / "blue" / "1.jpg"), str(small / "val" / "green" / "0.jpg")]
    plan = data.in_order(6)  # the same seed everywhere
    whole = loaded(train_data, plan, 6)[0].images
    for path in bad:
        spoil(small / path)
    (batch,) = loaded(train_data, plan, 6, workers)  # blue, blue, green, green, red, red
    assert batch.labels.tolist() == [0, 1, 1, 1, 2, 2] and batch.bad == bad[:1]
    assert torch.equal(batch.images, whole[[0, 2, 2, 3, 4, 5]])
    first, left_out, last = loaded(val_data, data.in_order(3), 1, workers)
    assert (first.labels.tolist(), last.labels.tolist()) == ([0], [2])
    assert left_out.images.shape == (0, 32, 32, 3) and left_out.images.dtype == torch.uint8
    assert left_out.labels.shape == (0,) and left_out.labels.dtype == torch.int64
    assert (first.bad, left_out.bad, last.bad) == ([], bad[1:], [])


def test_after_the_last_image_comes_the_first(small):
    train_data, _ = data.open_data(tiny(small, small.parent / "run", "DATA.ON_BAD_IMAGE", "skip"))
    zero_bytes(small / "train" / "red" / "1.jpg")
    (batch,) = loaded(train_data, data.in_order(6)[5:], 1)
    assert batch.labels.tolist() == [0]


@pytest.mark.parametrize("images", [5, 150])
def test_a_data_set_of_broken_images_ends_in_an_error(tmp_path, images):
    root = make_folders(tmp_path / "images", classes=("blue",), train=1, val=1)
    for number in range(images):
        zero_bytes(root / "train" / "blue" / f"{number}.jpg")
    train_data, _ = data.open_data(tiny(root, tmp_path / "run", "DATA.ON_BAD_IMAGE", "skip"))
    message = message_of(loaded, train_data, data.in_order(images)[:2], 2)
    assert f"the {min(images, 100) - 1} images after it" in message


def test_reading_goes_on_after_a_broken_image(small):
    train_data, _ = data.open_data(tiny(small, small.parent / "run"))
    zero_bytes(small / "train" / "blue" / "1.jpg")
    loader = data.Loader(train_data, workers=2, prefetch=2)
    plan = data.in_order(6)
    with pytest.raises(UserError):
        list(loader(np.split(plan, 6)))
    assert [batch.labels.tolist() for batch in loader([plan[2:4], plan[4:]])] == [[1, 1], [2, 2]]


def test_odd_but_readable_images_do_not_warn(small):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x09\0"  # nine entries announced, none there
    spoilt, palette = (small / "train" / "blue" / name for name in ("0.jpg", "2.png"))
    whole = spoilt.read_bytes()
    spoilt.write_bytes(
        whole[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + whole[20:]
    )
    Image.new("P", (50, 50)).save(palette, transparency=bytes(range(256)))
    train_data, _ = data.open_data(tiny(small, small.parent / "run"))
    plan = data.in_order(len(train_data))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="EXIF"):
            Image.open(spoilt)
        (batch,) = loaded(train_data, plan, len(plan))
    assert len(batch.labels) == 7
