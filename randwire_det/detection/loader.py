"""Data loaders for training, where batches depend only on seed and iteration, and for testing.

detectron2's training loader starts a new random order at every start. Here an image is requested
by (index, seed), the seed determines its augmentation, and the order can be entered at any
iteration: neither resuming a run nor the number of workers changes the batches.
"""

import itertools
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, DatasetMapper, build_detection_test_loader
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.data.samplers import RepeatFactorTrainingSampler
from torch.utils.data import DataLoader, Dataset

from ..coco.file_names import open_file
from ..coco.resizing import vanishes
from ..errors import UserError
from ..run.parallel import World
from ..run.pictures import opened, reason, why_unusable
from ..run.stopping import AskedToStop
from ..run.workers import Workers, batches_of
from .training_set import training_set

logger = logging.getLogger(__name__)


class TrainLoader:
    """Infinite batches of a data set, each a list of the outputs of `mapper`.

    Args:
        dicts: the data set, in detectron2's format.
        mapper: maps a dict to the model's input, or to None to take the next image instead.
        batch_size: over all ranks.
        seed: of the order and the augmentation.
        workers: processes that read images, per rank; 0 reads in the main process.
        by_aspect: do not mix wide and tall images in a batch, as in detectron2.
        repeats: (images,), how often each is in an epoch on average, 1 or more, as of
            RepeatFactorTrainingSampler; None for once.

    Attributes:
        start: iteration of the first batch, 0 by default. Set it, and `seed`, before iterating.
        training_set: what identifies the data set (`training_set`).

    Raises:
        UserError: while iterating, an image cannot be read or a worker was killed.
    """

    def __init__(
        self,
        dicts: list[dict],
        mapper: Callable[[dict], dict | None],
        *,
        batch_size: int,
        seed: int,
        workers: int,
        by_aspect: bool,
        world: World,
        repeats: np.ndarray | None = None,
    ):
        self.start = 0
        self._repeats = repeats
        self.training_set = training_set(dicts)
        self._wide = np.array([each["width"] > each["height"] for each in dicts])
        self._dataset = _Mapped(dicts, Reading(mapper))
        self._batch, self.seed, self._world = batch_size // world.size, seed, world
        self._workers, self._by_aspect = workers, by_aspect

    def __iter__(self) -> Iterator[list[dict]]:
        # A generator, so that workers start at the first batch, after `start` was set.
        yield from _without_errors(
            DataLoader(
                self._dataset,
                batch_sampler=itertools.islice(self._plan(), self.start, None),
                num_workers=self._workers,
                collate_fn=list,
                worker_init_fn=Workers(),
                generator=torch.Generator(),  # keep the global one unchanged
            )
        )

    def _plan(self) -> Iterator[list[tuple[int, int]]]:
        """The (index, seed) pairs of each batch of this rank."""
        pending = [], []  # tall and wide
        for index, seed in itertools.islice(
            self._stream(), self._world.rank, None, self._world.size
        ):
            batch = pending[int(self._by_aspect and self._wide[index])]
            batch.append((index, seed))
            if len(batch) == self._batch:
                yield list(batch)
                batch.clear()

    def _stream(self) -> Iterator[tuple[int, int]]:
        """All images in random order, epoch after epoch, each time with another seed."""
        for epoch in itertools.count():
            rng = np.random.default_rng([self.seed, epoch])
            images = np.arange(len(self._dataset))
            if self._repeats is not None:  # 1.3 is once, and in three of ten epochs twice
                drawn = rng.random(len(images))
                images = np.repeat(images, np.floor(self._repeats + drawn).astype(int))
            order = rng.permutation(images)
            seeds = rng.integers(2**62, size=len(order))
            yield from zip(order.tolist(), seeds.tolist(), strict=True)


def repeat_factors(dicts: list[dict], cfg: CfgNode) -> np.ndarray:
    """RepeatFactorTrainingSampler's, of DATALOADER.REPEAT_THRESHOLD; see `TrainLoader`."""
    options = {}
    if "REPEAT_SQRT" in cfg.DATALOADER:  # since v0.6
        options["sqrt"] = cfg.DATALOADER.REPEAT_SQRT
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        dicts, cfg.DATALOADER.REPEAT_THRESHOLD, **options
    ).numpy()
    logger.info(
        f"An epoch has {factors.sum():.0f} images on average instead of {len(dicts)}: images with a"
        f" class in less than {cfg.DATALOADER.REPEAT_THRESHOLD:.3g} of all are repeated, up to"
        f" {factors.max():.2f} times"
    )
    return factors


class TestLoader:
    """detectron2's test loader: batches of one image, each image once over all ranks.

    If a rank fails, the others raise, too, after their last batch.

    Args:
        cfg: as for `build_detection_test_loader`.
        dataset: the name of a registered data set.
        dicts: those of its images to test on; None for all.
        mapper: of an image; detectron2's for a test by default.

    Raises:
        UserError: while iterating, an image cannot be read or a worker was killed.
    """

    __test__ = False  # not a test class, whatever its name

    def __init__(
        self,
        cfg: CfgNode,
        dataset: str,
        world: World,
        *,
        dicts: list[dict] | None = None,
        mapper: DatasetMapper | None = None,
    ):
        reading = Reading(mapper or DatasetMapper(cfg, False))
        if dicts is None:
            self._loader = build_detection_test_loader(cfg, dataset, mapper=reading)
        else:
            self._loader = build_detection_test_loader(
                dicts, mapper=reading, num_workers=cfg.DATALOADER.NUM_WORKERS
            )
        self._loader.worker_init_fn = Workers()
        self._loader.generator = torch.Generator()  # as in training
        self._world = world

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[dict]]:
        error = None
        try:
            yield from _without_errors(self._loader)
        except (UserError, AskedToStop) as caught:
            error = caught

        def raise_error():
            if error is not None:
                raise error

        # The other ranks may be within their batches; the error reaches them after the last one.
        self._world.together(raise_error)


class Reading:
    """Wraps a mapper to return a UserError if an image is unreadable or of an unexpected size.

    If a worker raised it, the main process would get it wrapped in the worker's traceback. Any
    other error is a bug in the mapper or a bad annotation, and keeps its traceback.
    """

    def __init__(self, mapper: Callable[[dict], dict | None]):
        self._mapper = mapper
        # Another mapper may read files that `why_unusable` refuses.
        self._check_first = isinstance(mapper, DatasetMapper)

    def __call__(self, entry: dict) -> dict | UserError | None:
        name = entry.get("file_name")
        # detectron2 would misread some pictures, and block on a named pipe.
        if self._check_first and name is not None and (fault := why_unusable(name, open_file)):
            return _error(name, f"cannot be read: {fault}")
        try:
            return self._mapper(entry)
        except Exception as error:
            if name is None:
                raise
            # An OSError may concern another file than the image, or be temporary.
            fault = _fault(entry, self._mapper)
            if not fault and isinstance(error, OSError):
                fault = f"cannot be read: {reason(error)}"
            if not fault:
                raise RuntimeError(f"the mapper failed at {name}") from error
            return _error(name, fault)


def _error(name: str, fault: str) -> UserError:
    return UserError(
        f"{name}: {fault}; repair it, or remove it from the annotations"
        " (tools/check_dataset.py --decode finds all such images)"
    )


def _fault(entry: dict, mapper: Callable) -> str | None:
    """A short reason why the mapper fails at an image; None if its file is usable."""
    try:
        with opened(entry["file_name"], open_file):
            height, width = read_image(entry["file_name"], "RGB").shape[:2]
    except Exception as error:  # Pillow may raise any exception for damaged files
        return f"cannot be read: {reason(error)}"
    stated = entry.get("width", width), entry.get("height", height)
    if stated == (width, height):
        listed = getattr(getattr(mapper, "augmentations", None), "augs", [])
        resizes = [each for each in listed if isinstance(each, T.ResizeShortestEdge)]
        thin = any(vanishes(width, height, each.max_size) for each in resizes)
        return f"{width} x {height} pixels, too thin to be resized" if thin else None
    return f"{width} x {height} pixels, but {stated[0]} x {stated[1]} in its annotation"


def _without_errors(loader: DataLoader) -> Iterator[list[dict]]:
    """Yield the batches of a loader; raise the first UserError among their items."""
    for batch in batches_of(loader, "DATALOADER.NUM_WORKERS"):
        error = next((item for item in batch if isinstance(item, UserError)), None)
        if error is not None:
            # A copy, because `error` and `batch` would reference each other by the traceback.
            raise UserError(str(error))
        yield batch


class _Mapped(Dataset):
    """The mapped items of a data set, by (index, seed)."""

    def __init__(self, dicts, mapper):
        self._dicts = DatasetFromList(dicts)  # one array that workers share; returns copies
        self._mapper = mapper

    def __len__(self):
        return len(self._dicts)

    def __getitem__(self, key):
        index, seed = key
        with seeded(seed):
            for _ in range(len(self)):
                mapped = self._mapper(self._dicts[index])
                if mapped is not None:
                    return mapped
                index = (index + 1) % len(self)
        raise RuntimeError("the mapper returned None for all images")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """In the block, seed the global generators that augmentations use; restore them afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
