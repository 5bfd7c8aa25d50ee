"""Image transforms: random crops for training, centre crops for testing.

A transform maps an image and a seed to an image; all randomness depends on that seed.
"""

import math
import random
from collections.abc import Callable
from functools import partial

import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torchvision.transforms import InterpolationMode, functional, v2

from .config import test_size

Transform = Callable[[Image.Image, int], Image.Image]
STRIP = 50  # longer images, in multiples of the shorter side, are cropped before resizing in tests
RATIOS = 3 / 4, 4 / 3  # range of a training crop's aspect ratio, width to height


def train_transform(cfg: CfgNode) -> Transform:
    """`random_crop`, then TrivialAugmentWide and RandomErasing if INPUT enables them."""
    crop = partial(
        random_crop, size=cfg.INPUT.SIZE, min_scale=cfg.INPUT.MIN_SCALE, flip=cfg.INPUT.FLIP
    )
    augmentations = []
    if cfg.INPUT.TRIVIAL_AUGMENT:
        augmentations.append(v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR))
    if cfg.INPUT.RANDOM_ERASE > 0:
        fill = [round(value) for value in cfg.INPUT.MEAN]
        augmentations.append(v2.RandomErasing(cfg.INPUT.RANDOM_ERASE, value=fill))
    return partial(_crop_and_augment, crop=crop, augmentations=augmentations)


def val_transform(cfg: CfgNode) -> Transform:
    """`centre_crop`."""
    return partial(centre_crop, resize=cfg.INPUT.TEST_RESIZE, size=test_size(cfg))


def random_crop(
    image: Image.Image, rng: random.Random, *, size: int, min_scale: float, flip: bool
) -> Image.Image:
    """Crop `random_box`, resize it to `size` x `size`, and if `flip` mirror half of the images."""
    box = random_box(image.width, image.height, rng, min_scale)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box)
    if flip and rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


def random_box(
    width: int, height: int, rng: random.Random, min_scale: float
) -> tuple[int, int, int, int]:
    """Sample a training crop, (left, top, right, bottom), as torchvision's RandomResizedCrop does,
    but faster and without torch's global generator.

    The share of the area is uniform from `min_scale` to 1, the logarithm of the aspect ratio from
    log(3/4) to log(4/3), and the position uniform; the first of ten samples that fits is taken. If
    none fits, it is the largest centred box with an aspect ratio in that range.
    """
    for _ in range(10):
        area = rng.uniform(min_scale, 1) * width * height
        ratio = math.exp(rng.uniform(*map(math.log, RATIOS)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = rng.randint(0, width - wide), rng.randint(0, height - high)
            return left, top, left + wide, top + high
    wide = min(width, round(height * RATIOS[1]))
    high = min(height, round(width / RATIOS[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def centre_crop(image: Image.Image, seed: int, *, resize: int, size: int) -> Image.Image:
    """Resize the shorter side to `resize` pixels, then crop the centre, `size` x `size`."""
    if max(image.size) > STRIP * min(image.size):  # resized as a whole, it might fill the memory
        width, height = image.size
        image = functional.center_crop(
            image, [min(height, STRIP * width), min(width, STRIP * height)]
        )
    return functional.center_crop(functional.resize(image, resize), size)


def _crop_and_augment(image, seed, *, crop, augmentations):
    image = crop(image, random.Random(seed))
    if augmentations:
        # torchvision's transforms only use torch's global generator: seed it, then restore it.
        # torch.manual_seed would also seed the GPUs' generators.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for augment in augmentations:
                image = augment(image)
    return image
