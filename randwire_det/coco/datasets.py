"""Registers COCO-format data sets from the config and checks data sets before a run."""

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.data.datasets import register_coco_instances

from ..errors import UsageError, UserError
from . import coco_json


def register_coco_datasets(cfg: CfgNode, root: str) -> None:
    """Register the datasets of `DATASETS.COCO`, with their class names read from the JSON.

    Args:
        root: the folder for relative paths.

    Raises:
        UserError: a row is not three strings, or a JSON is missing or broken.
    """
    for row in cfg.DATASETS.COCO:
        triple = isinstance(row, list | tuple) and len(row) == 3
        if not triple or not all(isinstance(item, str) for item in row):
            raise UsageError(
                f"DATASETS.COCO {row!r}: expected [name, annotation file, image folder]"
            )
        name, annotations, images = row[0], Path(root, row[1]), Path(root, row[2])
        if name in DatasetCatalog:
            raise UsageError(f"DATASETS.COCO {name!r}: already registered; use another name")
        classes = _class_names(annotations)
        register_coco_instances(name, {}, str(annotations), str(images))
        # detectron2 sets them on loading only; the checkpoint needs them before an evaluation.
        MetadataCatalog.get(name).thing_classes = classes


def check_datasets(names: list[str]) -> None:
    """Refuse a data set that is not registered or whose files are missing.

    Raises:
        UserError: names the data set, the missing path and how to point elsewhere.
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


def class_names(name: str) -> list[str] | None:
    """The class names of a registered data set, in the order of its labels; None if it has none.

    Reads and stores those of a COCO JSON that is not loaded yet.

    Raises:
        UserError: the JSON cannot be used.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None and metadata.get("json_file") and is_coco(name):
        metadata.thing_classes = _class_names(metadata.json_file)
    classes = metadata.get("thing_classes")
    return None if classes is None else list(classes)


def _class_names(json_file: str | Path) -> list[str]:
    content = coco_json.read_coco(json_file, lists=("categories",))
    return coco_json.class_names(content, json_file)


def is_coco(name: str) -> bool:
    """Whether a data set is evaluated by COCO's AP, not by LVIS's.

    True also for a data set without a JSON: COCOEvaluator writes one for it.
    """
    return MetadataCatalog.get(name).get("evaluator_type") != "lvis"


def require_coco(name: str) -> None:
    """Refuse a test set that is not evaluated by COCO's AP.

    Raises:
        UsageError: the data set is one of LVIS.
    """
    if not is_coco(name):
        raise UsageError(
            f"DATASETS.TEST {name!r}: an LVIS data set, expected one that COCO's AP evaluates;"
            " remove it, or override RandWireTrainer.build_evaluator"
        )


def training_dicts(cfg: CfgNode, split: str = "TRAIN") -> list[dict]:
    """The dicts of DATASETS.TRAIN, filtered as detectron2 does, with crowd flags read by value.

    Args:
        split: "TEST" for those of DATASETS.TEST, to be used as in training.

    Raises:
        UserError: an "iscrowd" that is neither true nor false.
    """
    keypoints, proposals = cfg.MODEL.KEYPOINT_ON, cfg.MODEL.LOAD_PROPOSALS
    dicts = get_detection_dataset_dicts(
        list(dict.fromkeys(cfg.DATASETS[split])),
        filter_empty=False,  # it would filter by the raw flags
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if keypoints else 0,
        proposal_files=cfg.DATASETS[f"PROPOSAL_FILES_{split}"] if proposals else None,
    )
    for entry in dicts:
        for annotation in entry.get("annotations", ()):
            if "iscrowd" in annotation:
                try:
                    annotation["iscrowd"] = int(coco_json.is_crowd(annotation))
                except UserError as error:
                    raise UserError(f"{entry.get('file_name')}: {error}") from None
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and "annotations" in dicts[0]:
        dicts = filter_images_with_only_crowd_annotations(dicts)
    if not dicts:
        names = ", ".join(cfg.DATASETS[split])
        raise UserError(f"DATASETS.{split} {names}: no image has anything to learn from")
    return dicts
