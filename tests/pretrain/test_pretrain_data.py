"""The images of the pretraining: order, seeds, workers, and how they are prepared."""

import multiprocessing
import os
import random
import resource
import signal

import numpy as np
import pytest
import torch
from conftest import REPO, run_python
from PIL import Image
from pretrain_helpers import EPOCH_LENGTH, loaded, make_folders, message_of, tiny
from torchvision.transforms import RandomResizedCrop

from pretrain import augment, data
from randwire_det.run.checkpoint import Preprocessing


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("colours"))


def assert_same(some, others):
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        assert one.bad == other.bad


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


@pytest.mark.slow_suite
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


def test_a_killed_worker_is_reported_in_one_line(folders, tmp_path):
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
