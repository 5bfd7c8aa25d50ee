"""Graph damage (Figure 5) of a trained detector: the loss of box AP."""

import contextlib
import copy
import hashlib
import io
import logging
import math
import os
from collections.abc import Iterator

import torch
from detectron2.data import get_detection_dataset_dicts
from torch import Tensor, nn

from ..coco.datasets import check_datasets, class_names, register_coco_datasets, require_coco
from ..coco.evaluator import CocoEvaluator
from ..config import same_result
from ..errors import UsageError, UserError
from ..network.damage import Removal, damaged
from ..network.trunk import RandWire
from ..run.checkpoint import Checkpoint
from ..run.parallel import ALONE
from ..tables.damage import Subject, test_config
from .backbone import RandWireBackbone
from .checkpointer import check_outputs
from .loader import TestLoader
from .stored import build_detector

logger = logging.getLogger("detectron2.evaluation.coco_evaluation")


class Replay(nn.Module):
    """Stands in for a trunk: every call gives the outputs of the next removal for the same images.

    The first call after `begin` gives those of the intact trunk.
    """

    def __init__(self, trunk: RandWire):
        super().__init__()
        self.trunk = trunk
        self.out_channels, self.out_strides = trunk.out_channels, trunk.out_strides
        self._removed: list[Removal] = []
        self._outputs: Iterator[dict[str, Tensor]] | None = None

    def begin(self, removed: list[Removal]) -> None:
        self._removed, self._outputs = removed, None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if self._outputs is None:
            self._outputs = damaged(self.trunk, x, self._removed)
        return next(self._outputs)


def detector_subject(
    checkpoint: Checkpoint, overrides: list[str], device: str, images: int | None = None
) -> Subject:
    """A detector on its test set, DATASETS.TEST; the metric is the AP of boxes.

    Args:
        checkpoint: of a detector with a RandWire.
        overrides: KEY VALUE pairs that change the checkpoint's config.
        images: test on so many, evenly spaced in the order of the data set; None for all.

    Raises:
        UserError: bad input, as of `commands.evaluate_only`.
    """
    model, cfg, _ = build_detector(checkpoint, device, overrides)
    if len(cfg.DATASETS.TEST) != 1:
        raise UsageError(
            f"DATASETS.TEST {tuple(cfg.DATASETS.TEST)}: expected one data set to measure on"
        )
    (name,) = cfg.DATASETS.TEST
    register_coco_datasets(cfg, os.environ.get("DETECTRON2_DATASETS", "datasets"))
    check_datasets([name])
    require_coco(name)
    check_outputs(checkpoint, class_names(name))
    dicts = get_detection_dataset_dicts(name, filter_empty=False)
    if images is not None:
        if not 1 <= images <= len(dicts):
            raise UsageError(f"--images {images}: expected 1 to {len(dicts)}, as in {name}")
        dicts = [dicts[round(at * (len(dicts) - 1) / max(1, images - 1))] for at in range(images)]
    replay = _replay(model)
    loader = TestLoader(cfg, name, ALONE, dicts=dicts)
    if not any(not box.get("iscrowd", 0) for each in dicts for box in each.get("annotations", [])):
        raise UserError(f"{name}: its images have no boxes to measure AP by")
    evaluator = CocoEvaluator(name, distributed=False, tasks=("bbox",))
    ids = [each["image_id"] for each in dicts]

    def evaluate(removed: list[Removal]) -> list[float]:
        # All share the ground truth, which is large.
        evaluators = [copy.copy(evaluator) for _ in range(1 + len(removed))]
        for each in evaluators:
            each.reset()
        with torch.inference_mode():
            for inputs in loader:
                replay.begin(removed)
                for each in evaluators:
                    each.process(inputs, model(inputs))
        return [_box_ap(each, ids) for each in evaluators]

    digest = hashlib.sha256("\n".join(map(str, ids)).encode()).hexdigest()
    return Subject(
        spec=checkpoint.spec,
        metric="AP",
        images=len(dicts),
        identity={
            "checkpoint": checkpoint.path,
            "weights": checkpoint.weights_digest,
            "test set": f"{name}, {digest[:12]}",
            "config": test_config(cfg, same_result.DETECTION),
        },
        evaluate=evaluate,
    )


def _replay(model: nn.Module) -> Replay:
    """Replace the trunk of the model's backbone."""
    (backbone,) = (each for each in model.modules() if isinstance(each, RandWireBackbone))
    backbone.trunk = Replay(backbone.trunk)
    return backbone.trunk


def _box_ap(evaluator: CocoEvaluator, ids: list[int]) -> float:
    level = logger.level
    logger.setLevel(logging.ERROR)  # it logs tables, and warns of no detection at all
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its steps
            ap = evaluator.evaluate(ids)["bbox"]["AP"]
    finally:
        logger.setLevel(level)
    return 0.0 if math.isnan(ap) else ap  # detectron2's result if nothing is detected
