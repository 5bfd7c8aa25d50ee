"""Folds BN into the convolution before it, in a frozen copy of a model for inference."""

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .as_built import classes_are_as_imported, is_untouched

Model = TypeVar("Model", bound=nn.Module)


def fuse(model: Model, dtype: torch.dtype | None = None) -> Model:
    """A frozen copy of a model for inference, with the BN of each RandWire in it folded.

    The model may be a trunk, a classifier, a detectron2 model or any module that contains one, and
    is not modified. The copy computes what the model computes in eval mode. It has its own weights,
    so later changes of the model do not affect it, and other state dict keys. A stage that cannot
    be folded (GN, SyncBN, a changed module, a module with hooks) is copied unchanged.

    Args:
        dtype: compute and output dtype of the folded stages, such as torch.bfloat16; by default
            that of the convolutions' weights.

    Raises:
        UsageError: a dtype that is not floating point.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise UsageError(f"fuse({dtype}): expected a floating dtype, such as torch.bfloat16")
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    if classes_are_as_imported():
        for parent in list(frozen.modules()):
            for name, child in list(parent.named_children()):
                if _can_be_folded(child):
                    setattr(parent, name, child.folded(dtype))
    return frozen


def _can_be_folded(module: nn.Module) -> bool:
    """Whether the folded form computes everything that the module does; hooks rule it out."""
    kind = type(module)
    # The class itself must define it: a subclass may have another forward than its folded parent.
    if not isinstance(module, Foldable) or "folded" not in vars(kind):
        return False
    return kind.forward is kind.forward_as_built and is_untouched(module) and module.is_plain()


class Foldable(nn.Module):
    """A module that `fuse` can replace."""

    def __init_subclass__(cls):
        super().__init_subclass__()
        cls.forward_as_built = cls.forward

    def is_plain(self) -> bool:
        """Whether all modules in it are still as built, with norms that can be folded."""
        raise NotImplementedError

    def folded(self, dtype: torch.dtype | None) -> nn.Module:
        """The module that replaces it in the copy. Called on the copy, in eval mode."""
        raise NotImplementedError


class FoldedTensors(nn.Module):
    """Tensors as buffers, which are moved, copied and saved with the module."""

    def __init__(self, **tensors: Tensor | None):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


class FoldedConv(FoldedTensors):
    """A convolution and its BN as one convolution."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, dtype: torch.dtype | None):
        weight, bias = fold(conv.weight, norm, dtype)
        super().__init__(weight=weight, bias=bias)
        self.places = conv.stride, conv.padding, conv.dilation

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        return F.conv2d(x, self.weight, self.bias, *self.places)


@torch.no_grad()
def fold(weight: Tensor, norm: nn.Module, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that equals convolution and BN in eval mode."""
    dtype = weight.dtype if dtype is None else dtype  # BN may have another dtype
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = norm.bias - norm.running_mean * scale
    return (weight * scale.view(-1, 1, 1, 1)).to(dtype=dtype), bias.to(dtype=dtype)
