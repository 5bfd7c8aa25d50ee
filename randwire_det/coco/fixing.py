"""Repairs a COCO-format data set: corrects unambiguous faults, and drops what cannot be used.

Files are never changed, and nothing is guessed: an image whose size differs from the JSON's keeps
its entry and its boxes as they are, since either the size is wrong, or the boxes are those of
another image.
"""

import os
from dataclasses import dataclass, field

from ..errors import UserError
from ..run.pictures import reason
from .annotations import segmentation_faults, size_of
from .coco_json import area_of, category_fault, has_ids, is_box, is_crowd, short
from .content import size_in_file
from .file_names import FileNames


@dataclass
class Changes:
    """What was done: kind -> number and first example."""

    done: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, kind: str, example: object) -> None:
        count, first = self.done.get(kind, (0, str(example)))
        self.done[kind] = count + 1, first

    def to_text(self) -> str:
        lines = [
            f"  {kind}: {count}, such as {first}" for kind, (count, first) in self.done.items()
        ]
        return "\n".join(["changed:", *lines] if lines else ["nothing to change"])


def fixed(content: dict, image_root: str, *, decode: bool = False) -> tuple[dict, Changes]:
    """A repaired copy of a COCO JSON.

    Args:
        content: of `read_coco`.
        image_root: the folder that the file names are relative to.
        decode: whether every pixel is read, to leave out truncated images, too.
    """
    changes = Changes()
    images, image_ids, in_doubt = _images(content["images"], image_root, decode, changes)
    categories, category_ids = _categories(content["categories"], changes)
    annotations, relative = [], _relative(content["annotations"])
    sizes = {image["id"]: size_of(image) for image in images}
    for annotation in content["annotations"]:
        each = _referring(annotation, image_ids, category_ids, changes)
        if each and each["image_id"] not in in_doubt:
            each = _mended(each, sizes[each["image_id"]], relative, changes)
        if each:
            annotations.append(each)
    if not _sound_ids(annotations):
        changes.add("annotation ids renumbered", "1, 2, 3, ...")
        annotations = [each | {"id": number} for number, each in enumerate(annotations, start=1)]
    lists = {"images": images, "categories": categories, "annotations": annotations}
    return content | lists, changes


def _sound_ids(annotations: list[dict]) -> bool:
    """Whether all ids are whole numbers above 0, each once."""
    ids = [each.get("id") for each in annotations]
    return all(type(each) is int and each > 0 for each in ids) and len(set(ids)) == len(ids)


def _images(
    entries: list, root: str, decode: bool, changes: Changes
) -> tuple[list[dict], dict, set]:
    """The images, the new id of each by its old one, and the new ids of those of another size."""
    names, kept, ids, by_name, in_doubt = FileNames(root), [], {}, {}, set()
    for image in entries:
        if not has_ids(image, "id") or not isinstance(image.get("file_name"), str):
            changes.add("image entries without id or file_name left out", short(image))
            continue
        name = image["file_name"]
        if not os.path.isfile(os.path.join(root, name)):
            nearest = names.nearest(name)
            if nearest is None:
                changes.add("images without a file left out", short(name))
                continue
            changes.add("file names written as the file is", f"{short(name)}: {short(nearest)}")
            name = nearest
        if image["id"] in ids and by_name.get(name) != ids[image["id"]]:
            kept.append(image)  # whose the annotations of this id are cannot be known
            continue
        if name in by_name:
            changes.add("entries of one file merged", short(name))
            ids[image["id"]] = by_name[name]
            continue
        try:
            size, _ = size_in_file(os.path.join(root, name), decode=decode)
        except Exception as error:
            changes.add("images that cannot be read left out", f"{short(name)}: {reason(error)}")
            continue
        if size_of(image) is None:
            changes.add("sizes taken from the file", f"{short(name)}: {size[0]} x {size[1]}")
            image = image | {"width": size[0], "height": size[1]}
        elif size_of(image) != size:
            changes.add(
                "images of another size than in the JSON left as they are, boxes and all",
                f"{short(name)}: {size[0]} x {size[1]}",
            )
            in_doubt.add(image["id"])
        by_name[name] = ids[image["id"]] = image["id"]
        kept.append(image | {"file_name": name})
    images, new_ids = _renumbered_if_mixed(kept, ids, "image", changes)
    return images, new_ids, {new_ids[old] for old in in_doubt}


def _categories(entries: list, changes: Changes) -> tuple[list[dict], dict]:
    """The categories, and the new id of each by its old one; of one name they become one."""
    kept, ids, by_name = [], {}, {}
    for category in entries:
        if category_fault(category):
            kept.append(category)  # what it should be called cannot be known
            continue
        name, old = category["name"], category["id"]
        if name in by_name:
            changes.add("categories of one name merged", short(name))
            ids.setdefault(old, by_name[name])
            continue
        by_name[name] = old
        ids.setdefault(old, old)
        kept.append(category)
    return _renumbered_if_mixed(kept, ids, "category", changes)


def _renumbered_if_mixed(entries: list, ids: dict, what: str, changes: Changes):
    """Ids that are partly text become numbers from 1, as detectron2 sorts them."""
    kinds = {isinstance(new, str) for new in ids.values()}
    if len(kinds) == 2:
        numbers = {old: n for n, old in enumerate(dict.fromkeys(ids.values()), start=1)}
        changes.add(f"{what} ids renumbered, as some are text", short(next(iter(numbers))))
        ids = {old: numbers[new] for old, new in ids.items()}
        entries = [
            each | {"id": numbers[each["id"]]} if has_ids(each, "id") else each for each in entries
        ]
    return entries, ids


def _relative(annotations: list) -> bool:
    """Whether all boxes are fractions of the image."""
    boxes = [each.get("bbox") for each in annotations if type(each) is dict]
    largest = max((max(map(abs, box)) for box in boxes if is_box(box)), default=0)
    return 0 < largest <= 1


def _referring(annotation, image_ids: dict, category_ids: dict, changes: Changes) -> dict | None:
    """The annotation with the ids of an image and of a category; None if it has none."""
    found = {}
    for key, ids in (("image_id", image_ids), ("category_id", category_ids)):
        if not has_ids(annotation, key):
            changes.add(f"annotations without {key} left out", short(annotation))
            return None
        old = annotation[key]
        if old not in ids:
            meant = next((each for each in ids if str(each) == str(old)), None)
            if meant is None:
                changes.add(f"annotations of an unknown {key} left out", short(old))
                return None
            changes.add(f"{key} written as the id is", f"{short(old)}: {short(meant)}")
            old = meant
        found[key] = ids[old]
    return annotation | found


def _mended(each: dict, size, relative: bool, changes: Changes) -> dict | None:
    """The annotation with sound flags, box, segmentation and area; None if it has no box."""
    name = f"annotation {short(each.get('id'))}"
    if each.get("ignore", 0) != 0:
        changes.add('"ignore" written as iscrowd 1', name)
        each = each | {"iscrowd": 1}
    each = {key: value for key, value in each.items() if key != "ignore"}
    try:
        crowd = int(is_crowd(each))
    except UserError:
        changes.add("annotations with another iscrowd than 0 or 1 left out", name)
        return None
    if each.get("iscrowd") != crowd or isinstance(each.get("iscrowd"), bool):
        changes.add("iscrowd filled in or written as 0 or 1", name)
    each = _with_segmentation(each | {"iscrowd": crowd}, size, name, changes)
    each = _with_box(each, size, relative, name, changes)
    if each is not None and area_of(each) != each.get("area"):
        changes.add("areas filled in, or replaced where impossible, by that of the box", name)
        each = each | {"area": area_of(each)}
    return each


def _with_segmentation(each: dict, size, name: str, changes: Changes) -> dict:
    given, image = each.get("segmentation"), dict(zip(("width", "height"), size, strict=True))
    faults = {kind for kind, _ in segmentation_faults(given, image)}
    if faults == {"polygon-dropped"}:
        changes.add("polygons of an odd number or fewer than 6 numbers left out", name)
        return each | {"segmentation": [p for p in given if len(p) % 2 == 0 and len(p) >= 6]}
    if faults:
        changes.add("broken segmentations left out; the box stays", name)
        return {key: value for key, value in each.items() if key != "segmentation"}
    return each


def _with_box(each: dict, size, relative: bool, name: str, changes: Changes) -> dict | None:
    """The annotation with its box inside the image; None if nothing of it is there."""
    box, (width, height) = each.get("bbox"), size
    if "bbox" not in each and isinstance(each.get("segmentation"), list) and each["segmentation"]:
        xs, ys = ([n for p in each["segmentation"] for n in p[axis::2]] for axis in (0, 1))
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        changes.add("boxes made from the segmentation", name)
    if not is_box(box):
        changes.add("annotations without a box of four numbers left out", name)
        return None
    x, y, w, h = box
    if relative:
        changes.add("boxes that are fractions of the image scaled to pixels", name)
        x, y, w, h = x * width, y * height, w * width, h * height
    if w < 0 or h < 0:
        changes.add("boxes with a negative side turned round", name)
        x, y, w, h = min(x, x + w), min(y, y + h), abs(w), abs(h)
    right, bottom = min(x + w, width), min(y + h, height)
    left, top = max(x, 0), max(y, 0)
    if right <= left or bottom <= top:
        changes.add("empty boxes and boxes outside the image left out", name)
        return None
    if (left, top, right, bottom) != (x, y, x + w, y + h):
        changes.add("boxes cut at the edge of the image", name)
        x, y, w, h = left, top, right - left, bottom - top
    return each | {"bbox": [x, y, w, h]}
