"""pycocotools' box evaluation and the figures that the report takes from it.

AP is in percent, as detectron2 logs it; NaN without ground truth.
"""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..metrics import METRICS


def evaluate(truth: dict, detections: list[dict]) -> COCOeval:
    """Run pycocotools' box evaluation, including its summary, on all images and classes.

    Args:
        truth: a COCO JSON, from `read_truth`.
        detections: COCO results, from `read_results`; may be empty.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells its steps
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        if detections:
            found = coco.loadRes(detections)
        else:  # loadRes does not accept an empty list
            found = COCO()
            found.dataset = {**truth, "annotations": []}
            found.createIndex()
        coco_eval = COCOeval(coco, found, "bbox")
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    return coco_eval


def table_row(coco_eval: COCOeval) -> dict[str, float]:
    """The six AP of `METRICS`."""
    return {name: _percent(value) for name, value in zip(METRICS, coco_eval.stats[:6], strict=True)}


def precision_curves(coco_eval: COCOeval, iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Interpolated precision over recall at one IoU threshold, objects of all sizes.

    Returns:
        recall, (R,), and precision, (R, classes that have ground truth), both from 0 to 1.
    """
    precision = _precision(coco_eval)[_at_iou(coco_eval, iou)]
    return coco_eval.params.recThrs, precision[:, (precision > -1).all(0)]


def class_aps(coco_eval: COCOeval) -> np.ndarray:
    """AP, AP50 and AP75 of every class, (classes, 3), in the order of the category ids."""
    precision = _precision(coco_eval)
    halves = [precision[_at_iou(coco_eval, iou)].mean(0) for iou in (0.5, 0.75)]
    table = np.stack([precision.mean((0, 1)), *halves], axis=1)
    # A class without ground truth is -1 everywhere.
    return np.where(table > -1, 100 * table, np.nan)


def _precision(coco_eval: COCOeval) -> np.ndarray:
    """(IoU thresholds, recalls, classes): objects of all sizes, most detections an image."""
    return coco_eval.eval["precision"][..., coco_eval.params.areaRngLbl.index("all"), -1]


def _at_iou(coco_eval: COCOeval, iou: float) -> int:
    return int(np.abs(coco_eval.params.iouThrs - iou).argmin())


def _percent(value: float) -> float:
    return 100 * float(value) if value > -1 else float("nan")
