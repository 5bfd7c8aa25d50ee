"""Training batches as a function of seed and iteration: a resumed run reads what was next.

detectron2's loader begins a new random order at every start. Here each image is asked for by
(index, seed), the seed decides its augmentation, and the order is a plan that can be entered at any
iteration; so the number of workers changes nothing either.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.data import DatasetFromList
from torch.utils.data import DataLoader, Dataset

from ..parallel import World, keep_working


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
        self._dataset = _Mapped(dicts, mapper)
        self._batch, self.seed, self._world = batch_size // world.size, seed, world
        self._workers, self._by_aspect = workers, by_aspect

    def __iter__(self) -> Iterator[list[dict]]:
        # A generator starts no worker before its first batch is asked for, when `start` is set.
        yield from DataLoader(
            self._dataset,
            batch_sampler=itertools.islice(self._plan(), self.start, None),
            num_workers=self._workers,
            collate_fn=list,
            worker_init_fn=keep_working,
            generator=torch.Generator(),  # seeds the workers; else it draws from the global one
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
