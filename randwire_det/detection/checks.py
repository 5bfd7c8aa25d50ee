"""What can be refused before a run has written anything, in one line each."""

import difflib
import logging
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    build_backbone,
)
from detectron2.utils.file_io import PathManager

from ..checkpoint import KINDS, load_checkpoint
from ..errors import UsageError, UserError
from ..parallel import current_world
from ..spec_config import spec_from_config
from .checkpointer import (
    check_fits,
    check_outputs,
    newest_checkpoint,
    preprocessing_from_config,
)
from .classes import check_classes
from .dataset_report import IMAGE_CHECKS, check_configured_datasets
from .datasets import check_datasets
from .values import check_values, value_of

logger = logging.getLogger(__name__)
REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "MODEL.ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
}
# Sections whose IN_FEATURES are the backbone's; a meta-architecture of one's own has others.
READERS = {
    "GeneralizedRCNN": ("MODEL.RPN", "MODEL.ROI_HEADS"),
    "PanopticFPN": ("MODEL.RPN", "MODEL.ROI_HEADS"),
    "ProposalNetwork": ("MODEL.RPN",),
    "RetinaNet": ("MODEL.RETINANET",),
}


def check_run(cfg: CfgNode, *, resume: bool, eval_only: bool) -> str:
    """Look at values, data sets and weights, and find the weights that the run starts from.

    Returns:
        the path of a checkpoint: of OUTPUT_DIR when resuming, else MODEL.WEIGHTS; "" for none.

    Raises:
        UserError: names the value, what was expected and how to mend it.
    """
    check_values(cfg)
    batch, processes = cfg.SOLVER.IMS_PER_BATCH, current_world().size
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE or processes
    if not eval_only and batch % reference:
        raise UsageError(
            f"SOLVER.IMS_PER_BATCH {batch}: expected a multiple of {reference}, the number of"
            f" {'processes' if reference == processes else 'SOLVER.REFERENCE_WORLD_SIZE'}"
        )
    if cfg.DATASETS.CHECK not in ("off", *IMAGE_CHECKS):
        raise UsageError(
            f"DATASETS.CHECK {cfg.DATASETS.CHECK!r}: expected off, {', '.join(IMAGE_CHECKS)}"
        )
    check_model(cfg)
    for key in ("TEST",) if eval_only else ("TRAIN", "TEST"):
        names = list(cfg.DATASETS[key])
        if not names and (eval_only or key == "TRAIN"):
            raise UsageError(f"DATASETS.{key} is empty: name at least one data set")
        check_datasets(names)
    classes = check_classes(cfg, eval_only=eval_only)
    path = _start(cfg, resume)
    if eval_only and not path:
        raise UsageError(
            f"--eval-only has nothing to evaluate: OUTPUT_DIR {cfg.OUTPUT_DIR} holds no checkpoint"
            if resume
            else "--eval-only has nothing to evaluate: set MODEL.WEIGHTS, or add --resume"
        )
    if path:
        weights = load_checkpoint(path, kinds=KINDS)
        spec = spec_from_config(cfg.MODEL.RANDWIRE) if builds_randwire(cfg) else None
        goes_on = resume and Path(path).parent == Path(cfg.OUTPUT_DIR)
        check_fits(weights, path, spec, preprocessing_from_config(cfg))
        check_outputs(weights, path, classes, relearned=not (eval_only or goes_on))
    try:
        Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR}: {error.strerror}; set it to a folder that can be made"
        ) from None
    return path


def check_model(cfg: CfgNode) -> None:
    """Look for the parts of the model by name, and for the features that they read.

    Raises:
        UsageError: there is no such part, or no such feature.
    """
    for key, registry in REGISTRIES.items():
        name = value_of(cfg, key)
        if name not in registry and name != "PrecomputedProposals":  # stands in no registry
            known = sorted(each for each, _ in registry)
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(f"{key} {name!r}: {hint}known are {', '.join(known)}")
    with torch.device("meta"):
        features = list(build_backbone(cfg).output_shape())
    for key in READERS.get(cfg.MODEL.META_ARCHITECTURE, ()):
        read = list(value_of(cfg, key).IN_FEATURES)
        if not read or not set(read) <= set(features):
            raise UsageError(
                f"{key}.IN_FEATURES {read}: expected some of {features}, which the backbone"
                f" {cfg.MODEL.BACKBONE.NAME} puts out"
            )


def builds_randwire(cfg: CfgNode) -> bool:
    """Whether the backbone is one of this package's, which read MODEL.RANDWIRE."""
    return "randwire" in cfg.MODEL.BACKBONE.NAME


def check_data(cfg: CfgNode, *, eval_only: bool) -> None:
    """Look through the data sets as DATASETS.CHECK says, and report what there is to say.

    Raises:
        UserError: something would stop the run, or teach it nonsense.
    """
    depth = cfg.DATASETS.CHECK
    if depth == "off":
        return
    reports = check_configured_datasets(cfg, images=depth, eval_only=eval_only)
    for report in reports:
        if report.fatal or report.warnings:
            logger.warning(report.to_text())
    for report in reports:
        report.raise_if_fatal()


def _start(cfg: CfgNode, resume: bool) -> str:
    newest = newest_checkpoint(cfg.OUTPUT_DIR) if resume else None
    weights = str(newest) if newest else cfg.MODEL.WEIGHTS
    if "://" not in weights:
        return weights
    try:
        path = PathManager.get_local_path(weights)  # fetched once, then kept
        if not Path(path).is_file():  # what it has no handler for comes back as it is
            raise ValueError("detectron2 knows no such kind of address")
        return path
    except Exception as error:  # every kind of address has a handler of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"MODEL.WEIGHTS {weights} cannot be fetched: {reason}") from None
