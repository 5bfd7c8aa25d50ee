"""Images so thin that detectron2 resizes them to nothing, at which Pillow stops."""

from collections.abc import Iterable

from detectron2.data import transforms as T


def resizes_of(augmentations: Iterable) -> list[T.ResizeShortestEdge]:
    """Those of a list of augmentations that bring an image to the size of the model's input."""
    listed = getattr(augmentations, "augs", augmentations)  # as a DatasetMapper keeps them
    return [each for each in listed if isinstance(each, T.ResizeShortestEdge)]


def vanishes(width: float, height: float, resize: T.ResizeShortestEdge) -> bool:
    """Whether a side of an image of this size, in pixels, is rounded to 0."""
    sides = [side for side in resize.short_edge_length if side]  # 0 leaves images as they are
    return any(0 in resize.get_output_shape(height, width, side, resize.max_size) for side in sides)
