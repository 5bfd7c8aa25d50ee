"""Class folders to batches, which depend only on SEED and epoch.

An image is requested by (index, seed), and the seed determines its augmentation, so neither the
number of workers nor resuming in mid-epoch changes the batches. Images stay uint8 until they are on
the device, where `Normalise` converts them.
"""

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from randwire_det.errors import UserError
from randwire_det.run.checkpoint import Preprocessing
from randwire_det.run.classes import check_same_classes, few
from randwire_det.run.pictures import read_picture, reason
from randwire_det.run.workers import Workers, batches_of

from .augment import Transform, train_transform, val_transform
from .config import test_size
from .folders import ImageIndex, ImageList, loose_images

UNREADABLE_IN_A_ROW = 100  # more suggest a failing disk, not damaged images


class Batch(NamedTuple):
    """A batch of images with labels.

    Attributes:
        images: uint8 (B, H, W, 3), RGB.
        labels: int64 (B,).
        bad: paths of the images that could not be read.
    """

    images: Tensor
    labels: Tensor
    bad: list[str]


class ClassFolders(Dataset):
    """The images of a list, requested by (index, seed).

    Args:
        transform: maps an RGB image and a seed to an image.
        size: height and width in pixels of the output of `transform`.
        on_bad: what to do at an unreadable image: "raise" an error, "replace" it by the next image
            of the list, or "leave out".
    """

    def __init__(self, images: ImageList, transform: Transform, size: int, on_bad: str = "raise"):
        self.root, self.classes, self.paths, self.labels = images
        self.transform, self.size, self.on_bad = transform, size, on_bad

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def digest(self) -> str:
        """SHA-256 of the images' names, order and classes; it does not depend on `root`."""
        content = hashlib.sha256("\n".join(self.classes).encode("utf-8", "surrogateescape"))
        content.update(self.labels.tobytes())
        content.update(b"\n".join(self.paths.tolist()))
        return content.hexdigest()

    def path(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.paths[index]))

    def __getitem__(self, key) -> tuple[np.ndarray | None, int, list[str]] | UserError:
        """(uint8 array (H, W, 3) or None if left out, label, unreadable paths), or an error.

        If a worker raised the error, the main process would get it wrapped in the worker's
        traceback.
        """
        index, seed = map(int, key)
        bad = []
        while len(bad) < min(UNREADABLE_IN_A_ROW, len(self)):
            image = _read(self.path(index))
            if isinstance(image, Image.Image):
                pixels = np.asarray(self.transform(image, seed))
                return pixels, int(self.labels[index]), bad
            bad.append(self.path(index))
            if self.on_bad == "raise":
                return UserError(
                    f"{bad[0]}: cannot be read as an image: {image}; repair it, remove it, or set"
                    " DATA.ON_BAD_IMAGE skip"
                )
            if self.on_bad == "leave out":
                return None, -1, bad
            index = (index + 1) % len(self)
        return UserError(
            f"{bad[0]} and the {len(bad) - 1} images after it cannot be read ({image}):"
            " is the disk there?"
        )

    def collate(self, items: list) -> Batch | UserError:
        """Collate items to a batch, or return the first error among them."""
        error = next((item for item in items if isinstance(item, UserError)), None)
        if error is not None:
            return error
        images = torch.empty(0, self.size, self.size, 3, dtype=torch.uint8)
        read = [item for item in items if item[0] is not None]
        if read:
            images = torch.from_numpy(np.stack([pixels for pixels, _, _ in read]))
        labels = torch.tensor([label for _, label, _ in read], dtype=torch.int64)
        return Batch(images, labels, [path for _, _, bad in items for path in bad])


def _read(path: str) -> Image.Image | str:
    """The image, or a short reason why it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about damaged EXIF data for example
            return read_picture(path)
    except Exception as error:  # Pillow may raise any exception for damaged files
        return reason(error)


def open_data(cfg: CfgNode) -> tuple[ClassFolders, ClassFolders]:
    """The data sets DATA.ROOT/train, in random crops, and DATA.ROOT/val, in centre crops.

    Raises:
        UserError: lists all problems of the folders in one line.
    """
    train, val = _list_images(cfg, ["train", "val"])
    on_bad = "raise" if cfg.DATA.ON_BAD_IMAGE == "raise" else "replace"
    return ClassFolders(train, train_transform(cfg), cfg.INPUT.SIZE, on_bad), _val_set(cfg, val)


def open_val(cfg: CfgNode) -> ClassFolders:
    """The data set DATA.ROOT/val of `open_data`."""
    return _val_set(cfg, *_list_images(cfg, ["val"]))


def _val_set(cfg: CfgNode, images: ImageList) -> ClassFolders:
    on_bad = "raise" if cfg.DATA.ON_BAD_IMAGE == "raise" else "leave out"
    return ClassFolders(images, val_transform(cfg), test_size(cfg), on_bad)


def _list_images(cfg: CfgNode, splits: list[str]) -> list[ImageList]:
    """The images of every split, or a UserError that lists all problems."""
    index, lists, problems = ImageIndex(cfg.DATA.INDEX_DIR), [], []
    for split in splits:
        folder = Path(cfg.DATA.ROOT).expanduser() / split
        if not folder.is_dir():
            problems.append(f"{folder}: no such folder")
            continue
        try:
            images = index.images(folder)
        except UserError as error:
            problems.append(str(error))
            continue
        problems += _problems(images)
        if images.classes:
            lists.append(images)
    if len(lists) == 2:
        try:
            check_same_classes(*[part for each in lists for part in (each.root, each.classes)])
        except UserError as error:
            problems.append(str(error))
    if problems:
        expected = f"DATA.ROOT must hold {' and '.join(f'{split}/<class>/' for split in splits)}"
        raise UserError("; ".join([*problems, expected]))
    return lists


def _problems(images: ImageList) -> list[str]:
    """The problems of one split."""
    if not images.classes:
        loose = loose_images(images.root)
        but = f" but {loose} images; move each into the folder of its class" if loose else ""
        return [f"{images.root}: holds no class folder{but}"]
    counts = np.bincount(images.labels, minlength=len(images.classes))
    empty = [name for name, count in zip(images.classes, counts, strict=True) if count == 0]
    if not empty:
        return []
    endings = f"known endings are {', '.join(IMG_EXTENSIONS)}; hidden files do not count"
    if len(empty) == len(counts):
        return [f"{images.root}: no image in any of its {len(counts)} class folders ({endings})"]
    return [f"{images.root}: {len(empty)} classes without any image: {few(empty)} ({endings})"]


def epoch_plan(num_images: int, seed: int, epoch: int) -> np.ndarray:
    """(index, seed) of all images in random order: int64 (num_images, 2).

    It depends only on the arguments; ranks and runs resumed in mid-epoch take slices of it.
    """
    rng = np.random.default_rng([seed, epoch])
    return np.stack([rng.permutation(num_images), rng.integers(2**62, size=num_images)], axis=1)


def in_order(num_images: int) -> np.ndarray:
    """(index, 0) of all images: int64 (num_images, 2), for tests, whose crops ignore the seed."""
    return np.stack([np.arange(num_images), np.zeros(num_images, np.int64)], axis=1)


class Loader:
    """Batches of a data set, read by workers that persist from epoch to epoch.

    Args:
        workers: processes that read images; 0 reads in the main process.
        prefetch: batches that each worker keeps ready.
    """

    def __init__(self, dataset: ClassFolders, *, workers: int, prefetch: int):
        self.dataset = dataset
        self._plan = _Plan()
        self._loader = DataLoader(
            dataset,
            batch_sampler=self._plan,
            collate_fn=dataset.collate,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            persistent_workers=workers > 0,
            worker_init_fn=Workers(),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # keep the global one unchanged
        )

    def __call__(self, batches: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Iterate over the given batches in order; this ends the iteration of an earlier call.

        Args:
            batches: (index, seed) of the images of each batch, int64 (B, 2).

        Raises:
            UserError: an image cannot be read, or a worker was killed.
        """
        self._plan.batches = batches
        for batch in batches_of(self._loader, "DATA.NUM_WORKERS or DATA.PREFETCH"):
            if isinstance(batch, UserError):
                # A copy: the traceback of `batch` itself would reference it, and this cycle would
                # keep the workers of this loader alive.
                raise UserError(str(batch))
            yield batch


class _Plan:
    """A batch sampler whose batches can be set before every epoch."""

    def __init__(self):
        self.batches: Iterable[np.ndarray] = ()

    def __iter__(self):
        return iter(self.batches)


class Normalise(nn.Module):
    """Convert uint8 images (B, H, W, 3) to the trunk's input, float (B, 3, H, W), channels-last."""

    def __init__(self, preprocessing: Preprocessing):
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        # A permuted (B, H, W, 3) is channels-last already, and the operations below keep that.
        images = images.to(self.mean.device, non_blocking=True).permute(0, 3, 1, 2)
        return images.float().sub_(self.mean).div_(self.std)
