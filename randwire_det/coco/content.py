"""Checks the images and categories of a COCO-format data set, as detectron2 reads them.

Every fault is reported by `found(kind, example)`; the kinds and which of them are fatal are in
lint.py. Only what detectron2 reads is checked.
"""

import logging
import warnings
from functools import partial
from multiprocessing.pool import ThreadPool

from detectron2.data.detection_utils import read_image
from detectron2.utils.file_io import PathManager

from ..run.pictures import opened, orientation, reason
from ..run.progress import progress
from .annotations import Fault, Found, size_of
from .classes import misfit
from .coco_json import category_fault, has_ids, repetition, short
from .file_names import FileNames, open_file
from .resizing import vanishes

logger = logging.getLogger(__name__)

THREADS = 16  # mostly waiting for files


def check_images(images: list, longest: int, found: Found) -> dict:
    """The usable entries of "images" by id; of duplicate ids the last, as in detectron2.

    Args:
        longest: longest side of a resized image, in pixels; 0 if images are not resized.
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
        elif vanishes(*size_of(image), longest):
            found("image-too-thin", f"{short(name)}: {image['width']} x {image['height']}")
        known[image_id] = image
        names.add(name)
    _check_sortable(known, "image-malformed", found)
    return known


def check_categories(
    categories: list, num_classes: int | None, found: Found, *, training: bool
) -> set:
    """The ids of "categories"; `num_classes` is that of the model, None if unknown."""
    known, names = {}, {}
    for category in categories:
        if fault := category_fault(category):
            found(*fault)
            if has_ids(category, "id"):  # its annotations are in order
                known[category["id"]] = None
            continue
        category_id, name = category["id"], category["name"]
        if fault := repetition(category, known):
            found(*fault)
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


def check_every_class_is_seen(categories: list, annotations: list, found: Found) -> None:
    """Report the categories that no annotation has."""
    seen = {str(each["category_id"]) for each in annotations if has_ids(each, "category_id")}
    for category in categories:
        if not category_fault(category) and str(category["id"]) not in seen:
            found("category-without-objects", short(category["name"]))


def _check_sortable(known: dict, kind: str, found: Found) -> None:
    """Report ids that are partly text, as detectron2 sorts them."""
    texts = [key for key in known if isinstance(key, str)]
    if 0 < len(texts) < len(known):
        found(kind, f"id {short(texts[0])} is text, other ids are numbers")


def check_files(
    images: list[dict], folder: str, paths: list[str], depth: str, found: Found
) -> None:
    """Check the files of `images` in parallel; `depth` is one of IMAGE_CHECKS."""
    there = FileNames(folder)
    with (
        warnings.catch_warnings(),  # Pillow's, of damaged EXIF and the like
        ThreadPool(THREADS) as pool,
    ):
        warnings.simplefilter("ignore")
        look = partial(_file_faults, depth=depth)
        faults_of_all = pool.imap(look, zip(images, paths, strict=True), chunksize=64)
        looked_at = progress(faults_of_all, len(paths), "image files", logger)
        for image, faults in zip(images, looked_at, strict=True):
            for kind, detail in faults:
                nearest = there.nearest(image["file_name"]) if kind == "image-absent" else None
                if nearest:
                    kind, detail = "image-spelled-otherwise", f"the folder has {short(nearest)}"
                found(kind, f"{short(image['file_name'])}{detail and ': '}{detail}")


def size_in_file(path: str, *, decode: bool) -> tuple[tuple[int, int], int]:
    """(width, height) of a picture as EXIF turns it, and EXIF's orientation.

    Args:
        decode: read every pixel, just as detectron2 will.

    Raises:
        Exception: the picture cannot be read; Pillow raises almost anything for broken bytes.
    """
    with opened(path, open_file) as picture:
        turn, size = orientation(picture), picture.size
    if decode:
        height, width = read_image(path, "RGB").shape[:2]
        return (width, height), turn
    return (size[::-1] if turn >= 5 else size), turn


def _file_faults(entry: tuple[dict, str], depth: str) -> list[Fault]:
    image, path = entry
    if depth == "none":
        return [] if PathManager.isfile(path) else [("image-absent", "")]
    try:
        size, turn = size_in_file(path, decode=depth == "decode")
    except (FileNotFoundError, NotADirectoryError):
        return [("image-absent", "")]
    except Exception as error:  # Pillow raises almost anything for broken bytes
        return [("image-unreadable", reason(error))]
    stated, turned = size_of(image), " (as EXIF turns it)" if turn > 1 else ""
    faults = [("image-rotated", f"orientation {turn}")] if turned else []
    if stated not in (None, size):
        detail = f"{size[0]} x {size[1]}{turned}, in the JSON {stated[0]} x {stated[1]}"
        faults.append(("image-size", detail))
    return faults
