"""BN folded into the convolution before it: a frozen copy of a model, for inference."""

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .as_built import classes_are_as_imported, is_untouched

Model = TypeVar("Model", bound=nn.Module)


def fuse(model: Model, dtype: torch.dtype | None = None) -> Model:
    """A frozen copy of a model for inference, with the BN of each RandWire in it folded away.

    The model may be a trunk, a classifier, a detectron2 model or any module that holds one. It is
    left unchanged. The copy computes what the model computes in eval mode, with weights of its own:
    later changes of the model do not reach it, and its state dict has other keys. A stage that
    cannot be folded (GN, SyncBN, a module that was changed or has hooks) is copied as it is.

    Args:
        dtype: that the folded stages compute in and put their maps out in, torch.bfloat16 say; by
            default that of the convolutions' weights.

    Raises:
        UsageError: a dtype that is not a floating one.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise UsageError(f"fuse({dtype}): expected a floating dtype, torch.bfloat16 say")
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    if classes_are_as_imported():
        for parent in list(frozen.modules()):
            for name, child in list(parent.named_children()):
                if _can_be_folded(child):
                    setattr(parent, name, child.folded(dtype))
    return frozen


def _can_be_folded(module: nn.Module) -> bool:
    """Whether another form of the module computes all that the module does, hooks included."""
    kind = type(module)
    # Of the class itself: a subclass may have a forward that its parent's other form knows not.
    if not isinstance(module, Foldable) or "folded" not in vars(kind):
        return False
    return kind.forward is kind.forward_as_built and is_untouched(module) and module.is_plain()


class Foldable(nn.Module):
    """A module that `fuse` has another form of."""

    def __init_subclass__(cls):
        super().__init_subclass__()
        cls.forward_as_built = cls.forward

    def is_plain(self) -> bool:
        """Whether all modules in it still are what they were built as, with norms to be folded."""
        raise NotImplementedError

    def folded(self, dtype: torch.dtype | None) -> nn.Module:
        """The module that takes its place in the copy. Called in eval mode, on the copy."""
        raise NotImplementedError


class FoldedTensors(nn.Module):
    """Tensors as buffers, which move, are copied and are saved with the module."""

    def __init__(self, **tensors: Tensor | None):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


class FoldedConv(FoldedTensors):
    """A convolution and the BN after it as one convolution."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, dtype: torch.dtype | None):
        weight, bias = fold(conv.weight, norm, dtype)
        super().__init__(weight=weight, bias=bias)
        self.stride, self.padding = conv.stride, conv.padding

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


@torch.no_grad()
def fold(weight: Tensor, norm: nn.Module, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does what convolution and BN in eval mode do."""
    dtype = weight.dtype if dtype is None else dtype  # BN may be in another one
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = norm.bias - norm.running_mean * scale
    return (weight * scale.view(-1, 1, 1, 1)).to(dtype=dtype), bias.to(dtype=dtype)
