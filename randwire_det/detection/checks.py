"""Checks of a detection config before a run writes anything; each error is one line."""

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

from ..coco.classes import check_classes
from ..coco.datasets import check_datasets
from ..coco.lint import check_configured_datasets
from ..config.files import flat
from ..config.network_keys import spec_from_config
from ..config.values import did_you_mean
from ..errors import UsageError, UserError
from ..run.checkpoint import KINDS, Checkpoint, load_checkpoint
from ..run.folder import refuse_used
from ..run.memory import require_memory
from ..run.parallel import current_world
from ..run.trackers import check_trackers
from ..strict import load_yaml
from .best import check_best
from .checkpointer import OUTPUT_KEYS, check_fits, check_outputs, newest_checkpoint
from .preprocessing import preprocessing_from_config, without_weights
from .presets import refuse_presets
from .same_run import check_same_recipe
from .values import check_values, refused_as, value_of

logger = logging.getLogger(__name__)
REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "MODEL.ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
}
OF_A_TEST = (
    "INPUT.MIN_SIZE_TEST",
    "INPUT.MAX_SIZE_TEST",
    "TEST.DETECTIONS_PER_IMAGE",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "MODEL.RETINANET.SCORE_THRESH_TEST",
    "MODEL.RETINANET.NMS_THRESH_TEST",
)
ANCHORED = ("MODEL.RPN", "MODEL.RETINANET")  # sections whose features have anchors
# By meta-architecture, the sections whose IN_FEATURES name features of the backbone.
READERS = {
    "GeneralizedRCNN": ("MODEL.RPN", "MODEL.ROI_HEADS"),
    "PanopticFPN": ("MODEL.RPN", "MODEL.ROI_HEADS"),
    "ProposalNetwork": ("MODEL.RPN",),
    "RetinaNet": ("MODEL.RETINANET",),
}


def check_run(cfg: CfgNode, *, resume: bool, eval_only: bool) -> Checkpoint | None:
    """Check values, data sets and weights, and read the checkpoint that the run starts from.

    Returns:
        the newest checkpoint of OUTPUT_DIR if resuming, else that of MODEL.WEIGHTS; None if there
        is neither.

    Raises:
        UserError: names the value, what was expected and how to fix it.
    """
    check_values(cfg)
    if not eval_only:
        refuse_used(Path(cfg.OUTPUT_DIR), resume=resume)
    batch, processes = cfg.SOLVER.IMS_PER_BATCH, current_world().size
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE or processes
    if not eval_only and batch % reference:
        raise UsageError(
            f"SOLVER.IMS_PER_BATCH {batch}: expected a multiple of {reference}, the number of"
            f" {'processes' if reference == processes else 'SOLVER.REFERENCE_WORLD_SIZE'}"
        )
    share, parts = batch // reference, cfg.SOLVER.ACCUMULATE
    if not eval_only and share % parts:
        raise UsageError(
            f"SOLVER.ACCUMULATE {parts}: expected a divisor of {share}, the images of a process in"
            " a batch"
        )
    refuse_presets(cfg)
    check_model(cfg)
    if not eval_only:
        check_best(cfg)
        check_trackers(cfg)
    for key in ("TEST",) if eval_only else ("TRAIN", "TEST"):
        names = list(cfg.DATASETS[key])
        if not names and (eval_only or key == "TRAIN"):
            raise UsageError(f"DATASETS.{key} is empty: name at least one data set")
        check_datasets(names)
    classes = check_classes(cfg, eval_only=eval_only)
    checkpoint = _start(cfg, resume)
    if eval_only and not checkpoint:
        raise UsageError(
            f"--eval-only has nothing to evaluate: OUTPUT_DIR {cfg.OUTPUT_DIR} holds no checkpoint"
            if resume
            else "--eval-only has nothing to evaluate: set MODEL.WEIGHTS, or add --resume"
        )
    if checkpoint:
        spec = spec_from_config(cfg.MODEL.RANDWIRE) if builds_randwire(cfg) else None
        resumes = resume and Path(checkpoint.path).parent == Path(cfg.OUTPUT_DIR)
        output_values = {key: value_of(cfg, key) for key in OUTPUT_KEYS}
        check_fits(checkpoint, spec, preprocessing_from_config(cfg), output_values)
        check_outputs(checkpoint, classes, relearned=not (eval_only or resumes))
        if resumes and not eval_only:
            check_same_recipe(checkpoint, cfg)
    return checkpoint


def report_other_test(checkpoint: Checkpoint, cfg: CfgNode) -> None:
    """Log which of the values that decide about AP are others than in the checkpoint's config."""
    stored = flat(load_yaml(checkpoint.config)) if checkpoint.config else {}
    others = [
        f"{key} {value_of(cfg, key)} instead of {stored[key]}"
        for key in OF_A_TEST
        if stored.get(key, value_of(cfg, key)) != value_of(cfg, key)
    ]
    if checkpoint.kind == "detector" and others:
        logger.warning(
            f"tested otherwise than {checkpoint.path} was set to be: {', '.join(others)}; AP"
            " depends on it"
        )


def check_model(cfg: CfgNode) -> None:
    """Check that the model's modules and features exist, and build it on the meta device.

    Raises:
        UsageError: an unknown module or feature, or a value that the model cannot be built with.
    """
    for key, registry in REGISTRIES.items():
        name = value_of(cfg, key)
        if name not in registry and name != "PrecomputedProposals":  # not in the registry
            known = sorted(each for each, _ in registry)
            hint = did_you_mean(name, known)
            raise UsageError(f"{key} {name!r}: {hint}known are {', '.join(known)}")
    cfg = without_weights(cfg)
    with torch.device("meta"):
        backbone = refused_as("MODEL", lambda: build_backbone(cfg))
        features = list(backbone.output_shape()) if backbone is not None else []
        for key in READERS.get(cfg.MODEL.META_ARCHITECTURE, ()) if features else ():
            read = [str(feature) for feature in value_of(cfg, key).IN_FEATURES]
            if not read or not set(read) <= set(features):
                raise UsageError(
                    f"{key}.IN_FEATURES {read}: expected some of {features}, the outputs of the"
                    f" backbone {cfg.MODEL.BACKBONE.NAME}"
                )
            if key in ANCHORED and cfg.MODEL.ANCHOR_GENERATOR.NAME == "DefaultAnchorGenerator":
                _check_anchors(cfg, key, len(read))
        model = refused_as(
            "MODEL", lambda: META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
        )
    if model is not None:
        tensors = dict(model.named_parameters())
        largest = max(tensors, key=lambda name: tensors[name].numel(), default="")
        shape = " x ".join(map(str, tensors[largest].shape)) if largest else ""
        require_memory(
            sum(tensor.numel() for tensor in tensors.values()),
            f"the model of the config (its largest tensor is {largest}, {shape})",
        )


def _check_anchors(cfg: CfgNode, key: str, features: int) -> None:
    """Check that there is one list of sizes and of ratios for all features or one for each, of
    positive numbers, and that every feature has as many anchors, since they share one head."""
    node, counts = cfg.MODEL.ANCHOR_GENERATOR, [1] * features
    for name in ("SIZES", "ASPECT_RATIOS"):
        lists = node[name]
        if lists and not isinstance(lists[0], list | tuple):
            lists = [lists]
        where = f"MODEL.ANCHOR_GENERATOR.{name} {node[name]}"
        if len(lists) not in (1, features):
            raise UsageError(
                f"{where}: expected one list for all features or {features} lists, one for each of"
                f" {key}.IN_FEATURES {value_of(cfg, key).IN_FEATURES}"
            )
        if not all(isinstance(one, list | tuple) and one for one in lists) or not all(
            isinstance(number, int | float) and number > 0 for one in lists for number in one
        ):
            raise UsageError(f"{where}: expected lists of numbers above 0")
        each = [len(one) for one in lists] * (features // len(lists))
        counts = [count * more for count, more in zip(counts, each, strict=True)]
    if len(set(counts)) > 1:
        raise UsageError(
            f"MODEL.ANCHOR_GENERATOR.SIZES {node.SIZES} and ASPECT_RATIOS {node.ASPECT_RATIOS}:"
            f" expected as many anchors on every feature, got {counts}"
        )


def builds_randwire(cfg: CfgNode) -> bool:
    """Whether the backbone is one of this package, which read MODEL.RANDWIRE."""
    return "randwire" in cfg.MODEL.BACKBONE.NAME


def check_data(cfg: CfgNode, *, eval_only: bool) -> None:
    """Check the data sets as thoroughly as DATASETS.CHECK says, and log the findings.

    Raises:
        UserError: a finding that would stop the run or spoil its result.
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


def _start(cfg: CfgNode, resume: bool) -> Checkpoint | None:
    newest = newest_checkpoint(cfg.OUTPUT_DIR) if resume else None
    if newest or not cfg.MODEL.WEIGHTS:
        return newest
    path = _local_path(cfg.MODEL.WEIGHTS)
    if not Path(path).exists():
        raise UserError(
            f"MODEL.WEIGHTS {path}: no such checkpoint file; tools/pretrain_imagenet.py writes one,"
            ' and MODEL.WEIGHTS "" starts from random weights'
        )
    return load_checkpoint(path, kinds=KINDS)


def _local_path(weights: str) -> str:
    if "://" not in weights:
        return weights
    try:
        path = PathManager.get_local_path(weights)  # downloaded once, then cached
        if not Path(path).is_file():  # an address without a handler is returned unchanged
            raise ValueError("detectron2 has no handler for this kind of address")
        return path
    except Exception as error:  # each handler raises errors of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"MODEL.WEIGHTS {weights} cannot be fetched: {reason}") from None
