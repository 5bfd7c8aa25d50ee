"""The training recipe as functions of the config: network, parameter groups, learning rate, loss.

It is that of the paper's section 4, "Implementation details"; [11] is Goyal et al. 2017, whose
details the paper adopts.
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

from .baselines import build_baseline, check_baseline

REFERENCE_BATCH = 256  # the batch size that SOLVER.BASE_LR is given for, as in [11]
# Not the size: a network may be tested at another one, as in the paper's Table 4.
PREPROCESSING_KEYS = {
    "channel_order": "INPUT.*",
    "mean": "INPUT.MEAN",
    "std": "INPUT.STD",
    "interpolation": "INPUT.*",
}
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def preprocessing_from_cfg(cfg: CfgNode) -> Preprocessing:
    """The preprocessing of INPUT.*, which is saved with the weights."""
    return Preprocessing(
        channel_order="RGB",
        mean=tuple(map(float, cfg.INPUT.MEAN)),
        std=tuple(map(float, cfg.INPUT.STD)),
        input_size=cfg.INPUT.SIZE,
        interpolation="bilinear",
    )


def network_of(cfg: CfgNode) -> NetworkSpec | None:
    """The spec of MODEL.*; None if MODEL.NAME is a baseline.

    Raises:
        UsageError: an unknown network, or one that does not fit in this machine's memory.
    """
    name, width = cfg.MODEL.NAME, cfg.MODEL.WIDTH
    if name == "randwire":
        return spec_from_config(cfg.MODEL.RANDWIRE)
    check_baseline(name, width)
    with torch.device("meta"):
        parameters = build_baseline(name, 1000, width).parameters()
    require_memory(
        sum(parameter.numel() for parameter in parameters),
        f"MODEL.NAME {name} of MODEL.WIDTH {width:g}",
    )
    return None


def build_model(cfg: CfgNode, spec: NetworkSpec | None, num_classes: int) -> nn.Module:
    """Build the classifier, initialised from the global random generator."""
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
    """Split the parameters into a group with and a group without weight decay.

    Norm layers ([11], section 5.3) and aggregation weights have none: decay would only pull the
    sigmoid of the latter to one half.
    """
    decayed, exempt = [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_exempt = isinstance(module, NORMS) or name == "edge_logits"
            (exempt if is_exempt else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD; the learning rate is set in every iteration."""
    return torch.optim.SGD(
        parameter_groups(model, cfg.SOLVER.WEIGHT_DECAY),
        lr=0.0,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV and cfg.SOLVER.MOMENTUM > 0,
    )


def peak_lr(cfg: CfgNode) -> float:
    """The learning rate after the warm-up, proportional to the batch size."""
    return cfg.SOLVER.BASE_LR * cfg.SOLVER.BATCH_SIZE / REFERENCE_BATCH


def learning_rate(
    iteration: int, *, peak: float, warmup: int, total: int, start: float = 0.0
) -> float:
    """Linear from `start` at iteration 0 to `peak` at `warmup`, then half a cosine to 0 at `total`.

    If `start` is above `peak`, as with a small batch, the warm-up is constant.
    """
    if iteration < warmup:
        start = min(start, peak)
        return start + (peak - start) * iteration / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / (total - warmup)))


def classification_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross entropy of logits (B, classes) and labels (B,), or mixed labels (B, classes).

    Args:
        smoothing: share of the label that is spread over all classes (Szegedy et al. 2016).
    """
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def mixing(cfg: CfgNode, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A function of images and labels (B,) that applies MixUp or CutMix, one at random if both.

    Mixed labels are (B, classes). Without either, both are returned unchanged. Draws from torch's
    global generator.
    """
    kinds = (v2.MixUp, cfg.SOLVER.MIXUP), (v2.CutMix, cfg.SOLVER.CUTMIX)
    chosen = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha > 0]
    if not chosen:
        return lambda images, labels: (images, labels)
    return v2.RandomChoice(chosen)


def draw_edge(
    edges: list[tuple[str, int, int]], probability: float, rng: np.random.Generator
) -> tuple[str, int, int] | None:
    """With `probability` one of `edges`, uniformly at random (section 4.2), else None."""
    if not edges or rng.random() >= probability:
        return None
    return edges[rng.integers(len(edges))]


def autocast(cfg: CfgNode, device: str) -> AbstractContextManager:
    """The autocast context of SOLVER.AMP, for forward and loss."""
    dtype = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[cfg.SOLVER.AMP]
    if dtype is None:
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype)
