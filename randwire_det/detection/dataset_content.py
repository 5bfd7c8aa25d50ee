"""What is wrong in a COCO-format data set as detectron2 would meet it, a pass over each part.

Every fault goes to `found(kind, example)`; the kinds, and which of them are fatal, are in
dataset_report.py. Only what detectron2 reads is looked at.
"""

import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.pool import ThreadPool

from detectron2.data.detection_utils import read_image
from detectron2.utils.file_io import PathManager
from tqdm import tqdm

from ..pictures import opened, orientation, reason
from .loader import open_file

logger = logging.getLogger(__name__)

Found = Callable[[str, str], None]
Fault = tuple[str, str]
NUMBERS = {int, float}
THREADS = 16  # they wait for files most of the time
EDGE_TOLERANCE = 1.0  # pixels that a box may pass the edge by: annotation tools round


def short(value: object) -> str:
    """A value of the JSON in one line of at most 200 characters."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def check_images(images: list, found: Found) -> dict:
    """The usable entries of "images" by id; of two with one id the last, as in detectron2."""
    known, names = {}, set()
    for image in images:
        if not _has_ids(image, "id") or not isinstance(image.get("file_name"), str):
            found("image-malformed", short(image))
            continue
        image_id, name = image["id"], image["file_name"]
        if image_id in known:
            earlier = short(known[image_id]["file_name"])
            found("image-id-twice", f"id {short(image_id)}: {earlier} and {short(name)}")
        if name in names:
            found("image-file-twice", short(name))
        if size_of(image) is None:
            sides = f"width {short(image.get('width'))}, height {short(image.get('height'))}"
            found("image-without-size", f"{short(name)}: {sides}")
        known[image_id] = image
        names.add(name)
    _check_sortable(known, "image-malformed", found)
    return known


def size_of(image: dict) -> tuple[float, float] | None:
    """(width, height) in pixels, or None where the JSON does not state both."""
    size = image.get("width"), image.get("height")
    return size if all(type(side) in NUMBERS and side > 0 for side in size) else None


def check_categories(categories: list, num_classes: int | None, found: Found) -> set:
    """The ids of "categories"; `num_classes` is that of the model, None where it is not known."""
    known, names = {}, {}
    for category in categories:
        if not _has_ids(category, "id") or not isinstance(category.get("name"), str):
            found("category-malformed", short(category))
            continue
        category_id, name = category["id"], category["name"]
        if category_id in known:
            earlier = short(known[category_id])
            found("category-id-twice", f"id {short(category_id)}: {earlier} and {short(name)}")
        elif name in names:
            found("category-name-twice", f"{short(name)}: ids {names[name]} and {category_id}")
        known[category_id] = name
        names[name] = category_id
    _check_sortable(known, "category-malformed", found)
    if not categories:
        found("no-categories", '"categories" is empty')
    elif num_classes is not None and len(known) != num_classes:
        kind = "too-many-classes" if len(known) > num_classes else "spare-outputs"
        found(kind, f"{len(known)} categories for {num_classes} outputs")
    return set(known)


def check_annotations(
    annotations: list, images: dict, categories: set, found: Found, *, training: bool, unique: bool
) -> dict[str, int]:
    """Look at every annotation of `images`; `unique`: ids must be.

    Returns:
        how many are "crowds", "ignored" and "usable" (a training would learn from them), and how
        many "images_without_annotations" there are.
    """
    counts = {"crowds": 0, "ignored": 0, "usable": 0}
    ids, annotated, largest = set(), set(), 0.0
    for annotation in annotations:
        if not _has_ids(annotation, "id", "image_id", "category_id"):
            found("annotation-malformed", short(annotation))
            continue
        annotation_id, image_id = annotation["id"], annotation["image_id"]
        image = images.get(image_id)
        if image is None:
            found("image-unknown", f"annotation {short(annotation_id)}: image_id {short(image_id)}")
            continue
        annotated.add(image_id)
        crowd, ignored = annotation.get("iscrowd", 0) != 0, annotation.get("ignore", 0) != 0
        faults = [
            *_flag_faults(annotation, categories, training),
            *_box_faults(annotation, image, optional=crowd and training),
            *_segmentation_faults(annotation.get("segmentation"), image),
        ]
        if unique and annotation_id in ids:
            faults.append(("annotation-id-twice", ""))
        for kind, detail in faults:
            name = short(image["file_name"])
            found(kind, f"annotation {short(annotation_id)} of {name}{detail and ': '}{detail}")
        ids.add(annotation_id)
        counts["crowds"] += crowd
        counts["ignored"] += ignored
        counts["usable"] += not crowd and not any(kind == "instance-dropped" for kind, _ in faults)
        if _is_box(annotation.get("bbox")):
            largest = max(largest, *map(abs, annotation["bbox"]))
    if 0 < largest <= 1:  # no set of real boxes is all within one pixel
        found("boxes-relative", f"no number of any box is above {largest:g}")
    return counts | {"images_without_annotations": len(images) - len(annotated)}


def _has_ids(entry: object, *keys: str) -> bool:
    return type(entry) is dict and all(isinstance(entry.get(k), int | float | str) for k in keys)


def _check_sortable(known: dict, kind: str, found: Found) -> None:
    """detectron2 sorts the ids."""
    texts = [key for key in known if isinstance(key, str)]
    if 0 < len(texts) < len(known):
        found(kind, f"id {short(texts[0])} is text, other ids are numbers")


def _flag_faults(annotation: dict, categories: set, training: bool) -> Iterator[Fault]:
    if annotation["category_id"] not in categories:
        yield "category-unknown", f"category_id {short(annotation['category_id'])}"
    if annotation.get("ignore", 0) != 0:
        yield "ignore-flag", f"ignore {short(annotation['ignore'])}"
    if not training:
        crowd = annotation.get("iscrowd")
        if crowd not in (0, 1) or type(annotation.get("area")) not in NUMBERS:
            detail = f"area {short(annotation.get('area'))}, iscrowd {short(crowd)}"
            yield "evaluation-keys", detail


def _is_box(box: object) -> bool:
    if type(box) is not list or len(box) != 4 or not NUMBERS.issuperset(map(type, box)):
        return False
    return all(-1e9 < number < 1e9 for number in box)  # neither NaN nor infinite


def _box_faults(annotation: dict, image: dict, *, optional: bool) -> Iterator[Fault]:
    if "bbox" not in annotation:
        if not optional:
            yield "box-missing", ""
        return
    box = annotation["bbox"]
    if not _is_box(box):
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


def _segmentation_faults(segmentation: object, image: dict) -> Iterator[Fault]:
    if not segmentation:  # none, or empty: detectron2 takes the box alone
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
    listed = type(counts) is list  # which detectron2 converts on loading
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
    """The run lengths of COCO's compressed RLE; [] where it ends too early or is none.

    pycocotools does not tell: it reads past the end of what it has, and may take the process along.
    A character holds five bits, the lowest first, and whether more follow; the fourth number and
    the later ones are differences to the number before the last.
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


def check_files(images: list[dict], paths: list[str], depth: str, found: Found) -> None:
    """Look at the files of `images`, many at a time; `depth` is an IMAGE_CHECKS."""
    told, (columns, rows) = time.monotonic(), shutil.get_terminal_size()
    with (
        warnings.catch_warnings(),  # Pillow's, of damaged EXIF and the like
        ThreadPool(THREADS) as pool,
        # tqdm shows nothing in a terminal of unknown size
        tqdm(total=len(paths), desc="image files", disable=None, ncols=columns, nrows=rows) as bar,
    ):
        warnings.simplefilter("ignore")
        look = partial(_file_faults, depth=depth)
        faults_of_all = pool.imap(look, zip(images, paths, strict=True), chunksize=64)
        for done, (image, faults) in enumerate(zip(images, faults_of_all, strict=True), start=1):
            for kind, detail in faults:
                found(kind, f"{short(image['file_name'])}{detail and ': '}{detail}")
            bar.update()
            if bar.disable and time.monotonic() > told + 10:
                logger.info(f"looked at {done} of {len(paths)} image files")
                told = time.monotonic()


def _file_faults(entry: tuple[dict, str], depth: str) -> list[Fault]:
    image, path = entry
    if depth == "none":
        return [] if PathManager.isfile(path) else [("image-absent", "")]
    try:
        with opened(path, open_file) as picture:
            turn, size = orientation(picture), picture.size
            size = size[::-1] if turn >= 5 else size
            if depth == "decode":
                height, width = read_image(path, "RGB").shape[:2]  # just as detectron2 will
                size = width, height
    except (FileNotFoundError, NotADirectoryError):
        return [("image-absent", "")]
    except Exception as error:  # of broken bytes Pillow and its plugins raise almost anything
        return [("image-unreadable", reason(error))]
    stated, turned = size_of(image), " (as EXIF turns it)" if turn > 1 else ""
    faults = [("image-rotated", f"orientation {turn}")] if turned else []
    if stated not in (None, size):
        detail = f"{size[0]} x {size[1]}{turned}, in the JSON {stated[0]} x {stated[1]}"
        faults.append(("image-size", detail))
    return faults
