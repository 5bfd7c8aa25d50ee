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


def centre_crop(image: Image.Image, seed: int, *, resize: int, size: int) -> Image.Image:
    """The shorter side resized to `resize` pixels, then the middle, `size` x `size`."""
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
