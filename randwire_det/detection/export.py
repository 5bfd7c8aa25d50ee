"""A detector as an exporter takes it: one image tensor to boxes, scores, classes and masks."""

from contextlib import contextmanager
from unittest.mock import patch

import torch
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.modeling import GeneralizedRCNN, RetinaNet
from detectron2.modeling.roi_heads import cascade_rcnn
from torch import Tensor, nn

from ..errors import UserError
from ..export.exportable import Exportable, metadata_of
from ..network.fusing import fuse
from ..run.checkpoint import Checkpoint
from .predict import Predictor
from .stored import build_detector


class DetectorGraph(nn.Module):
    """A detector that takes and returns tensors, for one picture.

    Args:
        model: detectron2's GeneralizedRCNN or RetinaNet.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect, as the model does, but masks are not pasted into the picture.

        Args:
            image: (3, H, W) float32 of 0 to 255.

        Returns:
            boxes (n, 4), x0, y0, x1, y1 in pixels of the image; scores (n,), descending; classes
            (n,) int64; of a mask head also masks (n, 1, 28, 28), probabilities within the box.
        """
        inputs = [{"image": image}]
        if isinstance(self.model, GeneralizedRCNN):
            with _traceable():
                (instances,) = self.model.inference(inputs, do_postprocess=False)
            instances = instances[instances.pred_boxes.nonempty()]  # as in the post-processing
        else:
            instances = self.model(inputs)[0]["instances"]
        found = instances.pred_boxes.tensor, instances.scores, instances.pred_classes
        return (*found, instances.pred_masks) if instances.has("pred_masks") else found


@contextmanager
def _traceable():
    """Lets a trace follow detectron2: the number of boxes, which len() makes a constant, and
    cascades, which scale gradients by a Python function in inference too."""
    unscaled = patch.object(cascade_rcnn._ScaleGradient, "apply", lambda features, scale: features)
    with patch_builtin_len(), unscaled:
        yield


def exportable_detector(checkpoint: Checkpoint) -> Exportable:
    """The detector of a checkpoint, on the CPU.

    Raises:
        UserError: as of `build_detector`; or this kind of detector is not exported.
    """
    model, cfg, classes = build_detector(checkpoint, "cpu")
    if not isinstance(model, GeneralizedRCNN | RetinaNet) or cfg.MODEL.KEYPOINT_ON:
        kind = "with keypoints" if cfg.MODEL.KEYPOINT_ON else cfg.MODEL.META_ARCHITECTURE
        raise UserError(
            f"{checkpoint.path} holds a detector that is not exported, {kind}: expected Faster or"
            " Mask R-CNN, their cascades, or RetinaNet"
        )
    predictor, heads = Predictor(model, cfg), cfg.MODEL.ROI_HEADS
    if isinstance(model, RetinaNet):
        heads = cfg.MODEL.RETINANET
    size = cfg.INPUT.MIN_SIZE_TEST or 800  # 0: pictures are not resized
    masks = ("masks",) if cfg.MODEL.MASK_ON and isinstance(model, GeneralizedRCNN) else ()
    return Exportable(
        graph=DetectorGraph(fuse(model)).eval(),
        original=DetectorGraph(model).eval(),
        # Tracing needs a picture that is no constant, or ties would decide what it sees.
        example=torch.rand(3, size, size + 32, generator=torch.Generator().manual_seed(0)) * 255,
        outputs=("boxes", "scores", "classes", *masks),
        axes={1: "height", 2: "width"},
        metadata=metadata_of(checkpoint)
        | {
            "classes": classes or [f"class {n + 1}" for n in range(heads.NUM_CLASSES)],
            "channel_order": cfg.INPUT.FORMAT,
            "resize_shorter_side": cfg.INPUT.MIN_SIZE_TEST,
            "longer_side_at_most": cfg.INPUT.MAX_SIZE_TEST,
            "interpolation": "bilinear",
        },
        read=lambda path: predictor.read(path)[1].float(),
    )
