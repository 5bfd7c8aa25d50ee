"""COCO-format datasets by config, and a look at all datasets before a long run meets them."""

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
        classes = _class_names(annotations)
        register_coco_instances(name, {}, str(annotations), str(images))
        # detectron2 learns them only on loading; the checkpoint needs them before an evaluation.
        MetadataCatalog.get(name).thing_classes = classes


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


def class_names(name: str) -> list[str] | None:
    """The class names of a registered data set, in the order of its labels; None if it has none.

    Those of a COCO JSON that was not loaded yet are read, and kept.

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
    """Whether COCO's AP is what measures a data set, rather than LVIS's.

    A set without a JSON of its own counts: COCOEvaluator writes one for it.
    """
    return MetadataCatalog.get(name).get("evaluator_type") != "lvis"


def require_coco(name: str) -> None:
    """Refuse a test set that COCO's AP does not measure.

    Raises:
        UsageError: it is one of LVIS's.
    """
    if not is_coco(name):
        raise UsageError(
            f"DATASETS.TEST {name!r}: a set of LVIS, whose AP is another than COCO's, the one"
            " measured here; leave it out, or override RandWireTrainer.build_evaluator"
        )


def training_dicts(cfg: CfgNode) -> list[dict]:
    """The dicts of DATASETS.TRAIN as detectron2 filters them, their crowd flags read by value.

    Raises:
        UserError: an "iscrowd" that is neither true nor false.
    """
    keypoints, proposals = cfg.MODEL.KEYPOINT_ON, cfg.MODEL.LOAD_PROPOSALS
    dicts = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=False,  # by the flags as they stand
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if keypoints else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if proposals else None,
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
        names = ", ".join(cfg.DATASETS.TRAIN)
        raise UserError(f"DATASETS.TRAIN {names}: no image has anything to learn from")
    return dicts
