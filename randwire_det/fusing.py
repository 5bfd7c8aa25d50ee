"""BN folded into the convolution before it, for inference, in modules that stay what they were."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import UserError


class Fusable(nn.Module):
    """A module that may hold a second, faster form of its tensors.

    Attributes:
        fused: that form, or None. It is in no state dict, and is let go of by `train()` and by
            loading a state dict, after which it would no longer be the same function.
    """

    def __init__(self):
        super().__init__()
        self.fused: nn.Module | None = None

    @property
    def runs_fused(self) -> bool:
        """Whether `fused` is used: as a whole network is or is not, whichever parts are frozen."""
        return self.fused is not None and not torch.is_grad_enabled()

    def train(self, mode: bool = True):
        if mode:
            self.fused = None
        return super().train(mode)

    def _load_from_state_dict(self, *args, **kwargs):
        self.fused = None
        super()._load_from_state_dict(*args, **kwargs)


class Fused(nn.Module):
    """Tensors as buffers, which move with the module, and are in no state dict."""

    def __init__(self, **tensors: Tensor | None):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)


class FusedConv(Fused):
    """A convolution and the BN after it as one convolution."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, dtype: torch.dtype | None):
        weight, bias = fold(conv.weight, norm, dtype)
        super().__init__(weight=weight, bias=bias)
        self.stride, self.padding = conv.stride, conv.padding

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


def has_plain_norm(norm: nn.Module) -> bool:
    """Whether it is a BN, or a frozen one, and no other layer or a subclass of its own ways."""
    # By name: detectron2's and torchvision's have the same tensors, and neither is needed here.
    frozen = type(norm).__name__ == "FrozenBatchNorm2d"
    return frozen or (type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats)


@torch.no_grad()
def fold(weight: Tensor, norm: nn.Module, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does what convolution and BN in eval mode do.

    Raises:
        UserError: the normalisation is no BN, or in training mode.
    """
    if not has_plain_norm(norm) or (norm.training and isinstance(norm, nn.BatchNorm2d)):
        raise UserError(
            f"fuse(): {type(norm).__name__} in {'training' if norm.training else 'eval'} mode;"
            " expected BN or FrozenBN, after eval()"
        )
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = norm.bias - norm.running_mean * scale
    return (weight * scale.view(-1, 1, 1, 1)).to(dtype=dtype), bias.to(dtype=dtype)
