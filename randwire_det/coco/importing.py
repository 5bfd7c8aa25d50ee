"""Data sets in other formats as COCO annotations; `supervision` reads VOC, YOLO and labelme.

VOC counts pixels from 1, so its boxes begin one pixel further to the left and above here; a box may
name its corners in either order. Its "difficult" objects are ordinary ones, as in detectron2's own
VOC training. Polygons go through masks, so that their corners are whole pixels.
"""

import logging
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from random import Random

from ..errors import UserError
from . import coco_json
from .layouts import WHOLE, Part

READERS = "from_pascal_voc", "from_yolo", "from_labelme"
ENDINGS = {"voc": ".xml", "yolo": ".txt"}  # of annotation files that bear a picture's name

logger = logging.getLogger(__name__)


def read_part(part: Part) -> dict:
    """A part of a data set as a COCO JSON, its file names absolute paths.

    Raises:
        UserError: an annotation file is broken; names it. Or supervision is not installed.
    """
    if part.kind == "coco":
        return _read_coco(part)
    data = _read(part, part.images, part.annotations)
    content = _as_coco(data)
    if part.kind in ENDINGS:
        _report_lonely(part, data.image_paths)
    for image, path in zip(content["images"], data.image_paths, strict=True):
        image["file_name"] = str(path)
    return _selected(content, part)


def _read_coco(part: Part) -> dict:
    """A COCO JSON, without the class 0 that Roboflow adds, which no object has."""
    content = coco_json.read_coco(part.annotations)
    coco_json.class_names(content, part.annotations)  # refuses malformed ones
    used = {each["category_id"] for each in content["annotations"]}
    parents = {each.get("supercategory") for each in content["categories"]}
    categories = [
        each
        for each in sorted(content["categories"], key=lambda each: each["id"])
        if each["id"] != 0 or each["id"] in used or each["name"] not in parents
    ]
    images = [
        image | {"file_name": str(part.images / image["file_name"])} for image in content["images"]
    ]
    return content | {"images": images, "categories": categories}


def _read(part: Part, images: Path, annotations: Path):
    """supervision's DetectionDataset of a part."""
    try:
        from supervision import DetectionDataset  # takes seconds
    except ImportError:
        raise UserError(
            f"{part.images}: {part.kind} is read by supervision, which is not installed:"
            " pip install 'supervision>=0.31'"
        ) from None
    reader = dict(zip(("voc", "yolo", "labelme"), READERS, strict=True))[part.kind]
    extra = {"data_yaml_path": str(part.yaml)} if part.yaml else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = getattr(DetectionDataset, reader)(
                images_directory_path=str(images),
                annotations_directory_path=str(annotations),
                **extra,
            )
        except (ValueError, KeyError, TypeError, AttributeError, SyntaxError, OSError) as error:
            raise _broken(part, images, annotations, error) from None
    for each in dict.fromkeys(str(warning.message) for warning in caught):
        logger.warning(f"{annotations}: {each}")
    return data


def _broken(part: Part, images: Path, annotations: Path, error: Exception) -> UserError:
    """What to say of an error of supervision, which may not name the file."""
    ending = ENDINGS.get(part.kind, ".json")
    files = sorted(annotations.glob(f"*{ending}"))
    if len(files) > 1:
        for path in files:  # each alone, with its picture
            with tempfile.TemporaryDirectory() as folder:
                alone = Path(folder)
                for each in {path, *images.glob(f"{path.stem}.*")}:
                    (alone / each.name).symlink_to(each.absolute())
                try:
                    _read(part, alone, alone)
                except UserError as found:
                    return UserError(str(found).replace(str(alone), str(annotations)))
    where = files[0] if len(files) == 1 else annotations
    return UserError(f"{where}: cannot be read as {part.kind}: {error}; mend or remove the file")


def _as_coco(data) -> dict:
    """What supervision writes, without its invented licence and dates."""
    for detections in data.annotations.values():
        # Otherwise a mask in two pieces would become a crowd, which no detector learns from.
        detections.data["iscrowd"] = [0] * len(detections)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coco.json")
        data.as_coco(annotations_path=str(path))
        content = coco_json.read_coco(path)
    keep = ("id", "width", "height")
    return {
        "images": [{key: image[key] for key in keep} for image in content["images"]],
        "categories": content["categories"],
        "annotations": content["annotations"],
    }


def _report_lonely(part: Part, pictures: Iterable[str]) -> None:
    """Say of which pictures there are no annotations, and the other way round."""
    ending = ENDINGS[part.kind]
    named = {Path(path).stem for path in pictures}
    annotated = {path.stem for path in part.annotations.glob(f"*{ending}")}
    wanted = named | annotated if part.names is None else part.names
    for lonely, what in (
        (sorted((named & wanted) - annotated), f"pictures without {ending} count as empty"),
        (sorted((annotated & wanted) - named), f"{ending} without a picture are left out"),
        (sorted(wanted - named - annotated), "listed names without a picture are left out"),
    ):
        if lonely:
            logger.warning(f"{part.images}: {len(lonely)} {what}, such as {lonely[0]}")


def _selected(content: dict, part: Part) -> dict:
    """The pictures that a part lists, with their objects inside the picture."""
    images = {
        image["id"]: image
        for image in content["images"]
        if part.names is None or Path(image["file_name"]).stem in part.names
    }
    kept, dropped = [], 0
    for each in content["annotations"]:
        if image := images.get(each["image_id"]):
            left, top, width, height = each["bbox"]
            x0, x1 = max(left, 0), min(left + width, image["width"])
            y0, y1 = max(top, 0), min(top + height, image["height"])
            if x1 > x0 and y1 > y0:
                kept.append(each | {"bbox": [x0, y0, x1 - x0, y1 - y0]})
            else:
                dropped += 1
    if dropped:
        hint = "; YOLO's boxes are fractions of the picture: are these pixels?"
        logger.warning(
            f"{part.annotations}: {dropped} boxes outside the picture are left out"
            f"{hint if part.kind == 'yolo' else ''}"
        )
    return content | {"images": list(images.values()), "annotations": kept}


def merged(contents: dict[str, list[dict]], root: Path) -> dict[str, dict]:
    """One COCO JSON a split; classes are merged by name, in the order that they come in.

    Args:
        contents: by split, as `read_part` returns them.
        root: what the file names become relative to.

    Raises:
        UserError: a picture is in two splits.
    """
    everything = [content for parts in contents.values() for content in parts]
    names = list(
        dict.fromkeys(each["name"] for content in everything for each in content["categories"])
    )
    _report_alike(names)
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    numbers = {each["name"]: each["id"] for each in categories}
    seen, results = {}, {}
    for split, several in contents.items():
        images, annotations = [], []
        for content in several:
            name_of = {each["id"]: each["name"] for each in content["categories"]}
            number_of = {}
            for image in content["images"]:
                name = image["file_name"]
                if seen.setdefault(name, split) != split:
                    raise UserError(f"{name}: in {seen[name]} and in {split}; expected in one")
                number_of[image["id"]] = len(images) + 1
                relative = Path(name).relative_to(root).as_posix()
                images.append(image | {"id": len(images) + 1, "file_name": relative})
            annotations += [
                each
                | {
                    "id": len(annotations) + number,
                    "image_id": number_of[each["image_id"]],
                    "category_id": numbers[name_of[each["category_id"]]],
                }
                for number, each in enumerate(content["annotations"], start=1)
            ]
        results[split] = {"images": images, "categories": categories, "annotations": annotations}
    return results


def _report_alike(names: Iterable[str]) -> None:
    """Say which names of classes differ by spaces and capitals alone."""
    alike = defaultdict(list)
    for name in names:
        alike["".join(name.split()).casefold()].append(name)
    for several in alike.values():
        if len(several) > 1:
            listed = ", ".join(map(repr, several))
            logger.warning(
                f"classes {listed} differ by spaces and capitals alone, and stay"
                f" {len(several)} classes: if they are one, give it one name in the annotations"
            )


def with_validation(contents: dict[str, list[dict]], share: float, seed: int) -> dict:
    """Move a random share of the pictures of "train" or "all" to "val"; the rest is "train".

    Raises:
        UserError: there is a "val" already, or nothing to take it from.
    """
    source = "train" if "train" in contents else WHOLE
    if "val" in contents or source not in contents:
        raise UserError(
            f"--val-share: expected a data set with train alone, to draw val from, found"
            f" {', '.join(contents)}"
        )
    train, val = [], []
    for number, content in enumerate(contents[source]):
        ids = sorted(image["id"] for image in content["images"])
        Random(seed + number).shuffle(ids)
        chosen = set(ids[: round(share * len(ids))])
        for parts, wanted in ((val, True), (train, False)):
            parts.append(
                content
                | {
                    "images": [i for i in content["images"] if (i["id"] in chosen) == wanted],
                    "annotations": [
                        a for a in content["annotations"] if (a["image_id"] in chosen) == wanted
                    ],
                }
            )
    others = {split: parts for split, parts in contents.items() if split != source}
    return {"train": train, "val": val} | others
