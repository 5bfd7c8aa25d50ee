"""The images of the pretraining: which ones, how they are prepared, what broken ones do."""

import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import struct
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import REPO, run_python
from PIL import Image
from pretrain_helpers import EPOCH_LENGTH, bomb, make_folders, message_of, tiny
from torchvision.datasets import ImageFolder
from torchvision.transforms import RandomResizedCrop

from pretrain import augment, data
from pretrain.folders import ImageIndex
from randwire_det.errors import UserError
from randwire_det.run.checkpoint import Preprocessing

LONG_AGO = 10**18  # ns; a folder that changed just now is not yet kept in an index


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("colours"))


def loaded(dataset, plan, batch_size, workers=0):
    loader = data.Loader(dataset, workers=workers, prefetch=2)
    return list(loader(np.split(plan, range(batch_size, len(plan), batch_size))))


def assert_same(some, others):
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        assert one.bad == other.bad


@contextmanager
def log_lines():
    """What the pretraining logs meanwhile."""
    lines, handler = [], logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger, level = logging.getLogger("pretrain"), logging.getLogger("pretrain").level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


# --- order, seeds, workers ------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["INPUT.TRIVIAL_AUGMENT", True, "INPUT.RANDOM_ERASE", 0.5]])
def test_batches_depend_on_seed_and_epoch_alone(folders, tmp_path, more):
    cfg = tiny(folders, tmp_path / "run", *more)
    train_data, _ = data.open_data(cfg)

    def epoch(number, workers):
        torch.rand(1)  # the state of the global generator must not matter
        return loaded(train_data, data.epoch_plan(len(train_data), 0, number), 8, workers)

    first, again, later = epoch(3, 0), epoch(3, 2), epoch(4, 0)
    assert len(first) == EPOCH_LENGTH
    assert_same(first, again)
    assert not all(torch.equal(a.images, b.images) for a, b in zip(first, later, strict=True))
    in_plan = data.epoch_plan(len(train_data), 0, 3)[:, 0]
    assert sorted(in_plan) == list(range(len(train_data)))


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_global_generators_alone(folders, tmp_path, workers):
    cfg = tiny(folders, tmp_path / "run", "INPUT.TRIVIAL_AUGMENT", True, "INPUT.RANDOM_ERASE", 1)
    train_data, _ = data.open_data(cfg)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    loaded(train_data, data.epoch_plan(len(train_data), 0, 0), 8, workers)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_workers_stay_even_where_an_iteration_is_left_half_way(folders, tmp_path):
    train_data, _ = data.open_data(tiny(folders, tmp_path / "run"))
    plan = np.split(data.epoch_plan(len(train_data), 0, 0), EPOCH_LENGTH)
    loader = data.Loader(train_data, workers=2, prefetch=2)
    others = set(multiprocessing.active_children())
    whole = list(loader(plan))
    workers = set(multiprocessing.active_children()) - others
    assert len(workers) == 2
    for number, batch in enumerate(loader(iter(plan))):
        assert_same([batch], [whole[number]])
        if number == 2:
            break
    assert_same(loader(plan[4:]), whole[4:])
    assert set(multiprocessing.active_children()) - others == workers


def test_workers_read_on_after_a_signal_to_all_processes(folders, tmp_path):
    """From another process, as a scheduler sends it."""
    train_data, _ = data.open_data(tiny(folders, tmp_path / "run"))
    plan = np.split(data.epoch_plan(len(train_data), 0, 0), EPOCH_LENGTH)
    loader = data.Loader(train_data, workers=2, prefetch=2)
    others = set(multiprocessing.active_children())
    whole = list(loader(plan))
    workers = [child.pid for child in set(multiprocessing.active_children()) - others]
    kill = f"import os; [os.kill(pid, number) for pid in {workers} for number in (2, 15)]"
    assert run_python("-c", kill).returncode == 0
    assert_same(loader(plan), whole)


def test_a_process_with_idle_workers_ends(folders, tmp_path):
    code = f"""
import sys; sys.path.insert(0, {str(REPO / "tests")!r})
from pathlib import Path
from pretrain_helpers import tiny
from pretrain import data
train_data, _ = data.open_data(tiny({str(folders)!r}, Path({str(tmp_path / "run")!r})))
loader = data.Loader(train_data, workers=2, prefetch=2)
batches = loader([data.in_order(4)] * 9)
print(len(next(batches).labels))
"""
    done = run_python("-c", code, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")


def test_a_killed_worker_is_told_in_one_line(folders, tmp_path):
    train_data, _ = data.open_data(tiny(folders, tmp_path / "run"))
    others = set(multiprocessing.active_children())

    def deadly():
        for _ in range(5):
            yield data.in_order(4)
        (worker,) = set(multiprocessing.active_children()) - others
        os.kill(worker.pid, signal.SIGKILL)
        yield from [data.in_order(4)] * 1000

    loader = data.Loader(train_data, workers=1, prefetch=2)
    assert "DATA.NUM_WORKERS" in message_of(list, loader(deadly()))


# --- augmentation ---------------------------------------------------------------------------------


def test_random_crop_keeps_to_share_ratio_and_flip():
    # Every pixel says where it is, so the crop can be read off its corners.
    rows, columns = np.mgrid[0:200, 0:240]
    image = Image.fromarray(np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8))
    mirrored, shares = 0, []
    for seed in range(300):
        rng = random.Random(seed)
        crop = augment.random_crop(image, rng, size=32, min_scale=0.25, flip=True)
        crop = np.asarray(crop).astype(float)
        width = (crop[0, -1, 0] - crop[0, 0, 0]) * 32 / 31
        height = (crop[-1, 0, 1] - crop[0, 0, 1]) * 32 / 31
        mirrored += width < 0
        shares.append(abs(width) * height / (200 * 240))
        assert 3 / 4 - 0.05 < abs(width) / height < 4 / 3 + 0.05
    assert 110 < mirrored < 190
    assert 0.22 < min(shares) < 0.3 and max(shares) > 0.8
    upright = [
        augment.random_crop(image, random.Random(seed), size=8, min_scale=1, flip=False)
        for seed in range(20)
    ]
    assert all(crop.getpixel((0, 0))[0] < crop.getpixel((7, 0))[0] for crop in upright)


@pytest.mark.parametrize("size", [(300, 900), (900, 300), (90, 900), (500, 375)], ids=str)
def test_training_crops_are_distributed_as_torchvisions(size):
    """Also where a picture is so long that often no crop fits, and the middle is taken."""
    count, (width, height), rng = 6000, size, random.Random(0)
    ours = np.array([augment.random_box(width, height, rng, 0.08) for _ in range(count)])
    ours[:, 2:] -= ours[:, :2]
    image = Image.new("L", size)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(count)]
    )[:, [1, 0, 3, 2]]
    for quantity, one, other in zip(
        ("left", "top", "width", "height"), ours.T, theirs.T, strict=True
    ):
        # Kolmogorov-Smirnov: of equal distributions one pair in a thousand is so far apart.
        values = np.union1d(one, other)
        shares = [np.searchsorted(np.sort(each), values, "right") / count for each in (one, other)]
        assert np.abs(shares[0] - shares[1]).max() < 1.95 * (2 / count) ** 0.5, quantity


@pytest.mark.parametrize("size", [(90, 900), (900, 90), (7, 1), (1, 3), (400, 300)], ids=str)
def test_where_no_crop_fits_it_is_torchvisions_middle(size):
    image = Image.new("L", size)
    top, left, height, width = RandomResizedCrop.get_params(image, (9, 9), (3 / 4, 4 / 3))
    box = left, top, left + width, top + height
    assert augment.random_box(*size, _Nothing(), 1) == box


class _Nothing(random.Random):
    """Draws a share of the area that no picture has."""

    def uniform(self, low, high):
        return 9


def test_random_erase_fills_a_rectangle_with_the_mean(folders, tmp_path):
    def images(*overrides):
        train_data, _ = data.open_data(tiny(folders, tmp_path / "run", *overrides))
        plan = data.epoch_plan(len(train_data), 0, 0)
        return np.concatenate([batch.images for batch in loaded(train_data, plan, 8)])

    plain = images()
    erased = images("INPUT.RANDOM_ERASE", 0.5)
    changed = (plain != erased).any(axis=3)
    assert 0.3 < changed.any(axis=(1, 2)).mean() < 0.7
    assert (erased[changed] == (90, 100, 110)).all()  # INPUT.MEAN of TINY, rounded
    assert (images("INPUT.TRIVIAL_AUGMENT", True) != plain).any(axis=(1, 2, 3)).mean() > 0.7


def test_test_images_are_resized_then_cropped():
    pixels = np.zeros((80, 160, 3), np.uint8)
    pixels[:, 40:120] = 255  # the middle square
    middle = augment.centre_crop(Image.fromarray(pixels), 0, resize=40, size=40)
    assert middle.size == (40, 40) and np.asarray(middle)[:, 2:-2].min() > 250
    assert augment.centre_crop(Image.fromarray(pixels), 0, resize=40, size=32).size == (32, 32)


@pytest.mark.parametrize("size", [(9000, 1), (1, 9000)], ids=str)
def test_of_a_strip_the_middle_alone_is_resized(size):
    """All of it, 256 pixels wide, would take 1.8 GB."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (*(side // 2 - side // 9 for side in size), 9000, 9000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    middle = np.asarray(augment.centre_crop(image, 0, resize=256, size=224))
    assert middle.shape == (224, 224, 3) and (middle == (0, 0, 255)).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kilobytes


def test_normalised_test_images_equal_those_made_by_hand(folders, tmp_path):
    cfg = tiny(folders, tmp_path / "run", "INPUT.TEST_SIZE", 34)
    mean, std = tuple(cfg.INPUT.MEAN), tuple(cfg.INPUT.STD)
    normalise = data.Normalise(Preprocessing("RGB", mean, std, 32))
    val_data = data.open_val(cfg)
    ours = [normalise(batch.images) for batch in loaded(val_data, data.in_order(24), 7)]
    for number, our in enumerate(torch.cat(ours)):
        # 40 x 48 pixels resized to 36 x 43, the middle 34 x 34, (value - mean) / std.
        image = Image.open(val_data.path(number)).resize((43, 36), Image.Resampling.BILINEAR)
        pixels = (np.asarray(image, np.float64)[1:35, 4:38] - mean) / std
        torch.testing.assert_close(our, torch.from_numpy(pixels).permute(2, 0, 1).float())


def test_images_smaller_than_the_crop_and_of_other_modes(tmp_path):
    root = make_folders(tmp_path / "images", classes=("blue",), train=1, val=1)
    for number, (mode, size) in enumerate([("L", (1, 1)), ("RGBA", (3, 90)), ("CMYK", (7, 5))]):
        for split in ("train", "val"):
            kind = "tif" if mode == "CMYK" else "png"
            Image.new(mode, size).save(root / split / "blue" / f"more{number}.{kind}")
    for dataset in data.open_data(tiny(root, tmp_path / "run")):
        (batch,) = loaded(dataset, data.in_order(4), 4)
        assert batch.images.shape == (4, 32, 32, 3) and batch.bad == []


# --- which images ---------------------------------------------------------------------------------


@pytest.fixture
def odd_tree(tmp_path):
    """Nested, linked, oddly named; ImageFolder does not open a file to list it."""
    root, elsewhere = tmp_path / "odd", tmp_path / "elsewhere" / "deep"
    files = ["b/2.JPEG", "b/10.jpg", "b/x/1.png", "b/x.y/1.webp", "b/x-y/z/3.tiff", "b/notes.txt"]
    files += ["a/Z.bmp", "a/a.ppm", "a/\u00e9.pgm", "a/\U0001f600.jpg", "C d/3.jpg", "1.jpg"]
    for file in [*(root / each for each in files), elsewhere / "far.jpg"]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    with open(os.path.join(os.fsencode(root), b"a", b"\xff.jpg"), "wb"):
        pass  # a name that is not UTF-8
    (root / "linked").symlink_to(elsewhere.parent)
    (root / "a" / "inner").symlink_to(elsewhere)
    (root / "a" / "dangling.jpg").symlink_to(root / "nowhere")
    return root


def age(root):
    """Let every folder have changed long ago."""
    for folder in {root, *(path for path in root.rglob("*") if path.is_dir())}:
        os.utime(folder, ns=(LONG_AGO, LONG_AGO))
        for inner in folder.iterdir():
            if inner.is_symlink() and inner.is_dir():
                age(inner)


def samples(images):
    paths = [os.path.join(images.root, os.fsdecode(path)) for path in images.paths]
    return list(zip(paths, images.labels.tolist(), strict=True))


def test_hidden_files_are_passed_over_and_other_endings_named(odd_tree):
    """macOS' ._x.jpg stopped the first epoch, and .ipynb_checkpoints was a class."""
    before = ImageIndex("").images(odd_tree)
    for name in ("a/._Z.bmp", "b/x/.1.png", ".ipynb_checkpoints/1.jpg", "b/.cache/1.jpg"):
        (odd_tree / name).parent.mkdir(exist_ok=True)
        (odd_tree / name).touch()
    (odd_tree / "b" / "x" / "moving.GIF").touch()
    (odd_tree / "a" / "README").touch()
    with log_lines() as lines:
        after = ImageIndex("").images(odd_tree)
    assert after.classes == before.classes
    assert samples(after) == samples(before)
    (line,) = [line for line in lines if line.startswith(f"passed over in {odd_tree}: ")]
    for part in (
        "4 hidden (first: .ipynb_checkpoints)",
        "1 outside the class folders (first: 1.jpg)",
        "1 with the ending .gif (first: b/x/moving.GIF)",
        "1 with the ending .txt (first: b/notes.txt)",
        "1 without an ending (first: a/README)",
    ):
        assert part in line


def test_links_that_lead_back_are_not_followed(odd_tree):
    """Each image once; two such links in one folder would make 2^40 of its images."""
    before = ImageIndex("").images(odd_tree)
    for name in ("b/x/back", "b/x/again"):
        (odd_tree / name).symlink_to(odd_tree / "b")
    with log_lines() as lines:
        after = ImageIndex("").images(odd_tree)
    assert samples(after) == samples(before)
    assert any("2 links to a folder that they are in (first: b/x/" in line for line in lines)


def test_a_val_folder_without_class_folders_says_what_to_do(small):
    for image in sorted((small / "val").glob("*/*.jpg")):
        image.rename(small / "val" / f"{image.parent.name}_{image.name}")
        image.parent.rmdir()
    message = refusal(small)
    assert f"{small / 'val'}: holds no class folder but 3 images; move each" in message


def test_images_order_and_labels_are_those_of_image_folder(odd_tree, tmp_path):
    theirs = ImageFolder(odd_tree)
    age(odd_tree)
    index = ImageIndex(tmp_path / "index")
    for images in (index.images(odd_tree), index.images(odd_tree)):  # scanned, then from the index
        assert images.classes == theirs.classes
        assert samples(images) == theirs.samples
    assert len(list((tmp_path / "index").iterdir())) == 1


def scans(index, root):
    """Whether going through the folders was needed; and the images are right anyhow."""
    with log_lines() as lines:
        images = index.images(root)
    assert samples(images) == ImageFolder(root, allow_empty=True).samples
    if not lines:
        return False
    assert f"scanning {root}" in lines[0] and str(len(images.paths)) in lines[1]
    return True


def test_an_unchanged_tree_is_not_gone_through_again(odd_tree, tmp_path):
    def noticed_once(folder, seconds):
        """As if the folder had changed so long after LONG_AGO."""
        os.utime(folder, ns=(LONG_AGO, LONG_AGO + seconds * 10**9))
        return scans(index, odd_tree) and not scans(index, odd_tree)

    index = ImageIndex(tmp_path / "index")
    age(odd_tree)
    assert scans(index, odd_tree)
    assert not scans(index, odd_tree) and not scans(ImageIndex(tmp_path / "index"), odd_tree)
    inner = odd_tree / "b" / "x-y" / "z"
    linked = odd_tree / "linked" / "deep"
    (inner / "new.jpg").touch()
    assert noticed_once(inner, 1)
    (inner / "new.jpg").unlink()
    assert noticed_once(inner, 2)
    (linked / "new.jpg").touch()
    assert noticed_once(linked, 1)
    (odd_tree / "b").rename(odd_tree / "bb")
    assert noticed_once(odd_tree, 1)
    shutil.rmtree(odd_tree / "bb")
    assert noticed_once(odd_tree, 2)


def test_a_tree_that_may_still_be_changing_is_not_kept(odd_tree, tmp_path):
    index = ImageIndex(tmp_path / "index")
    age(odd_tree)
    (odd_tree / "b" / "x" / "new.jpg").touch()
    assert scans(index, odd_tree) and scans(index, odd_tree)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    "spoil",
    [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"x" * len(whole)],
)
def test_a_broken_index_is_written_anew(odd_tree, tmp_path, spoil):
    index = ImageIndex(tmp_path / "index")
    age(odd_tree)
    index.images(odd_tree)
    (file,) = (tmp_path / "index").iterdir()
    file.write_bytes(spoil(file.read_bytes()))
    assert scans(index, odd_tree) and not scans(index, odd_tree)


def test_trees_do_not_share_an_index(odd_tree, tmp_path):
    index, other = ImageIndex(tmp_path / "index"), tmp_path / "other"
    (other / "a").mkdir(parents=True)
    (other / "a" / "1.jpg").touch()
    for root in (odd_tree, other):
        age(root)
        assert scans(index, root)
    assert not scans(index, odd_tree) and not scans(index, other)


def test_where_no_index_can_be_written_one_warning_says_so(odd_tree, tmp_path):
    (tmp_path / "file").touch()
    age(odd_tree)
    index = ImageIndex(tmp_path / "file" / "index")
    with log_lines() as lines:
        assert len(index.images(odd_tree).paths) == len(index.images(odd_tree).paths) > 0
    warned = [line for line in lines if "DATA.INDEX_DIR" in line]
    assert len(warned) == 1 and str(tmp_path / "file" / "index") in warned[0]
    assert scans(ImageIndex(""), odd_tree)


# --- what is wrong with the folders ---------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    return make_folders(tmp_path / "small", train=2, val=1)


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
    assert f"{small / 'train'}: 5 classes without any image: k0, k1, k2, ..." in message
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
