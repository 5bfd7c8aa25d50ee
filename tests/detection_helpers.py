"""A detector small enough for tests, built through the shipped base config; runs of it."""

import json

import numpy as np
import torch
from conftest import REPO, run_python, run_tool
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from PIL import Image

from pretrain.baselines import build_baseline, detectron2_keys
from randwire_det.config.network_keys import spec_from_config
from randwire_det.detection.config import read_config
from randwire_det.network import RandWireClassifier
from randwire_det.run.checkpoint import Preprocessing, save_checkpoint

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


RETINANET = {
    "MODEL.META_ARCHITECTURE": "RetinaNet",
    "MODEL.BACKBONE.NAME": "build_retinanet_randwire_fpn_backbone",
    "MODEL.RANDWIRE.OUT_FEATURES": "['conv3', 'conv4', 'conv5']",
    "MODEL.FPN.IN_FEATURES": "['conv3', 'conv4', 'conv5']",
    "MODEL.RETINANET.IN_FEATURES": "['p3', 'p4', 'p5', 'p6', 'p7']",
    "MODEL.RETINANET.NUM_CLASSES": 3,
    "MODEL.ANCHOR_GENERATOR.SIZES": "[[32], [64], [128], [256], [512]]",
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


TOOL = REPO / "tools" / "train_net.py"
CONFIG = "base_faster_rcnn_fpn.yaml"


CLASSES = ["square", "wide", "tall"]


RUN = TINY | {
    "MODEL.DEVICE": "cuda",  # there may be none: the tool must see to that
    "DATASETS.COCO": "[['shapes', 'shapes.json', 'images']]",
    "DATASETS.TRAIN": "('shapes',)",
    "DATASETS.TEST": "('shapes',)",
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MIN_SIZE_TRAIN": "(96,)",
    "INPUT.MIN_SIZE_TEST": 96,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.STEPS": "()",
    "SOLVER.WARMUP_ITERS": 0,
    "SEED": 5,
}


def make_shapes(root):
    """In `root`, four images of bright boxes, in COCO format."""
    (root / "images").mkdir()
    rng, images, annotations = np.random.default_rng(0), [], []
    for image_id in range(1, 5):
        pixels = rng.integers(0, 80, (96, 128, 3), dtype=np.uint8)
        for category, (width, height) in enumerate([(40, 40), (60, 20), (20, 60)], start=1):
            x, y = int(rng.integers(0, 128 - width)), int(rng.integers(0, 96 - height))
            pixels[y : y + height, x : x + width] = 200
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(pixels).save(root / "images" / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": 128, "height": 96})
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
    content = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    (root / "shapes.json").write_text(json.dumps(content))
    return root


def train_net(shapes, *options, changes=None, overrides=(), **kwargs):
    keys = as_overrides(RUN | (changes or {}))
    env = {"DETECTRON2_DATASETS": str(shapes)}
    return run_tool("train_net.py", "--config-file", CONFIG, *options, *keys, *overrides, env=env)


def refused(done, status, *fragments):
    """One line for the user's mistake, after whatever detectron2 logged before it."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for fragment in fragments:
        assert str(fragment) in line


def in_two(launcher, root, *options, **changes):
    """In two processes, by "--num-gpus" or "torchrun"."""
    changes = {"SOLVER.IMS_PER_BATCH": 4} | changes
    if launcher == "--num-gpus":
        return train_net(root, "--num-gpus", 2, *options, changes=changes)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", 2]
    command = [*torchrun, TOOL, "--config-file", CONFIG, *options, *as_overrides(RUN | changes)]
    return run_python(*command, env={"DETECTRON2_DATASETS": str(root)}, timeout=300)


def save_classifier(path, spec=None, preprocessing=None, drop=()):
    spec = spec or spec_from_config(tiny_config().MODEL.RANDWIRE)
    classifier = RandWireClassifier(spec, num_classes=5, head_channels=8)
    classifier(torch.randn(4, 3, 64, 64))
    weights = {name: value for name, value in classifier.state_dict().items() if name not in drop}
    save_checkpoint(
        path,
        kind="classifier",
        model=weights,
        spec=spec,
        preprocessing=preprocessing or Preprocessing(),
        classes=list("abcde"),
    )
    return classifier


def save_baseline(path, name="resnet50", width=0.25):
    classifier = build_baseline(name, 5, width)
    classifier(torch.randn(4, 3, 64, 64))
    save_checkpoint(
        path,
        kind="baseline",
        model=classifier.state_dict(),
        spec=None,
        architecture={"name": name, "width": width},
        preprocessing=Preprocessing(),
    )
    return classifier


def resnet(name="resnet50", width=0.25, **changes):
    """Overrides that put detectron2's ResNet under the tiny detector."""
    keys = {f"MODEL.RESNETS.{key}": value for key, value in detectron2_keys(name, width).items()}
    features = "['res2', 'res3', 'res4', 'res5']"
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.RESNETS.OUT_FEATURES": features,
        "MODEL.FPN.IN_FEATURES": features,
        **keys,
        **changes,
    }
