"""Where data sets keep pictures and annotations: VOC, YOLO, labelme, Roboflow, COCO itself.

Each `*_parts` function looks at a folder and returns its parts, none if it has another layout.
"""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from ..strict import load_yaml
from . import coco_json

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
WHOLE = "all"  # the split of a data set that is not divided
PICTURE_FOLDERS = ("JPEGImages", "images", "Images")  # beside Annotations
ROBOFLOW_COCO = "_annotations.coco.json"

logger = logging.getLogger(__name__)


class Part(NamedTuple):
    """Pictures of one folder that belong to one split.

    Attributes:
        kind: one of `KINDS`.
        split: "train", "val", "test" or "all".
        images: the pictures' folder.
        annotations: the folder of their annotations; the file of coco.
        names: of the pictures, without endings; None for all in the folder.
        yaml: yolo's file of class names.
    """

    kind: str
    split: str
    images: Path
    annotations: Path
    names: frozenset[str] | None = None
    yaml: Path | None = None


def parts(source: Path, kind: str | None = None) -> list[Part]:
    """The parts of a data set.

    Args:
        source: its folder, or a file of COCO annotations beside its pictures.
        kind: of `KINDS`; None to find out.

    Raises:
        UserError: no such folder, or its layout is none of the known ones.
    """
    if source.suffix == ".json" and source.is_file():
        return [_coco_part(source.parent, source)]
    if not source.is_dir():
        problem = "a file" if source.is_file() else "no such folder"
        raise UserError(
            f"{source}: {problem}; expected the folder of a data set, unpacked, or a COCO JSON"
        )
    for each in (kind,) if kind else KINDS:
        if found := KINDS[each](source):
            return found
    raise UserError(
        f"{source}: no {kind or 'VOC, YOLO, labelme or COCO'} data set; expected"
        f" {LAYOUTS[kind] if kind else '; or '.join(LAYOUTS.values())}"
    )


def voc_parts(source: Path) -> list[Part]:
    annotations = source / "Annotations"
    if not annotations.is_dir():
        return [Part("voc", split, at, at) for split, at in _folders(source) if _has(at, "*.xml")]
    images = next((source / each for each in PICTURE_FOLDERS if (source / each).is_dir()), source)
    lists = source / "ImageSets" / "Main"
    # trainval is train and val together.
    splits = [each for each in ("train", "val", "test") if (lists / f"{each}.txt").is_file()]
    if not splits:
        return [Part("voc", WHOLE, images, annotations)]
    names = {each: (lists / f"{each}.txt").read_text("utf-8").split() for each in splits}
    return [Part("voc", each, images, annotations, frozenset(names[each])) for each in splits]


def yolo_parts(source: Path) -> list[Part]:
    for path in sorted(source.glob("*.y*ml")):
        content = load_yaml(path.read_text("utf-8", "replace"))
        if isinstance(content, dict) and "names" in content:
            found = [
                Part("yolo", SPLITS[split], images, _labels(images), None, path)
                for split in SPLITS
                for images in _yolo_folders(path, content, split)
            ]
            if not found:
                raise UserError(f"{path}: names no pictures; expected train: and val:, folders")
            return found
    return []


def _yolo_folders(path: Path, content: dict, split: str) -> Iterator[Path]:
    """The picture folders that yolo's file names for a split.

    Raises:
        UserError: a folder of train or val is not there, or it is a list of pictures.
    """
    listed = content.get(split) or ()
    base = path.parent / str(content.get("path") or "")
    for each in [listed] if isinstance(listed, str) else listed:
        # Roboflow writes ../train/images for train/images beside the file.
        tried = (base / each, path.parent / each, path.parent / "x" / each)
        folders = [Path(os.path.normpath(at)) for at in tried]
        found = next((at for at in folders if at.is_dir()), None)
        if found:
            yield found
        elif split == "test":  # often named in exports without such a part
            logger.warning(f"{path}: test {each!r} is no folder: left out")
        else:
            raise UserError(f"{path}: {split} {each!r} is no folder; expected one of pictures")


def _labels(images: Path) -> Path:
    """yolo's folder of labels: the pictures', with its last "images" replaced by "labels"."""
    names = list(images.parts)
    if "images" not in names:
        return images
    last = len(names) - 1 - names[::-1].index("images")
    return Path(*names[:last], "labels", *names[last + 1 :])


def labelme_parts(source: Path) -> list[Part]:
    found = ((split, at) for split, at in _folders(source) if _is_labelme(at))
    return [Part("labelme", split, at, at) for split, at in found]


def _is_labelme(folder: Path) -> bool:
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
        except ValueError:
            return False
        return isinstance(content, dict) and "shapes" in content
    return False


def roboflow_parts(source: Path) -> list[Part]:
    found = ((split, at, at / ROBOFLOW_COCO) for split, at in _folders(source))
    return [Part("coco", split, at, path) for split, at, path in found if path.is_file()]


def coco_parts(source: Path) -> list[Part]:
    """As COCO itself: annotations/instances_train2017.json beside train2017."""
    found = sorted((source / "annotations").glob("*.json"))
    instances = [path for path in found if path.name.startswith("instances_")]
    return [_coco_part(source, path) for path in instances or found]


def _coco_part(source: Path, path: Path) -> Part:
    """A file of COCO annotations, and the folder of its pictures in the data set.

    Raises:
        UserError: none of the usual folders has its first picture.
    """
    name = path.stem.removeprefix("instances_")
    split = next((SPLITS[each] for each in SPLITS if name.startswith(each)), WHOLE)
    tried = [source / name, source / "images" / name, source / "images", source]
    content = coco_json.read_coco(path)
    images = content["images"] if isinstance(content.get("images"), list) else []
    first = next((each.get("file_name") for each in images if isinstance(each, dict)), None)
    for folder in tried:
        if isinstance(first, str) and (folder / first).is_file():
            return Part("coco", split, folder, path)
    raise UserError(
        f"{path}: its first picture, {first!r}, is in none of {', '.join(map(str, tried))}"
    )


def _folders(source: Path) -> list[tuple[str, Path]]:
    """The folders of splits in a data set; itself where there are none."""
    inside = [(SPLITS[name], source / name) for name in SPLITS if (source / name).is_dir()]
    return inside or [(WHOLE, source)]


def _has(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None


KINDS = {
    "coco": lambda source: roboflow_parts(source) or coco_parts(source),
    "yolo": yolo_parts,
    "voc": voc_parts,
    "labelme": labelme_parts,
}
LAYOUTS = {
    "coco": f"{ROBOFLOW_COCO} beside the pictures, or annotations/*.json as of COCO itself",
    "yolo": "a data.yaml with names and the folders of train and val, and labels/ beside images/",
    "voc": "Annotations/*.xml and JPEGImages/, or *.xml beside the pictures",
    "labelme": "labelme's *.json beside the pictures",
}
