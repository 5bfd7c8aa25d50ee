"""What becomes of an image before it joins a batch: random crops to train on, the middle to test.

An image and a seed in, an image out: whatever is random depends on that seed alone.
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
STRIP = 50  # of an image that is so many times as long as wide, a test looks at the middle alone
RATIOS = 3 / 4, 4 / 3  # of a training crop's width to its height


def train_transform(cfg: CfgNode) -> Transform:
    """`random_crop`, then TrivialAugmentWide and RandomErasing as far as INPUT asks for them."""
    crop = partial(
        random_crop, size=cfg.INPUT.SIZE, min_scale=cfg.INPUT.MIN_SCALE, flip=cfg.INPUT.FLIP
    )
    more = []
    if cfg.INPUT.TRIVIAL_AUGMENT:
        more.append(v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR))
    if cfg.INPUT.RANDOM_ERASE > 0:
        fill = [round(value) for value in cfg.INPUT.MEAN]
        more.append(v2.RandomErasing(cfg.INPUT.RANDOM_ERASE, value=fill))
    return partial(_crop_and_more, crop=crop, more=more)


def val_transform(cfg: CfgNode) -> Transform:
    """`centre_crop`."""
    return partial(centre_crop, resize=cfg.INPUT.TEST_RESIZE, size=test_size(cfg))


def random_crop(
    image: Image.Image, rng: random.Random, *, size: int, min_scale: float, flip: bool
) -> Image.Image:
    """`random_box` of the image, resized to `size` x `size`, mirrored half of the time where `flip`
    is set.
    """
    box = random_box(image.width, image.height, rng, min_scale)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box)
    if flip and rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


def random_box(
    width: int, height: int, rng: random.Random, min_scale: float
) -> tuple[int, int, int, int]:
    """Where a training crop lies: (left, top, right, bottom), distributed as torchvision's
    RandomResizedCrop, which would draw from torch's global generator, and takes longer.

    The share of the area is uniform from `min_scale` to 1, and the logarithm of the aspect ratio
    from that of 3/4 to that of 4/3; of ten draws the first that fits is taken, anywhere in the
    image. Where none fits, it is the largest box in the middle of an aspect ratio in that range.
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
    """The shorter side resized to `resize` pixels, then the middle, `size` x `size`."""
    if max(image.size) > STRIP * min(image.size):  # all of it, resized, might fill the memory
        width, height = image.size
        image = functional.center_crop(
            image, [min(height, STRIP * width), min(width, STRIP * height)]
        )
    return functional.center_crop(functional.resize(image, resize), size)


def _crop_and_more(image, seed, *, crop, more):
    image = crop(image, random.Random(seed))
    if more:
        # torchvision's transforms know torch's global generator only: lend it, and put it back.
        # torch.manual_seed would seed the generators of the GPUs, too.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for transform in more:
                image = transform(image)
    return image
