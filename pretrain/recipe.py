"""The recipe as functions of the config: network, parameter groups, learning rate, loss.

Section 4 of the paper, "Implementation details"; [11] is Goyal et al. 2017, whose details it takes
over. Nothing here knows of loops, files or devices.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.transforms import v2

from randwire_det.config.network_keys import spec_from_config
from randwire_det.network import RandWireClassifier
from randwire_det.run.checkpoint import Preprocessing
from randwire_det.run.memory import require_memory
from randwire_det.spec import NetworkSpec

from .baselines import build_baseline, stem_channels

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


def network_of(cfg: CfgNode) -> NetworkSpec | None:
    """The spec of MODEL.*; None where MODEL.NAME is a baseline.

    Raises:
        UsageError: no such network, or one that this machine's memory cannot hold.
    """
    name, width = cfg.MODEL.NAME, cfg.MODEL.WIDTH
    if name == "randwire":
        return spec_from_config(cfg.MODEL.RANDWIRE)
    stem_channels(name, width)  # looks at both
    with torch.device("meta"):
        parameters = build_baseline(name, 1000, width).parameters()
    require_memory(
        sum(parameter.numel() for parameter in parameters),
        f"MODEL.NAME {name} of MODEL.WIDTH {width:g}",
    )
    return None


def build_model(cfg: CfgNode, spec: NetworkSpec | None, num_classes: int) -> nn.Module:
    """The classifier, freshly initialised from the global random generator."""
    if spec is None:
        return build_baseline(cfg.MODEL.NAME, num_classes, cfg.MODEL.WIDTH)
    return RandWireClassifier(
        spec,
        num_classes,
        head_channels=cfg.MODEL.HEAD_CHANNELS,
        dropout=cfg.MODEL.DROPOUT,
        memory=cfg.MODEL.RANDWIRE.MEMORY,
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


def learning_rate(
    iteration: int, *, peak: float, warmup: int, total: int, start: float = 0.0
) -> float:
    """Linear from `start` at iteration 0 to `peak` at `warmup`, then half a cosine to 0 at `total`.

    A `start` above the peak, which a small batch may have, is no warm-up.
    """
    if iteration < warmup:
        start = min(start, peak)
        return start + (peak - start) * iteration / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / (total - warmup)))


def classification_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross entropy of (B, classes) logits to (B,) labels, or to mixed ones (B, classes).

    Smoothed: of the target's one, `smoothing` is spread evenly over all classes (Szegedy et al.
    2016).
    """
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def mixing(cfg: CfgNode, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """MixUp, CutMix, or one of the two at random, of images and labels: (B,) to (B, classes).

    Without either, images and labels stay as they are. Draws from torch's global generator.
    """
    kinds = (v2.MixUp, cfg.SOLVER.MIXUP), (v2.CutMix, cfg.SOLVER.CUTMIX)
    chosen = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha > 0]
    if not chosen:
        return lambda images, labels: (images, labels)
    return v2.RandomChoice(chosen)


def draw_edge(
    edges: list[tuple[str, int, int]], probability: float, rng: np.random.Generator
) -> tuple[str, int, int] | None:
    """With `probability` one of `edges`, each as likely as the others (section 4.2), else None."""
    if not edges or rng.random() >= probability:
        return None
    return edges[rng.integers(len(edges))]


def autocast(cfg: CfgNode, device: str) -> AbstractContextManager:
    """What SOLVER.AMP says, for forward and loss."""
    dtype = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[cfg.SOLVER.AMP]
    if dtype is None:
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype)
