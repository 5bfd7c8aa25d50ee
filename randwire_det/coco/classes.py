"""Checks that the classes of all data sets match the detector's outputs and each other."""

import logging

from detectron2.config import CfgNode

from ..errors import UsageError
from ..run.classes import check_same_classes
from .datasets import class_names, require_coco

logger = logging.getLogger(__name__)
CURE = "an output is a position among the categories in the order of their ids: number them alike"


def number_of_outputs(cfg: CfgNode) -> tuple[str, int | None]:
    """The config key for the number of classes, and its value.

    The value is None for a proposal network, whose outputs have no class.
    """
    head = "RETINANET" if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else "ROI_HEADS"
    classless = cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork"
    return f"MODEL.{head}.NUM_CLASSES", None if classless else cfg.MODEL[head].NUM_CLASSES


def misfit(classes: int, outputs: int | None, *, tested: bool) -> str | None:
    """The kind of mismatch between a data set's number of classes and a model's outputs.

    Returns:
        "too-many-classes": a label past the last output fails during training, on a GPU without a
        useful message; "too-many-outputs" for a test set: evaluation fails once an output past the
        last class is detected; "spare-outputs" for a training set: harmless waste; None: no
        mismatch.
    """
    if outputs is None or classes == outputs:
        return None
    if classes > outputs:
        return "too-many-classes"
    return "too-many-outputs" if tested else "spare-outputs"


def check_classes(cfg: CfgNode, *, eval_only: bool = False) -> list[str] | None:
    """Compare the classes of all data sets of a run with the outputs and with each other.

    With different lists, the labels of two training sets would mean different classes, and each
    output would be evaluated as another class of the test set.

    Args:
        eval_only: ignores DATASETS.TRAIN.

    Returns:
        the names in the order of the outputs; None if no data set has names or the model has no
        classes.

    Raises:
        UserError: names the data sets and the difference.
    """
    for name in cfg.DATASETS.TEST:
        require_coco(name)
    key, outputs = number_of_outputs(cfg)
    if outputs is None:
        return None
    first, agreed = None, None
    for use in ("TEST",) if eval_only else ("TRAIN", "TEST"):
        for name in cfg.DATASETS[use]:
            classes = class_names(name)
            if classes is None:
                continue
            problem = f"{key} {outputs}, but data set {name!r} has {len(classes)} classes"
            kind = misfit(len(classes), outputs, tested=use == "TEST")
            if kind == "spare-outputs":
                logger.warning(problem)
            elif kind:
                raise UsageError(f"{problem}; set {key} {len(classes)}")
            if agreed is None:
                first, agreed = f"data set {name!r}", classes
            check_same_classes(first, agreed, f"data set {name!r}", classes, CURE)
    return agreed
