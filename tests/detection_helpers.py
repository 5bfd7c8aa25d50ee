"""A detector small enough for tests, built through the shipped base config as a user would."""

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from randwire_det.detection.config import read_config

# Tiny, but every part is there: all four features, FPN, RPN, box head.
TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RANDWIRE.REGIME": "small",
    "MODEL.RANDWIRE.NODES": 6,
    "MODEL.RANDWIRE.CHANNELS": 6,
    "MODEL.RANDWIRE.NORM": "BN",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.FPN.OUT_CHANNELS": 8,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
}


def as_overrides(changes: dict) -> list[str]:
    return [str(item) for pair in changes.items() for item in pair]


def tiny_config(base: str = "base_faster_rcnn_fpn.yaml", **changes):
    """A config of the tiny detector; keys with dots go in as `**{"MODEL.DEVICE": "cpu"}`."""
    return read_config(base, as_overrides(TINY | changes))


def tiny_detector(**changes):
    return build_model(tiny_config(**changes))


def one_input(height: int = 96, width: int = 128, num_classes: int = 3) -> dict:
    """An image with two boxes, as detectron2's data loader hands it to a model."""
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 60.0, 70.0], [50.0, 20.0, 120.0, 90.0]]))
    instances.gt_classes = torch.tensor([0, num_classes - 1])
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "instances": instances, "height": height, "width": width}


def parameters_without_gradient(model, inputs) -> list[str]:
    """One training step's backward; the trainable parameters that it did not reach."""
    model.train()
    with EventStorage():  # detectron2's heads log to it
        sum(model(inputs).values()).backward()
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
