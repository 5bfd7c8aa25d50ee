"""The reader of COCO annotation files for all commands.

pycocotools and detectron2 interpret unusual flags, areas and ids differently; `is_crowd`, `area_of`
and `ground_truth` give each one meaning.
"""

import json
from pathlib import Path

from ..errors import UserError
from ..printing import has_control

LISTS = ("images", "categories", "annotations")
NUMBERS = {int, float}
# kind of fault -> how to fix it
CURES = {
    "json-missing": "give its path; the environment variable DETECTRON2_DATASETS names the folder"
    " that relative paths of a config start at",
    "json-broken": "write or copy the file again",
    "json-encoding": "save it as UTF-8: iconv -f GBK -t UTF-8 OLD.json > NEW.json, with its"
    " encoding in place of GBK",
    "json-byte-order-mark": "detectron2 stops on it: sed -i '1s/^\\xEF\\xBB\\xBF//' FILE.json"
    " removes it",
    "json-key-twice": "readers keep only the last one: write every key of an object once",
    "json-incomplete": 'a COCO JSON is an object with the lists "images", "annotations" and'
    ' "categories"',
    "category-malformed": 'a category is an object with "id" and "name"; ids are all numbers or all'
    ' text, a name is text without control characters ("0", not 0)',
    "category-id-twice": "give every category an id of its own",
    "category-repeated": "the same category is listed again: remove the later entry",
}


class CocoError(UserError):
    """A file that cannot be used: `kind` is one of `CURES`, `reason` this file's problem."""

    def __init__(self, path: str | Path, kind: str, reason: str, what: str = "annotations"):
        super().__init__(f"{what} {path}: {reason}; {CURES[kind]}")
        self.kind, self.reason = kind, reason


def short(value: object) -> str:
    """A JSON value on one line of at most 200 characters."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def read_coco(
    path: str | Path, *, lists: tuple[str, ...] = LISTS, may_lack: tuple[str, ...] = ()
) -> dict:
    """Read an annotation file whose keys `lists` hold lists; their entries are not checked.

    Args:
        may_lack: keys among `lists` that default to an empty list.

    Raises:
        CocoError: the file is missing or not UTF-8 JSON, a key is duplicate, or a list is missing.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise CocoError(path, "json-incomplete", f"found {short(content)}")
    for key in lists:
        if key in may_lack:
            content.setdefault(key, [])
        if isinstance(content.get(key), list):
            continue
        reason = f'"{key}" is {short(content[key])}' if key in content else f'"{key}" is missing'
        raise CocoError(path, "json-incomplete", f"{reason}{_other_format(content)}")
    return content


def read_json(path: str | Path, what: str = "annotations") -> object:
    """The contents of a JSON file in UTF-8 without duplicate keys.

    Args:
        what: the purpose of the file, to begin a message with.

    Raises:
        CocoError: of the kinds json-missing, json-broken, json-encoding and json-key-twice.
    """
    try:
        data = Path(_local(path)).read_bytes()
    except OSError as error:
        raise CocoError(path, "json-missing", error.strerror or str(error), what) from None
    if data.startswith(b"\xef\xbb\xbf"):
        raise CocoError(path, "json-byte-order-mark", "starts with a byte order mark", what)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        reason = f"no UTF-8 at byte {error.start}, {data[error.start : error.start + 8]!r}"
        raise CocoError(path, "json-encoding", reason, what) from None
    del data
    try:
        return json.loads(text, object_pairs_hook=_object)
    except _KeyTwice as error:
        reason = f"duplicate key {short(error.args[0])} in an object"
        raise CocoError(path, "json-key-twice", reason, what) from None
    except (ValueError, RecursionError) as error:
        raise CocoError(path, "json-broken", f"no JSON: {str(error)[:200]}", what) from None


def class_names(content: dict, path: str | Path) -> list[str]:
    """The names of "categories" in the order of their ids, which is that of a detector's outputs.

    Raises:
        CocoError: of the kinds category-malformed, category-id-twice and category-repeated.
    """
    categories, known = content["categories"], {}
    for category in categories:
        if fault := category_fault(category) or repetition(category, known):
            raise CocoError(path, *fault)
        known[category["id"]] = category["name"]
    try:
        return [each["name"] for each in sorted(categories, key=lambda each: each["id"])]
    except TypeError:
        reason = "some category ids are text, others numbers"
        raise CocoError(path, "category-malformed", reason) from None


def category_fault(category: object) -> tuple[str, str] | None:
    """Kind and reason if an entry of "categories" is malformed; None if it is valid."""
    kind = "category-malformed"
    if not has_ids(category, "id"):
        return kind, short(category)
    category_id, name = short(category["id"]), category.get("name")
    if not isinstance(name, str):
        return kind, f"category {category_id}: its name {short(name)} is no text"
    if has_control(name):
        return kind, f"category {category_id}: control characters in its name {short(name)}"
    return None


def repetition(category: dict, known: dict) -> tuple[str, str] | None:
    """Kind and reason if a category's id is in `known`, {id: name}; None if it is new."""
    category_id, name = category["id"], category["name"]
    if category_id not in known:
        return None
    if known[category_id] == name:
        return "category-repeated", f"id {short(category_id)}: {short(name)}"
    earlier = short(known[category_id])
    return "category-id-twice", f"id {short(category_id)}: {earlier} and {short(name)}"


def has_ids(entry: object, *keys: str) -> bool:
    """Whether `entry` is an object with a number or a string under each of `keys`."""
    return type(entry) is dict and all(isinstance(entry.get(k), int | float | str) for k in keys)


def is_box(box: object) -> bool:
    """Whether `box` is a list of four finite numbers."""
    if type(box) is not list or len(box) != 4 or not NUMBERS.issuperset(map(type, box)):
        return False
    return all(-1e9 < number < 1e9 for number in box)  # neither NaN nor infinite


def is_crowd(annotation: dict) -> bool:
    """The meaning of "iscrowd": false if absent, null, false, 0 or "0"; true if true, 1 or "1".

    detectron2 skips every annotation whose flag is not equal to 0, including null and "0", and
    pycocotools reads every string as true.

    Raises:
        UserError: any other value.
    """
    flag = annotation.get("iscrowd")
    text = "0" if flag is None else str(flag).strip().lower()
    if text in ("0", "0.0", "false", ""):
        return False
    if text in ("1", "1.0", "true"):
        return True
    where = f"annotation {short(annotation.get('id'))}"
    raise UserError(f"{where}: iscrowd {short(flag)}, expected 0 or 1")


def area_is_possible(annotation: dict) -> bool:
    """Whether "area" is above 0 and at most that of its box enlarged by a pixel on each side.

    The pixel allows for masks, whose pixels may extend beyond a box with fractions.
    """
    area = annotation.get("area")
    _, _, width, height = annotation["bbox"]
    return type(area) in NUMBERS and 0 < area <= (width + 2) * (height + 2)


def area_of(annotation: dict) -> float:
    """The stated area in square pixels if it is possible, otherwise that of the box.

    COCO uses it to sort objects into small, medium and large.
    """
    if not is_box(annotation.get("bbox")) or area_is_possible(annotation):
        return annotation.get("area")
    _, _, width, height = annotation["bbox"]
    return width * height


def ground_truth(content: dict) -> dict:
    """A copy of a COCO JSON that pycocotools evaluates correctly for any annotation ids.

    COCOeval marks a matched detection with the annotation's id: id 0 counts as unmatched, and
    strings do not fit into its table. In the copy ids count from 1, "iscrowd" is 0 or 1 as
    `is_crowd` reads it, and "area" is `area_of`. Nothing else depends on an annotation's id.

    Raises:
        UserError: an "iscrowd" that is neither true nor false.
    """
    annotations = [
        each | {"id": number, "iscrowd": int(is_crowd(each)), "area": area_of(each)}
        for number, each in enumerate(content["annotations"], start=1)
    ]
    return content | {"annotations": annotations}


class _KeyTwice(Exception):
    """Raised with the key."""


def _object(pairs: list[tuple]) -> dict:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen = set()
        raise _KeyTwice(next(key for key, _ in pairs if key in seen or seen.add(key)))
    return content


def _other_format(content: dict) -> str:
    """Names the tool that wrote an annotation file of another format, for the end of a message."""
    if "shapes" in content and "imagePath" in content:
        return ": this is labelme's format; export it as COCO"
    entries = list(content.values())
    if "_via_img_metadata" in content or (
        entries and all(type(each) is dict and "regions" in each for each in entries)
    ):
        return ": this is VIA's format; export it as COCO"
    return f", found {short(list(content))}" if content else ", the object is empty"


def _local(path: str | Path) -> str | Path:
    if "://" not in str(path):
        return path
    from detectron2.utils.file_io import PathManager  # tools that take files alone need none of it

    return PathManager.get_local_path(str(path))
