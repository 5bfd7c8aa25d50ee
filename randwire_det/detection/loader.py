"""Batches for training, as a function of seed and iteration, and for tests.

detectron2's training loader begins a new random order at every start. Here each image is asked for
by (index, seed), the seed decides its augmentation, and the order is a plan that can be entered at
any iteration: a resumed run reads what was next, and the number of workers changes nothing either.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, DatasetMapper, build_detection_test_loader
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from torch.utils.data import DataLoader, Dataset

from ..coco.file_names import open_file
from ..coco.resizing import vanishes
from ..errors import UserError
from ..run.parallel import World
from ..run.pictures import opened, reason, why_unusable
from ..run.stopping import AskedToStop
from ..run.workers import Workers, batches_of


class TrainLoader:
    """Endless batches, each a list of what `mapper` makes of a data set's dicts.

    Args:
        dicts: the data set, in detectron2's format.
        mapper: a dict to the model's input, or to None, in whose place the next image is taken.
        batch_size: of all processes.
        workers: processes that read images, for each process of the training; 0 reads in it.
        by_aspect: put wide images and high ones into batches of their own, as detectron2 does.

    Attributes:
        start, seed: the iteration that the first batch is for, and of what order; to be set before
            the loader is iterated.

    Raises:
        UserError: on iterating, an image cannot be read, or a worker was killed.
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
    ):
        self.start = 0
        self._wide = np.array([each["width"] > each["height"] for each in dicts])
        self._dataset = _Mapped(dicts, Reading(mapper))
        self._batch, self.seed, self._world = batch_size // world.size, seed, world
        self._workers, self._by_aspect = workers, by_aspect

    def __iter__(self) -> Iterator[list[dict]]:
        # A generator starts no worker before its first batch is asked for, when `start` is set.
        yield from _without_errors(
            DataLoader(
                self._dataset,
                batch_sampler=itertools.islice(self._plan(), self.start, None),
                num_workers=self._workers,
                collate_fn=list,
                worker_init_fn=Workers(),
                generator=torch.Generator(),  # seeds the workers; else it draws from the global one
            )
        )

    def _plan(self) -> Iterator[list[tuple[int, int]]]:
        """The (index, seed) of every batch of this process."""
        kinds = [], []
        for index, seed in itertools.islice(
            self._stream(), self._world.rank, None, self._world.size
        ):
            batch = kinds[int(self._by_aspect and self._wide[index])]
            batch.append((index, seed))
            if len(batch) == self._batch:
                yield list(batch)
                batch.clear()

    def _stream(self) -> Iterator[tuple[int, int]]:
        """All images in random order, again and again, each time with another seed."""
        for epoch in itertools.count():
            rng = np.random.default_rng([self.seed, epoch])
            order = rng.permutation(len(self._dataset))
            seeds = rng.integers(2**62, size=len(order))
            yield from zip(order.tolist(), seeds.tolist(), strict=True)


class TestLoader:
    """detectron2's batches of a test set, each image once over all processes.

    An image that cannot be read ends the iteration of all processes, after the batches of each.

    Args:
        cfg: as of `build_detection_test_loader`; each batch is one image.
        dataset: the name of a registered data set.

    Raises:
        UserError: on iterating, an image cannot be read, or a worker was killed.
    """

    __test__ = False  # pytest takes the name for a test's

    def __init__(self, cfg: CfgNode, dataset: str, world: World):
        reading = Reading(DatasetMapper(cfg, False))
        self._loader = build_detection_test_loader(cfg, dataset, mapper=reading)
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

        def tell():
            if error is not None:
                raise error

        # The others are in their own batches: they learn of it where all of them meet.
        self._world.together(tell)


class Reading:
    """A mapper that returns a UserError for an image that cannot be read, or is of another size.

    One raised in a worker would reach the main process wrapped in the worker's traceback. What else
    a mapper raises is a mistake in it, or in an annotation: that keeps its traceback.
    """

    def __init__(self, mapper: Callable[[dict], dict | None]):
        self._mapper = mapper
        # Another mapper may know better what a file holds.
        self._looks_first = isinstance(mapper, DatasetMapper)

    def __call__(self, entry: dict) -> dict | UserError | None:
        name = entry.get("file_name")
        # detectron2 would take some pictures for others than they are, and wait for a named pipe.
        if self._looks_first and name is not None and (fault := why_unusable(name, open_file)):
            return _error(name, f"cannot be read: {fault}")
        try:
            return self._mapper(entry)
        except Exception as error:
            if name is None:
                raise
            # An OSError may be of another file than the image, or gone at the second look.
            fault = _fault(entry, self._mapper)
            if not fault and isinstance(error, OSError):
                fault = f"cannot be read: {reason(error)}"
            if not fault:
                raise RuntimeError(f"the mapper failed at {name}") from error
            return _error(name, fault)


def _error(name: str, fault: str) -> UserError:
    return UserError(
        f"{name}: {fault}; mend it, or take it out of the annotations"
        " (tools/check_dataset.py --decode finds all such images)"
    )


def _fault(entry: dict, mapper: Callable) -> str | None:
    """In a few words why an image cannot be mapped; None where it can."""
    try:
        with opened(entry["file_name"], open_file):
            height, width = read_image(entry["file_name"], "RGB").shape[:2]
    except Exception as error:  # of broken bytes Pillow raises almost anything
        return f"cannot be read: {reason(error)}"
    stated = entry.get("width", width), entry.get("height", height)
    if stated == (width, height):
        listed = getattr(getattr(mapper, "augmentations", None), "augs", [])
        resizes = [each for each in listed if isinstance(each, T.ResizeShortestEdge)]
        thin = any(vanishes(width, height, each.max_size) for each in resizes)
        return f"{width} x {height} pixels, too thin to be resized" if thin else None
    return f"{width} x {height} pixels, but {stated[0]} x {stated[1]} in its annotation"


def _without_errors(loader: DataLoader) -> Iterator[list[dict]]:
    """The batches; a UserError among their items is raised."""
    for batch in batches_of(loader, "DATALOADER.NUM_WORKERS"):
        error = next((item for item in batch if isinstance(item, UserError)), None)
        if error is not None:
            # A new one: it could not be freed while its traceback leads to `batch`.
            raise UserError(str(error))
        yield batch


class _Mapped(Dataset):
    """Data set and mapper, asked for (index, seed)."""

    def __init__(self, dicts, mapper):
        self._dicts = DatasetFromList(dicts)  # one array, which workers share; gives out copies
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
        raise RuntimeError("the mapper takes none of the images")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that augmentations draw from, and put them back afterwards."""
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
