"""What can be refused before a run has written anything, in one line each."""

import logging
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..checkpoint import check_same_preprocessing, load_checkpoint
from ..errors import UsageError, UserError
from ..spec_config import check_same_spec, spec_from_config
from .checkpointer import PREPROCESSING_KEYS, newest_checkpoint, preprocessing_from_config
from .datasets import check_datasets

logger = logging.getLogger(__name__)
LOWEST = {"SOLVER.MAX_ITER": 1, "SOLVER.IMS_PER_BATCH": 1, "SOLVER.CHECKPOINT_PERIOD": 1}


def check_run(cfg: CfgNode, *, resume: bool, eval_only: bool) -> str:
    """Look at values, data sets and weights, and find the weights that the run starts from.

    Returns:
        the path of a checkpoint: of OUTPUT_DIR when resuming, else MODEL.WEIGHTS; "" for none.

    Raises:
        UserError: names the value, what was expected and how to mend it.
    """
    for key, lowest in LOWEST.items():
        section, name = key.split(".")
        if cfg[section][name] < lowest:
            raise UsageError(f"{key} {cfg[section][name]}: expected {lowest} or more")
    if not cfg.SOLVER.BASE_LR > 0:
        raise UsageError(f"SOLVER.BASE_LR {cfg.SOLVER.BASE_LR}: expected a number above 0")
    for key in ("TEST",) if eval_only else ("TRAIN", "TEST"):
        names = list(cfg.DATASETS[key])
        if not names and (eval_only or key == "TRAIN"):
            raise UsageError(f"DATASETS.{key} is empty: name at least one data set")
        check_datasets(names)
        for name in names:
            _check_classes(cfg, name)
    path = _start(cfg, resume)
    if eval_only and not path:
        raise UsageError(
            f"--eval-only has nothing to evaluate: OUTPUT_DIR {cfg.OUTPUT_DIR} holds no checkpoint"
            if resume
            else "--eval-only has nothing to evaluate: set MODEL.WEIGHTS, or add --resume"
        )
    if path and "://" not in path:
        weights = load_checkpoint(path)
        check_same_spec(
            weights["spec"], spec_from_config(cfg.MODEL.RANDWIRE), path, "MODEL.RANDWIRE"
        )
        ours = preprocessing_from_config(cfg)
        check_same_preprocessing(weights["preprocessing"], ours, path, PREPROCESSING_KEYS)
    try:
        Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"OUTPUT_DIR {cfg.OUTPUT_DIR}: {error.strerror}") from None
    return path


def _start(cfg: CfgNode, resume: bool) -> str:
    newest = newest_checkpoint(cfg.OUTPUT_DIR) if resume else None
    return str(newest) if newest else cfg.MODEL.WEIGHTS


def _check_classes(cfg: CfgNode, name: str) -> None:
    """A class past the last output fails in mid-run, on a GPU without a reason."""
    head = "RETINANET" if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else "ROI_HEADS"
    outputs, classes = cfg.MODEL[head].NUM_CLASSES, MetadataCatalog.get(name).get("thing_classes")
    if classes is None or len(classes) == outputs:
        return
    problem = (
        f"MODEL.{head}.NUM_CLASSES {outputs}, but data set {name!r} has {len(classes)} classes"
    )
    if len(classes) > outputs:
        raise UsageError(f"{problem}; set MODEL.{head}.NUM_CLASSES {len(classes)}")
    logger.warning(problem)
