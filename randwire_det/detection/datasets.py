"""COCO-format datasets by config, and a look at all datasets before a long run meets them."""

import json
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from ..errors import UsageError, UserError


def register_coco_datasets(cfg: CfgNode, root: str) -> None:
    """Register the datasets of `DATASETS.COCO`, with their class names read from the JSON.

    Args:
        root: the folder that relative paths start at.

    Raises:
        UserError: a row that is no triple of strings, or a JSON that is missing or broken.
    """
    for row in cfg.DATASETS.COCO:
        triple = isinstance(row, list | tuple) and len(row) == 3
        if not triple or not all(isinstance(item, str) for item in row):
            raise UsageError(
                f"DATASETS.COCO {row!r}: expected [name, annotation file, image folder]"
            )
        name, annotations, images = row[0], Path(root, row[1]), Path(root, row[2])
        if name in DatasetCatalog:
            raise UsageError(f"DATASETS.COCO {name!r}: a dataset of this name is there already")
        classes = _category_names(annotations)
        register_coco_instances(name, {}, str(annotations), str(images))
        # detectron2 learns them only on loading; the checkpoint needs them before an evaluation.
        MetadataCatalog.get(name).set(thing_classes=classes)


def check_datasets(names: list[str]) -> None:
    """Refuse a dataset that is not registered, or whose files are not there.

    Raises:
        UserError: names the dataset, the path looked for and how to point elsewhere.
    """
    for name in names:
        if name not in DatasetCatalog:
            raise UsageError(
                f"dataset {name!r} is not registered; use one of detectron2's, such as"
                " coco_2017_train, or describe yours in DATASETS.COCO"
            )
        metadata = MetadataCatalog.get(name)
        for kind in ("json_file", "image_root"):
            path = metadata.get(kind)
            if path and "://" not in path and not Path(path).exists():
                raise UserError(
                    f"dataset {name!r}: {path} does not exist; the environment variable"
                    " DETECTRON2_DATASETS names the folder that holds coco/"
                )


def _category_names(annotations: Path) -> list[str]:
    try:
        categories = json.loads(annotations.read_bytes())["categories"]
        return [category["name"] for category in sorted(categories, key=lambda c: c["id"])]
    except OSError as error:
        raise UserError(f"annotations {annotations}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"annotations {annotations}: no COCO JSON ({error!r})") from None
