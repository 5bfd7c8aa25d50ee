"""Checks the annotations of a COCO-format data set: ids, flags, boxes, masks.

As in content.py, every fault is reported by `found(kind, example)`.
"""

from collections.abc import Callable, Iterator

from ..errors import UserError
from .coco_json import NUMBERS, area_is_possible, has_ids, is_box, is_crowd, short

Found = Callable[[str, str], None]
Fault = tuple[str, str]
EDGE_TOLERANCE = 1.0  # pixels that a box may exceed the image: annotation tools round


def size_of(image: dict) -> tuple[float, float] | None:
    """(width, height) in pixels, or None if the JSON does not state both."""
    size = image.get("width"), image.get("height")
    return size if all(type(side) in NUMBERS and side > 0 for side in size) else None


def check_annotations(
    annotations: list,
    images: dict,
    categories: set,
    found: Found,
    *,
    training: bool,
    masks: bool,
    unique: bool,
) -> dict[str, int]:
    """Check every annotation of `images`.

    Args:
        training: whether the annotations are for training, not for evaluation.
        masks: whether every training annotation needs a mask.
        unique: whether ids must be unique.

    Returns:
        the numbers of "crowds", "ignored", "usable" (for training) annotations and of
        "images_without_annotations".
    """
    counts = {"crowds": 0, "ignored": 0, "usable": 0}
    ids, annotated, largest = set(), set(), 0.0
    spelled = [{str(each): each for each in known} for known in (images, categories)]
    for annotation in annotations:
        if not has_ids(annotation, "id", "image_id", "category_id"):
            found("annotation-malformed", short(annotation))
            continue
        annotation_id, image_id = annotation["id"], annotation["image_id"]
        image = images.get(image_id)
        if image is None:
            detail = f"annotation {short(annotation_id)}: image_id {short(image_id)}"
            meant = spelled[0].get(str(image_id))
            if meant is None:
                found("image-unknown", detail)
            else:
                found("image-id-type", f"{detail}, in the image {short(meant)}")
            continue
        annotated.add(image_id)
        crowd, ignored = _crowd(annotation), annotation.get("ignore", 0) != 0
        faults = [
            *_category_faults(annotation, categories, spelled[1]),
            *_flag_faults(annotation, crowd, training),
            *_box_faults(annotation, image, optional=bool(crowd) and training),
            *segmentation_faults(annotation.get("segmentation"), image),
        ]
        if masks and not crowd and not annotation.get("segmentation"):
            faults.append(("mask-missing", ""))
        if unique and annotation_id in ids:
            faults.append(("annotation-id-twice", ""))
        for kind, detail in faults:
            name = short(image["file_name"])
            found(kind, f"annotation {short(annotation_id)} of {name}{detail and ': '}{detail}")
        ids.add(annotation_id)
        counts["crowds"] += bool(crowd)
        counts["ignored"] += ignored
        counts["usable"] += not crowd and not any(kind == "instance-dropped" for kind, _ in faults)
        if is_box(annotation.get("bbox")):
            largest = max(largest, *map(abs, annotation["bbox"]))
    if 0 < largest <= 1:  # real boxes in pixels are larger
        found("boxes-relative", f"no number of any box is above {largest:g}")
    return counts | {"images_without_annotations": len(images) - len(annotated)}


def _crowd(annotation: dict) -> bool | None:
    """`is_crowd`; None if the flag is malformed."""
    try:
        return is_crowd(annotation)
    except UserError:
        return None


def _category_faults(annotation: dict, categories: set, spelled: dict) -> Iterator[Fault]:
    category_id = annotation["category_id"]
    if category_id in categories:
        return
    meant = spelled.get(str(category_id))
    if meant is None:
        yield "category-unknown", f"category_id {short(category_id)}"
    else:
        yield (
            "category-id-type",
            f"category_id {short(category_id)}, in the category {short(meant)}",
        )


def _flag_faults(annotation: dict, crowd: bool | None, training: bool) -> Iterator[Fault]:
    if annotation.get("ignore", 0) != 0:
        yield "ignore-flag", f"ignore {short(annotation['ignore'])}"
    if crowd is None:
        yield "flag-malformed", f"iscrowd {short(annotation['iscrowd'])}"
    elif annotation.get("iscrowd", 0) not in (0, 1):
        yield "flag-by-value", f"iscrowd {short(annotation['iscrowd'])} is read as {int(crowd)}"
    if training:
        return
    if type(annotation["id"]) not in NUMBERS or annotation["id"] == 0:
        yield "annotation-id-unsafe", f"id {short(annotation['id'])}"
    if is_box(annotation.get("bbox")) and not area_is_possible(annotation):
        area = short(annotation["area"]) if "area" in annotation else "none"
        yield "area-impossible", f"area {area}, box {short(annotation['bbox'])}"


def _box_faults(annotation: dict, image: dict, *, optional: bool) -> Iterator[Fault]:
    if "bbox" not in annotation:
        if not optional:
            yield "box-missing", ""
        return
    box = annotation["bbox"]
    if not is_box(box):
        yield "box-malformed", short(box)
        return
    x, y, width, height = box
    image_width, image_height = size_of(image) or (float("inf"), float("inf"))
    detail = f"[x, y, width, height] = {short(box)} in {image_width} x {image_height} pixels"
    if width < 0 or height < 0:
        yield "box-negative", detail
    elif width == 0 or height == 0:
        yield "box-empty", detail
    elif x >= image_width or y >= image_height or x + width <= 0 or y + height <= 0:
        yield "box-outside", detail
    elif (
        min(x, y) < -EDGE_TOLERANCE
        or x + width > image_width + EDGE_TOLERANCE
        or y + height > image_height + EDGE_TOLERANCE
    ):
        yield "box-over-edge", detail


def segmentation_faults(segmentation: object, image: dict) -> Iterator[Fault]:
    if not segmentation:  # missing or empty: detectron2 uses the box only
        return
    if type(segmentation) is dict:
        yield from _rle_faults(segmentation, size_of(image))
        return
    if type(segmentation) is not list or not all(type(each) is list for each in segmentation):
        yield "segmentation-malformed", short(segmentation)
        return
    valid = [each for each in segmentation if len(each) % 2 == 0 and len(each) >= 6]
    if len(valid) < len(segmentation):
        bad = next(each for each in segmentation if len(each) % 2 or len(each) < 6)
        kind = "polygon-dropped" if valid else "instance-dropped"
        yield kind, f"a polygon of {len(bad)} numbers"
    if not all(NUMBERS.issuperset(map(type, each)) for each in valid):
        yield "mask-broken", "a polygon with something other than numbers"


def _rle_faults(rle: dict, image_size: tuple[float, float] | None) -> Iterator[Fault]:
    counts, size = rle.get("counts"), rle.get("size")
    sized = type(size) is list and len(size) == 2 and all(type(n) is int and n > 0 for n in size)
    listed = type(counts) is list  # detectron2 converts lists on loading
    loads = not listed or (sized and NUMBERS.issuperset(map(type, counts)))
    if "counts" not in rle or not loads or (listed and not all(0 <= n < 2**32 for n in counts)):
        yield "segmentation-malformed", short(rle)
        return
    if not sized or not isinstance(counts, list | str):
        yield "mask-broken", short(rle)
        return
    counts = counts if listed else _run_lengths(counts)
    height, width = size
    if min(counts, default=-1) < 0 or sum(counts) != height * width:
        yield "mask-broken", f"run lengths that do not fill {width} x {height} pixels"
    elif image_size is not None and (width, height) != image_size:
        detail = f"a mask of {width} x {height} pixels, image of {image_size[0]} x {image_size[1]}"
        yield "mask-broken", detail


def _run_lengths(text: str) -> list[int]:
    """The run lengths of COCO's compressed RLE; [] if it is truncated or invalid.

    pycocotools does not check: it reads past the end of the buffer and may crash the process. Each
    character holds five bits, lowest first, and a continuation bit; from the fourth number on, each
    is stored as the difference to the number two before.
    """
    lengths, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return []
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0
    return [] if shift else lengths
