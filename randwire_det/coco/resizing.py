"""Detects images so thin that detectron2 would resize a side to 0 pixels, which Pillow refuses."""

from detectron2.config import CfgNode
from detectron2.data import transforms as T

MAX_SIZE = 1333  # detectron2's INPUT.MAX_SIZE_TRAIN and INPUT.MAX_SIZE_TEST


def max_size(cfg: CfgNode, *, training: bool) -> int:
    """The longest side of a resized image, in pixels; 0 if the config does not resize."""
    if training:
        return cfg.INPUT.MAX_SIZE_TRAIN
    return cfg.INPUT.MAX_SIZE_TEST if cfg.INPUT.MIN_SIZE_TEST else 0


def vanishes(width: float, height: float, longest: int) -> bool:
    """Whether the shorter side rounds to 0 pixels when the longer one becomes `longest`.

    The configured length of the shorter side does not matter: an image this thin never reaches it.
    """
    shape = T.ResizeShortestEdge.get_output_shape(height, width, min(width, height), longest)
    return longest > 0 and 0 in shape
