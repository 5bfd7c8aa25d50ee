"""The recipe as functions of the config: network, parameter groups, learning rate, loss.

Section 4 of the paper, "Implementation details"; [11] is Goyal et al. 2017, whose details it takes
over. Nothing here knows of loops, files or devices.
"""

import math

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from randwire_det.checkpoint import Preprocessing
from randwire_det.network import RandWireClassifier
from randwire_det.spec import NetworkSpec

REFERENCE_BATCH = 256  # the batch that SOLVER.BASE_LR is given for, as in [11]
# The size is left out: a network may be tested at another one, as in the paper's Table 4.
PREPROCESSING_KEYS = {
    "channel_order": "INPUT.*",
    "mean": "INPUT.MEAN",
    "std": "INPUT.STD",
    "interpolation": "INPUT.*",
}
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def preprocessing_from_cfg(cfg: CfgNode) -> Preprocessing:
    """What INPUT.* does to an image; it travels with the weights."""
    return Preprocessing(
        channel_order="RGB",
        mean=tuple(map(float, cfg.INPUT.MEAN)),
        std=tuple(map(float, cfg.INPUT.STD)),
        input_size=cfg.INPUT.SIZE,
        interpolation="bilinear",
    )


def build_model(cfg: CfgNode, spec: NetworkSpec, num_classes: int) -> nn.Module:
    """The classifier, freshly initialised from the global random generator."""
    return RandWireClassifier(
        spec, num_classes, head_channels=cfg.MODEL.HEAD_CHANNELS, dropout=cfg.MODEL.DROPOUT
    )


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups, with and without weight decay; every parameter stands in exactly one.

    Without: scale and shift of norm layers ([11], section 5.3), and the aggregation weights, which
    decay would only pull to one half, not towards anything simpler.
    """
    decayed, free = [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_free = isinstance(module, NORMS) or name == "edge_logits"
            (free if is_free else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD; its learning rate is set anew in every iteration."""
    return torch.optim.SGD(
        parameter_groups(model, cfg.SOLVER.WEIGHT_DECAY),
        lr=0.0,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV and cfg.SOLVER.MOMENTUM > 0,
    )


def peak_lr(cfg: CfgNode) -> float:
    """The learning rate after the warm-up: linear in the batch."""
    return cfg.SOLVER.BASE_LR * cfg.SOLVER.BATCH_SIZE / REFERENCE_BATCH


def learning_rate(iteration: int, *, peak: float, warmup: int, total: int) -> float:
    """Linear from 0 at iteration 0 to `peak` at `warmup`, then half a cosine to 0 at `total`."""
    if iteration < warmup:
        return peak * iteration / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / (total - warmup)))


def classification_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross entropy of (B, classes) logits to (B,) labels, smoothed: of the target's one,
    `smoothing` is spread evenly over all classes (Szegedy et al. 2016)."""
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)
