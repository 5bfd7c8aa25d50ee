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

from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.utils.file_io import PathManager
from PIL import Image
from tqdm import tqdm

from ..coco_json import NUMBERS, area_is_possible, category_fault, has_ids, is_box, is_crowd, short
from ..errors import UserError
from .classes import misfit
from .file_names import other_spelling

logger = logging.getLogger(__name__)

Found = Callable[[str, str], None]
Fault = tuple[str, str]
THREADS = 16  # they wait for files most of the time
ORIENTATION = 274  # EXIF's key; 5 to 8 swap width and height
EDGE_TOLERANCE = 1.0  # pixels that a box may pass the edge by: annotation tools round


def check_images(images: list, resizes: list[T.ResizeShortestEdge], found: Found) -> dict:
    """The usable entries of "images" by id; of two with one id the last, as in detectron2.

    Args:
        resizes: what is done to an image before the model sees it.
    """
    known, names = {}, set()
    for image in images:
        if not has_ids(image, "id") or not isinstance(image.get("file_name"), str):
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
        elif any(vanishes(*size_of(image), each) for each in resizes):
            found("image-too-thin", f"{short(name)}: {image['width']} x {image['height']}")
        known[image_id] = image
        names.add(name)
    _check_sortable(known, "image-malformed", found)
    return known


def size_of(image: dict) -> tuple[float, float] | None:
    """(width, height) in pixels, or None where the JSON does not state both."""
    size = image.get("width"), image.get("height")
    return size if all(type(side) in NUMBERS and side > 0 for side in size) else None


def vanishes(width: float, height: float, resize: T.ResizeShortestEdge) -> bool:
    """Whether an image is so thin that a side is resized to 0 pixels, at which Pillow stops."""
    sides = resize.short_edge_length  # to choose from, or the ends of a range
    return any(
        side and 0 in resize.get_output_shape(height, width, side, resize.max_size)
        for side in sides
    )


def check_categories(
    categories: list, num_classes: int | None, found: Found, *, training: bool
) -> set:
    """The ids of "categories"; `num_classes` is that of the model, None where it is not known."""
    known, names = {}, {}
    for category in categories:
        if fault := category_fault(category):
            found("category-malformed", fault)
            if has_ids(category, "id"):  # its annotations are in order
                known[category["id"]] = None
            continue
        category_id, name = category["id"], category["name"]
        if category_id in known and known[category_id] == name:
            found("category-repeated", f"id {short(category_id)}: {short(name)}")
        elif category_id in known:
            earlier = short(known[category_id])
            found("category-id-twice", f"id {short(category_id)}: {earlier} and {short(name)}")
        elif name in names:
            found("category-name-twice", f"{short(name)}: ids {names[name]} and {category_id}")
        known[category_id] = name
        names[name] = category_id
    _check_sortable(known, "category-malformed", found)
    if not categories:
        found("no-categories", '"categories" is empty')
    elif kind := misfit(len(known), num_classes, tested=not training):
        found(kind, f"{len(known)} categories for {num_classes} outputs")
    return set(known)


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
    """Look at every annotation of `images`.

    Args:
        training: they are learned, and not evaluated.
        masks: of those that are learned each needs a mask.
        unique: ids must be.

    Returns:
        how many are "crowds", "ignored" and "usable" (a training would learn from them), and how
        many "images_without_annotations" there are.
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
            *_segmentation_faults(annotation.get("segmentation"), image),
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
    if 0 < largest <= 1:  # no set of real boxes is all within one pixel
        found("boxes-relative", f"no number of any box is above {largest:g}")
    return counts | {"images_without_annotations": len(images) - len(annotated)}


def _check_sortable(known: dict, kind: str, found: Found) -> None:
    """detectron2 sorts the ids."""
    texts = [key for key in known if isinstance(key, str)]
    if 0 < len(texts) < len(known):
        found(kind, f"id {short(texts[0])} is text, other ids are numbers")


def _crowd(annotation: dict) -> bool | None:
    """`is_crowd`; None where the flag says neither."""
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
        yield "flag-by-value", f"iscrowd {short(annotation['iscrowd'])} is taken for {int(crowd)}"
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


def check_files(
    images: list[dict], folder: str, paths: list[str], depth: str, found: Found
) -> None:
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
                if kind == "image-absent" and (other := other_spelling(folder, image["file_name"])):
                    kind, detail = "image-spelled-otherwise", f"the folder has {short(other)}"
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
        with PathManager.open(path, "rb") as file:
            opened = Image.open(file)
            orientation = _orientation(opened)
            size = opened.size[::-1] if orientation >= 5 else opened.size
        if depth == "decode":
            height, width = read_image(path, "RGB").shape[:2]  # just as detectron2 will
            size = width, height
    except (FileNotFoundError, NotADirectoryError):
        return [("image-absent", "")]
    except Exception as error:  # of broken bytes Pillow and its plugins raise almost anything
        return [("image-unreadable", short(getattr(error, "strerror", None) or str(error)))]
    stated, turned = size_of(image), " (as EXIF turns it)" if orientation > 1 else ""
    faults = [("image-rotated", f"orientation {orientation}")] if turned else []
    if stated not in (None, size):
        detail = f"{size[0]} x {size[1]}{turned}, in the JSON {stated[0]} x {stated[1]}"
        faults.append(("image-size", detail))
    return faults


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation as detectron2 reads it, 1 to 8; 1 for none."""
    try:
        # A PNG's own getexif would decode the whole image, in search of EXIF behind the pixels.
        exif = Image.Image.getexif(image) if image.format == "PNG" else image.getexif()
    except Exception:  # detectron2, too, goes without
        return 1
    orientation = exif.get(ORIENTATION)
    return orientation if orientation in range(1, 9) else 1
