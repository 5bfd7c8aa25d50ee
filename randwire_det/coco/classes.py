"""The classes of a run: as many as the detector has outputs, and one list of names in all sets."""

import logging

from detectron2.config import CfgNode

from ..errors import UsageError
from ..run.classes import check_same_classes
from .datasets import class_names, require_coco

logger = logging.getLogger(__name__)
CURE = "an output is a position among the categories in the order of their ids: number them alike"


def number_of_outputs(cfg: CfgNode) -> tuple[str, int | None]:
    """The key that says how many classes a config's detector tells apart, and its value.

    None stands for a model of proposals alone, which have no class.
    """
    head = "RETINANET" if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else "ROI_HEADS"
    classless = cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork"
    return f"MODEL.{head}.NUM_CLASSES", None if classless else cfg.MODEL[head].NUM_CLASSES


def misfit(classes: int, outputs: int | None, *, tested: bool) -> str | None:
    """What is wrong with a data set of so many classes for a model of so many outputs.

    Returns:
        "too-many-classes": one past the last output fails in mid-run, on a GPU without a reason;
        "too-many-outputs", of a test set: the evaluation fails once one past the last class is
        detected; "spare-outputs", of a training set, is no more than waste; None if both agree.
    """
    if outputs is None or classes == outputs:
        return None
    if classes > outputs:
        return "too-many-classes"
    return "too-many-outputs" if tested else "spare-outputs"


def check_classes(cfg: CfgNode, *, eval_only: bool = False) -> list[str] | None:
    """Compare the classes of all data sets of a run with its outputs, and with each other.

    Of several training sets, labels of different lists would mean different things, and of a test
    set in another order, each output would be measured as another class.

    Args:
        eval_only: leaves DATASETS.TRAIN out.

    Returns:
        the names, in the order of the outputs; None where no set knows its own, or the model tells
        no classes apart.

    Raises:
        UserError: names the data sets, and what differs.
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
