"""Class folders to batches: what becomes of an image depends on it, SEED and the epoch alone.

The dataset is asked for (index, seed) pairs, and the seed decides the augmentation. So the number
of workers changes nothing, and an epoch that starts anew after a resume is the same epoch.
Images stay uint8 until they are on the device, where `Normalise` does the rest.
"""

import math
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset
from torchvision.transforms import functional

from randwire_det.checkpoint import Preprocessing
from randwire_det.errors import UserError

from .config import test_size

Transform = Callable[[Image.Image, random.Random], Image.Image]


class ClassFolders(Dataset):
    """The images of `root`/<class>/, classes sorted by name, as torchvision's ImageFolder has them.

    An item is asked for by (index, seed) and comes as (uint8 array (H, W, 3) in RGB, label), or,
    for a file that is no image, as the UserError that names it: an exception raised in a worker
    would reach the main process wrapped in the worker's traceback.

    Args:
        transform: an RGB image and a random generator to an image.

    Raises:
        UserError: no such folder, no class in it, or a class without any image.
    """

    def __init__(self, root: Path, transform: Transform):
        if not root.is_dir():
            raise UserError(
                f"{root}: no such folder; DATA.ROOT must hold train/<class>/ and val/<class>/"
            )
        if not any(entry.is_dir() for entry in root.iterdir()):
            raise UserError(f"{root}: holds no class folder; expected {root}/<class>/<image>")
        self.classes, index = find_classes(root)
        self.samples = make_dataset(root, index, IMG_EXTENSIONS, allow_empty=True)
        self.transform = transform
        filled = {label for _, label in self.samples}
        empty = [name for name in self.classes if index[name] not in filled]
        if empty:
            more = f" (and {len(empty) - 1} more classes)" if len(empty) > 1 else ""
            endings = ", ".join(IMG_EXTENSIONS)
            raise UserError(f"{root / empty[0]}{more}: holds no image; known endings are {endings}")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key) -> tuple[np.ndarray, int] | UserError:
        index, seed = key
        path, label = self.samples[int(index)]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except Exception as error:  # PIL raises almost anything at broken bytes
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            return UserError(f"{path}: cannot be read as an image: {reason}")
        return np.asarray(self.transform(image, random.Random(int(seed)))), label


def train_set(cfg: CfgNode) -> ClassFolders:
    """DATA.ROOT/train, in random crops."""
    crop = partial(
        random_crop, size=cfg.INPUT.SIZE, min_scale=cfg.INPUT.MIN_SCALE, flip=cfg.INPUT.FLIP
    )
    return ClassFolders(Path(cfg.DATA.ROOT) / "train", crop)


def val_set(cfg: CfgNode) -> ClassFolders:
    """DATA.ROOT/val, in centre crops."""
    crop = partial(centre_crop, resize=cfg.INPUT.TEST_RESIZE, size=test_size(cfg))
    return ClassFolders(Path(cfg.DATA.ROOT) / "val", crop)


def random_crop(
    image: Image.Image, rng: random.Random, *, size: int, min_scale: float, flip: bool
) -> Image.Image:
    """The training crop of [11]: any share of the area from `min_scale` to 1, any aspect ratio from
    3/4 to 4/3, resized to `size` x `size`, mirrored half of the time where `flip` is set.

    torchvision's RandomResizedCrop would draw from torch's global generator, and takes longer.
    """
    for _ in range(10):
        area = rng.uniform(min_scale, 1) * image.width * image.height
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= image.width and 0 < height <= image.height:
            left = rng.randint(0, image.width - width)
            top = rng.randint(0, image.height - height)
            break
    else:  # a long image, or a large share: the largest square in the middle
        width = height = min(image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
    box = (left, top, left + width, top + height)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box)
    if flip and rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


def centre_crop(image: Image.Image, rng: random.Random, *, resize: int, size: int) -> Image.Image:
    """The shorter side resized to `resize` pixels, then the middle, `size` x `size`."""
    return functional.center_crop(functional.resize(image, resize), size)


def check_same_classes(one_name: str, one: list[str], other_name: str, other: list[str]) -> None:
    """Raises UserError where they differ, naming the first few classes that one side lacks."""
    if one == other:
        return
    parts = []
    for name, mine, theirs in ((one_name, one, other), (other_name, other, one)):
        only = [label for label in mine if label not in set(theirs)]
        if only:
            shown = ", ".join(only[:3]) + (", ..." if len(only) > 3 else "")
            parts.append(f"{len(only)} only in {name} ({shown})")
    problem = "; ".join(parts) or "their order is another"
    raise UserError(f"{one_name} and {other_name} hold different classes: {problem}")


def epoch_plan(num_images: int, seed: int, epoch: int) -> np.ndarray:
    """Every index once in random order, each with a seed of its own: int64 (num_images, 2).

    A function of its arguments alone; a later rank or a start in mid-epoch takes a slice of it.
    """
    rng = np.random.default_rng([seed, epoch])
    return np.stack([rng.permutation(num_images), rng.integers(2**62, size=num_images)], axis=1)


def epoch_seed(seed: int, epoch: int) -> int:
    """For the global generator at the beginning of the epoch."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def in_order(num_images: int) -> np.ndarray:
    """The plan of a test: every index, ascending; its crops take no notice of the seed."""
    return np.stack([np.arange(num_images), np.zeros(num_images, np.int64)], axis=1)


def batches(
    dataset: ClassFolders, plan: np.ndarray, *, batch_size: int, workers: int, drop_last: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in the order of `plan`: images uint8 (B, H, W, 3) and labels int64 (B,).

    Args:
        plan: (index, seed) of every image, int64 (images, 2).
        workers: processes that read images; 0 reads in this one.
        drop_last: leave out the images that do not fill a batch.

    Raises:
        UserError: an image cannot be read.
    """
    loader = DataLoader(
        dataset,
        batch_size,
        sampler=plan,
        num_workers=workers,
        collate_fn=_collate,
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _collate(items):
    for item in items:
        if isinstance(item, UserError):
            return item
    images, labels = zip(*items, strict=True)
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)


class Normalise(nn.Module):
    """uint8 images (B, H, W, 3) to the trunk's input, float (B, 3, H, W) in channels-last."""

    def __init__(self, preprocessing: Preprocessing):
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        # A permuted (B, H, W, 3) is channels-last already; float() and the rest keep that.
        images = images.to(self.mean.device, non_blocking=True).permute(0, 3, 1, 2)
        return images.float().sub_(self.mean).div_(self.std)
