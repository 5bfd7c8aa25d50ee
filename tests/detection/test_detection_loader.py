"""Batches of a detection, and the one line where an image is no good or a worker is killed."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import traceback

import numpy as np
import pytest
import torch
from detection_helpers import RUN, in_two, refused, tiny_config
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
)
from detectron2.data.samplers import RepeatFactorTrainingSampler
from PIL import Image
from pretrain_helpers import message_of
from process_helpers import free_port

from randwire_det.coco.datasets import register_coco_datasets
from randwire_det.coco.lint import check_dataset
from randwire_det.detection.loader import TestLoader, TrainLoader, repeat_factors
from randwire_det.detection.processes import introduce
from randwire_det.detection.trainer import RandWireTrainer
from randwire_det.errors import EXIT_STOPPED, UserError
from randwire_det.run import parallel
from randwire_det.run.parallel import World
from randwire_det.run.stopping import Stopping

ALONE = World()


@pytest.fixture
def root(shapes, tmp_path):
    """A copy of the data set, to be spoilt."""
    return shutil.copytree(shapes, tmp_path / "datasets")


@pytest.fixture
def cfg(root):
    cfg = tiny_config(**RUN | {"MODEL.DEVICE": "cpu"})
    register_coco_datasets(cfg, str(root))
    yield cfg
    DatasetCatalog.pop("shapes")
    MetadataCatalog.pop("shapes")


def train_loader(dicts, mapper, *, size=2, workers=0, by_aspect=False, world=ALONE, repeats=None):
    options = {"batch_size": size, "workers": workers, "by_aspect": by_aspect, "world": world}
    options |= {"repeats": repeats}
    return TrainLoader(dicts, mapper, seed=1, **options)


def first(batches, count):
    return list(itertools.islice(batches, count))


# --- what comes in a batch


@pytest.mark.parametrize("workers", [0, 2])
def test_the_batches_of_a_test_are_those_of_detectron2(cfg, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    ours, theirs = TestLoader(cfg, "shapes", ALONE), build_detection_test_loader(cfg, "shapes")
    assert len(ours) == len(theirs) == 4
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one[0].pop("image"), other[0].pop("image"))
        assert one == other


def test_neither_loader_draws_from_the_global_generator(cfg):
    """What comes after an evaluation is what would have come without it."""
    before = torch.get_rng_state()
    first(train_loader(DatasetCatalog.get("shapes"), DatasetMapper(cfg, True)), 3)
    first(TestLoader(cfg, "shapes", ALONE), 4)
    assert torch.equal(torch.get_rng_state(), before)


def wide_and_high(count):
    return [{"id": n, "width": 2 + n % 3, "height": 3} for n in range(count)]


def test_in_an_epoch_the_processes_take_every_image_once():
    batches = [
        batch
        for rank in range(2)
        for batch in first(train_loader(wide_and_high(12), dict, size=4, world=World(rank, 2)), 3)
    ]
    assert [len(batch) for batch in batches] == [2] * 6
    assert sorted(entry["id"] for batch in batches for entry in batch) == list(range(12))


REPEATS = np.array([1.0, 2.5, 1.0, 4.0, 1.2])


def test_rare_images_are_repeated_as_often_as_detectron2_repeats_them():
    """By its sampler's factors: each epoch the whole part, and the rest by chance."""
    epochs, numbers = 400, list(range(len(REPEATS)))
    dicts = [{"id": number, "width": 2, "height": 3} for number in numbers]
    loader = train_loader(dicts, dict, size=1, repeats=REPEATS)
    stream, counts = (index for index, _ in loader._stream()), []
    for epoch in range(epochs):
        drawn = np.random.default_rng([1, epoch]).random(len(REPEATS))
        length = int(np.floor(REPEATS + drawn).sum())
        taken = list(itertools.islice(stream, length))
        counts.append([taken.count(number) for number in numbers])
    counts = np.array(counts)
    assert (counts >= np.floor(REPEATS)).all() and (counts <= np.ceil(REPEATS)).all()
    assert counts.mean(axis=0) == pytest.approx(REPEATS, abs=0.1)
    sampler = RepeatFactorTrainingSampler(torch.from_numpy(REPEATS).float(), seed=1)
    theirs = np.bincount(list(itertools.islice(iter(sampler), int(REPEATS.sum() * epochs))))
    assert theirs / epochs == pytest.approx(counts.mean(axis=0), abs=0.15)


def test_repeated_images_go_on_as_from_the_start_and_differ_between_processes():
    dicts = wide_and_high(5)
    whole = first(train_loader(dicts, dict, repeats=REPEATS), 40)
    later = train_loader(dicts, dict, repeats=REPEATS)
    later.start = 17
    assert first(later, 23) == whole[17:]
    ranks = [
        first(train_loader(dicts, dict, size=4, world=World(rank, 2), repeats=REPEATS), 20)
        for rank in range(2)
    ]
    alone = itertools.chain(*first(train_loader(dicts, dict, size=4, repeats=REPEATS), 20))
    by_turns = zip(*(itertools.chain(*batches) for batches in ranks), strict=True)
    assert list(itertools.chain(*by_turns)) == list(alone)


def test_the_factors_are_those_of_the_config(cfg, caplog):
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.5
    dicts = [
        {"annotations": [{"category_id": category}], "width": 2, "height": 3, "id": number}
        for number, category in enumerate([0] * 7 + [1])
    ]
    with caplog.at_level("INFO"):
        factors = repeat_factors(dicts, cfg)
    assert factors == pytest.approx([1] * 7 + [2])  # sqrt(0.5 / (1 / 8))
    assert "9 images on average instead of 8" in caplog.text
    assert isinstance(RandWireTrainer.build_train_loader(cfg), TrainLoader)


def test_wide_images_and_high_ones_come_in_batches_of_their_own():
    batches = first(train_loader(wide_and_high(12), dict, by_aspect=True), 20)
    shapes_of = [{entry["width"] > entry["height"] for entry in batch} for batch in batches]
    assert {True} in shapes_of and {False} in shapes_of and {True, False} not in shapes_of


def test_entered_at_an_iteration_it_goes_on_as_from_the_start(cfg):
    """With other workers: what becomes of an image is the same, too."""
    mapper = DatasetMapper(cfg, True)
    dicts = DatasetCatalog.get("shapes")
    whole = first(train_loader(dicts, mapper), 8)
    later = train_loader(dicts, mapper, workers=2)
    later.start = 3
    for one, other in zip(
        itertools.chain(*first(later, 5)), itertools.chain(*whole[3:]), strict=True
    ):
        assert one["file_name"] == other["file_name"]
        assert torch.equal(one["image"], other["image"])
    corners = {
        (entry["file_name"], int(entry["image"][0, 0, 0])) for entry in itertools.chain(*whole)
    }
    assert len(corners) > len(dicts)  # it was flipped in one epoch, and not in another


# --- images that are no good


def cut(path):
    path.write_bytes(path.read_bytes()[:-9000])


def narrow(path):
    Image.open(path).crop((0, 0, 100, 96)).save(path)


DAMAGES = {
    "gone": (lambda path: path.unlink(), "No such file"),
    "cut": (cut, "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "text": (lambda path: path.write_text("<html>"), "no format that Pillow knows"),
    "narrow": (narrow, "100 x 96 pixels, but 128 x 96"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_image_that_is_no_good_is_reported_in_one_line(cfg, root, damage):
    path = root / "images" / "3.png"
    spoil, reason = DAMAGES[damage]
    spoil(path)
    dicts = DatasetCatalog.get("shapes")
    for cfg.DATALOADER.NUM_WORKERS in (0, 1):
        train = train_loader(dicts, DatasetMapper(cfg, True), workers=cfg.DATALOADER.NUM_WORKERS)
        for loader in (train, TestLoader(cfg, "shapes", ALONE)):
            message = message_of(first, iter(loader), 4)
            assert message.startswith(f"{path}: ") and reason in message
    assert "tools/check_dataset.py --decode" in message
    report = check_dataset(*(root / "shapes.json", root / "images"), training=True, images="decode")
    assert "3.png" in message_of(report.raise_if_fatal)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_mapper_or_annotation_keeps_its_traceback(cfg, workers):
    dicts = DatasetCatalog.get("shapes")
    dicts[1]["annotations"][0]["bbox"] = "wide"
    with pytest.raises(RuntimeError, match=dicts[1]["file_name"]) as caught:
        first(train_loader(dicts, DatasetMapper(cfg, True), workers=workers), 2)
    text = "".join(traceback.format_exception(caught.value))
    assert "transform_instance_annotations" in text


@pytest.mark.slow_suite
def test_a_killed_worker_is_reported_in_one_line_when_a_batch_is_due(cfg):
    """And not while the main process is at something else, where others may wait for it."""
    loader = train_loader(DatasetCatalog.get("shapes"), DatasetMapper(cfg, True), workers=1)
    others = set(multiprocessing.active_children())
    batches = iter(loader)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    os.kill(worker.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    message = message_of(first, batches, 10)
    assert "killed" in message and "DATALOADER.NUM_WORKERS" in message


# --- several processes


def evaluate(rank, port, cfg, output, stop):
    """What one of two processes is given of a test set, and how that ends."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    seen, end = [], "whole"
    with parallel.joined() as world, Stopping():
        introduce(world)
        try:
            for (entry,) in TestLoader(cfg, "shapes", world):
                seen.append(entry["image_id"])
                if stop and rank == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
        except UserError as error:
            end = str(error)
        except SystemExit as left:
            end = f"left with {left.code}"
    (output / f"{rank}.json").write_text(json.dumps([seen, end]))


@pytest.mark.parametrize(("damaged", "stopped"), [(False, False), (True, False), (False, True)])
def test_a_test_ends_in_all_processes_and_one_says_why(cfg, root, tmp_path, damaged, stopped):
    path = root / "images" / "4.png"
    if damaged:
        cut(path)
    arguments = (free_port(), cfg, tmp_path, stopped)
    torch.multiprocessing.start_processes(evaluate, arguments, 2, start_method="fork")
    (one, end), (other, its_end) = (
        json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)
    )
    assert one == [1, 2]
    if stopped:
        assert other == [3]
        assert end == its_end == f"left with {EXIT_STOPPED}"
    elif damaged:
        assert other == [3]
        assert end == "left with 1" and its_end.startswith(f"{path}: ")
    else:
        assert other == [3, 4]
        assert end == its_end == "whole"


@pytest.mark.slow_suite
def test_a_training_in_two_processes_ends_with_one_line(root, tmp_path):
    cut(root / "images" / "4.png")
    done = in_two("--num-gpus", root, **{"OUTPUT_DIR": tmp_path / "run", "SOLVER.MAX_ITER": 50})
    refused(done, 1, root / "images" / "4.png", "truncated")
    assert "Traceback" not in (tmp_path / "run" / "log.txt").read_text()
