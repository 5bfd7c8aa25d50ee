"""detectron2's COCO evaluation, with a ground truth that pycocotools evaluates correctly."""

import contextlib
import io
import logging

from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm

from .coco_json import ground_truth

logger = logging.getLogger(__name__)


class CocoEvaluator(COCOEvaluator):
    """`COCOEvaluator` (official implementation) on the `ground_truth` of the JSON.

    Args:
        dataset: the name of a registered data set.
        output_dir: the folder for coco_instances_results.json, or None.
        distributed: whether the processes of a run gather their predictions.
        tasks: "bbox", "segm", "keypoints"; None for those that the model predicts.

    Raises:
        UserError: an "iscrowd" that is neither true nor false.
    """

    def __init__(
        self,
        dataset: str,
        output_dir: str | None = None,
        *,
        distributed: bool = True,
        tasks: tuple[str, ...] | None = None,
    ):
        super().__init__(
            dataset,
            tasks=tasks,
            distributed=distributed,
            output_dir=output_dir,
            use_fast_impl=False,
        )
        self._dataset = dataset
        if self._do_evaluation:  # else it has no annotations
            self._coco_api.dataset = ground_truth(self._coco_api.dataset)
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its steps
                self._coco_api.createIndex()

    def evaluate(self, img_ids=None) -> dict:
        results = super().evaluate(img_ids)
        if not self._do_evaluation and comm.is_main_process():
            logger.warning(
                f"{self._dataset}: its annotation file has no annotations, so there is no AP; the"
                f" detections are in {self._output_dir}/coco_instances_results.json"
            )
        return results
