"""The best model of a run by TEST.BEST_METRIC, and the end of a run that no longer gets better."""

import logging
import math
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.evaluation.testing import flatten_results_dict

from ..coco.metrics import METRICS
from ..errors import UsageError, UserError
from ..run.checkpoint import load_checkpoint
from ..run.parallel import World
from .checkpointer import BEST, RandWireCheckpointer

logger = logging.getLogger(__name__)
LOSS = "validation/total_loss"
TASKS = {"bbox": None, "segm": "MASK_ON", "keypoints": "KEYPOINT_ON"}  # and the key of MODEL


class NoLongerBetter(Exception):
    """TEST.PATIENCE evaluations have passed without a better one."""


class Best:
    """Keeps the checkpoint of the best evaluation so far as model_best.pth.

    That file is all that a resumed run has to know: how good it is, and of which iteration. A
    better model is one with a higher AP, or a lower loss.

    Args:
        cfg: of the run.
        checkpointer: writes the file.
    """

    def __init__(self, cfg: CfgNode, checkpointer: RandWireCheckpointer, world: World):
        self._metric, self._patience = cfg.TEST.BEST_METRIC, cfg.TEST.PATIENCE
        self._period, self._checkpointer, self._world = cfg.TEST.EVAL_PERIOD, checkpointer, world
        self._path = Path(cfg.OUTPUT_DIR, BEST)
        self._sign = -1 if self._metric == LOSS else 1
        self._score, self._iteration = -math.inf, 0  # of the best so far

    def resume(self, iteration: int) -> None:
        """Go on with the file in OUTPUT_DIR.

        Args:
            iteration: of the checkpoint that the run goes on from; what came later, comes again.
        """
        if not self._metric or not self._path.is_file():
            return
        try:
            kept = load_checkpoint(self._path).rest.get("best", {})
        except UserError as error:
            logger.warning(f"passed over: {error}")
            return
        if kept.get("metric") == self._metric and kept["iteration"] <= iteration:
            self._score, self._iteration = kept["score"] * self._sign, kept["iteration"]

    def consider(self, results: dict, iteration: int) -> None:
        """Keep the model if its evaluation is the best so far. In rank 0 alone `results` count.

        Args:
            results: of an evaluation, nested.
            iteration: finished iterations.

        Raises:
            UserError: the results do not have the metric, or the file cannot be written.
        """
        if not self._metric:
            return

        def keep():
            found = flatten_results_dict(results)
            if self._metric not in found:
                raise UserError(
                    f"TEST.BEST_METRIC {self._metric}: this evaluation has"
                    f" {', '.join(found) or 'no results'}"
                )
            score = float(found[self._metric]) * self._sign
            if not score > self._score:  # NaN is not
                return
            self._score, self._iteration = score, iteration
            about = {"metric": self._metric, "score": score * self._sign, "iteration": iteration}
            self._checkpointer.save_best(about)
            logger.info(
                f"The best {self._metric} so far, {score * self._sign:.4g} after iteration"
                f" {iteration}: written to {self._path}"
            )

        self._world.first_does(keep)

    def is_over(self, iteration: int) -> bool:
        """Whether the evaluation after this iteration ends TEST.PATIENCE; the same in all ranks."""
        if not self._patience or iteration % self._period:
            return False
        waited = (iteration - self._iteration) // self._period
        return self._world.any(self._world.is_first and waited >= self._patience)

    def __str__(self) -> str:
        return f"{self._metric} {self._score * self._sign:.4g} after iteration {self._iteration}"


def check_best(cfg: CfgNode) -> None:
    """Check the keys before a run.

    Raises:
        UsageError: names the key, its value and what was expected.
    """
    test, names = cfg.TEST, list(cfg.DATASETS.TEST)
    if test.PATIENCE and not test.BEST_METRIC:
        raise UsageError(
            f"TEST.PATIENCE {test.PATIENCE}: expected a TEST.BEST_METRIC to wait for, as bbox/AP"
        )
    if not test.BEST_METRIC:
        return
    tasks = [task for task, key in TASKS.items() if key is None or cfg.MODEL[key]]
    known = [f"{task}/{metric}" for task in tasks for metric in METRICS]
    if len(set(names)) > 1:
        known = [f"{name}/{each}" for name in names for each in known]
    if test.LOSS:
        known.append(LOSS)
    if test.BEST_METRIC not in known:
        loss = "" if test.LOSS else f"; {LOSS} needs TEST.LOSS True"
        raise UsageError(
            f"TEST.BEST_METRIC {test.BEST_METRIC}: expected one of {', '.join(known)}{loss}"
        )
    if not names or test.EVAL_PERIOD < 1:
        raise UsageError(
            f"TEST.BEST_METRIC {test.BEST_METRIC}: expected evaluations during the training,"
            " DATASETS.TEST and an EVAL_PERIOD above 0"
        )
