"""An annotation file in COCO format as every command here reads it.

pycocotools and detectron2 take a flag, an area or an id as it stands, each in its own way;
`is_crowd`, `area_of` and `ground_truth` give each one meaning.
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
    "json-encoding": "save it as UTF-8: iconv -f GBK -t UTF-8 OLD.json > NEW.json, its encoding"
    " standing for GBK",
    "json-byte-order-mark": "detectron2 stops on it: sed -i '1s/^\\xEF\\xBB\\xBF//' FILE.json"
    " removes it",
    "json-key-twice": "readers keep the last one alone: write every key of an object once",
    "json-incomplete": 'a COCO JSON is an object with the lists "images", "annotations" and'
    ' "categories"',
    "category-malformed": 'a category is an object with "id" and "name"; ids are all numbers or all'
    ' text, a name is text without control characters ("0", not 0)',
    "category-id-twice": "give every category an id of its own",
    "category-repeated": "the same category stands there again: remove the later one",
}


class CocoError(UserError):
    """Why a file cannot be used: `kind` is one of `CURES`, `reason` the case at hand."""

    def __init__(self, path: str | Path, kind: str, reason: str, what: str = "annotations"):
        super().__init__(f"{what} {path}: {reason}; {CURES[kind]}")
        self.kind, self.reason = kind, reason


def short(value: object) -> str:
    """A value of the JSON in one line of at most 200 characters."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def read_coco(
    path: str | Path, *, lists: tuple[str, ...] = LISTS, may_lack: tuple[str, ...] = ()
) -> dict:
    """The object in an annotation file, in which `lists` are lists; their entries may be anything.

    Args:
        may_lack: those of `lists` that are empty where the file does not have them.

    Raises:
        CocoError: no such file, no JSON in UTF-8, a key that stands twice, or a list that is not
            there.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise CocoError(path, "json-incomplete", f"found {short(content)}")
    for key in lists:
        if key in may_lack:
            content.setdefault(key, [])
        if isinstance(content.get(key), list):
            continue
        reason = f'"{key}" is {short(content[key])}' if key in content else f'"{key}" is not there'
        raise CocoError(path, "json-incomplete", f"{reason}{_other_format(content)}")
    return content


def read_json(path: str | Path, what: str = "annotations") -> object:
    """What a JSON file holds, if it is UTF-8 and no object has a key twice.

    Args:
        what: the file is for, to begin a message with.

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
        reason = f"the key {short(error.args[0])} stands twice in an object"
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
    """Kind and reason where an entry of "categories" is no category; None where it is one."""
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
    """Kind and reason where a category has an id of `known`, {id: name}; None where it has not."""
    category_id, name = category["id"], category["name"]
    if category_id not in known:
        return None
    if known[category_id] == name:
        return "category-repeated", f"id {short(category_id)}: {short(name)}"
    earlier = short(known[category_id])
    return "category-id-twice", f"id {short(category_id)}: {earlier} and {short(name)}"


def has_ids(entry: object, *keys: str) -> bool:
    """Whether it is an object with a number or a text under each of `keys`."""
    return type(entry) is dict and all(isinstance(entry.get(k), int | float | str) for k in keys)


def is_box(box: object) -> bool:
    """Whether it is a list of four finite numbers."""
    if type(box) is not list or len(box) != 4 or not NUMBERS.issuperset(map(type, box)):
        return False
    return all(-1e9 < number < 1e9 for number in box)  # neither NaN nor infinite


def is_crowd(annotation: dict) -> bool:
    """What "iscrowd" means: false if absent, null, false, 0 or "0"; true if true, 1 or "1".

    detectron2 trains on no annotation whose flag is not equal to 0, null and "0" included, and
    pycocotools takes every text for true.

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
    """Whether "area" is a number above 0 and no larger than its box with a pixel all around.

    The pixel allows for masks, whose pixels may lie half outside a box with fractions.
    """
    area = annotation.get("area")
    _, _, width, height = annotation["bbox"]
    return type(area) in NUMBERS and 0 < area <= (width + 2) * (height + 2)


def area_of(annotation: dict) -> float:
    """The stated area in square pixels where it is possible, else width x height of the box.

    By it COCO sorts objects into small, medium and large.
    """
    if not is_box(annotation.get("bbox")) or area_is_possible(annotation):
        return annotation.get("area")
    _, _, width, height = annotation["bbox"]
    return width * height


def ground_truth(content: dict) -> dict:
    """A COCO JSON as pycocotools measures it right, whatever its annotation ids are.

    COCOeval marks a matched detection with the annotation's id, so that 0 means unmatched, and text
    does not fit into its table. Here the ids count from 1, "iscrowd" is 0 or 1 as `is_crowd` reads
    it, and "area" is `area_of`. Nothing else depends on an annotation's id.

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
    """What annotation files of other tools are known by, for the end of a sentence."""
    if "shapes" in content and "imagePath" in content:
        return ": this is labelme's own format, which has to be exported as COCO"
    entries = list(content.values())
    if "_via_img_metadata" in content or (
        entries and all(type(each) is dict and "regions" in each for each in entries)
    ):
        return ": this is VIA's own format, which has to be exported as COCO"
    return f", found {short(list(content))}" if content else ", the object is empty"


def _local(path: str | Path) -> str | Path:
    if "://" not in str(path):
        return path
    from detectron2.utils.file_io import PathManager  # tools that take files alone need none of it

    return PathManager.get_local_path(str(path))
