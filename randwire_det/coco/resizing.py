"""Images so thin that detectron2 resizes them to nothing, at which Pillow stops."""

from detectron2.config import CfgNode
from detectron2.data import transforms as T

MAX_SIZE = 1333  # detectron2's INPUT.MAX_SIZE_TRAIN and INPUT.MAX_SIZE_TEST


def max_size(cfg: CfgNode, *, training: bool) -> int:
    """The longest side, in pixels, of what a config resizes images to; 0 where it leaves them."""
    if training:
        return cfg.INPUT.MAX_SIZE_TRAIN
    return cfg.INPUT.MAX_SIZE_TEST if cfg.INPUT.MIN_SIZE_TEST else 0


def vanishes(width: float, height: float, longest: int) -> bool:
    """Whether a side is rounded to 0 pixels where the other is brought to `longest`.

    Which length the shorter side should have does not matter: an image this thin never gets it.
    """
    shape = T.ResizeShortestEdge.get_output_shape(height, width, min(width, height), longest)
    return longest > 0 and 0 in shape
