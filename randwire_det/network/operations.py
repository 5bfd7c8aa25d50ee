"""The transformation of a node after its weighted sum and ReLU: one entry an operation.

An entry makes the layers between ReLU and BN, by the names they have in a state dict, in the order
they are applied. Their count is `complexity.OPERATIONS`, under the same names.
"""

from collections.abc import Callable

from torch import nn

from ..errors import UsageError
from ..spec.spec import AVG_POOL3X3, CONV3X3, MAX_POOL3X3, SEP_CONV3X3


def _sep_conv3x3(
    in_channels: int, channels: int, stride: int, dilation: int
) -> dict[str, nn.Module]:
    # Separable as in Xception (footnote 6): nothing stands between the two convolutions.
    return {
        "depthwise": nn.Conv2d(
            *(in_channels, in_channels, 3, stride),
            padding=dilation,
            dilation=dilation,
            groups=in_channels,
            bias=False,
        ),
        "pointwise": nn.Conv2d(in_channels, channels, 1, bias=False),
    }


def _conv3x3(in_channels: int, channels: int, stride: int, dilation: int) -> dict[str, nn.Module]:
    conv = nn.Conv2d(
        *(in_channels, channels, 3, stride), padding=dilation, dilation=dilation, bias=False
    )
    return {"conv": conv}


def _max_pool3x3(
    in_channels: int, channels: int, stride: int, dilation: int
) -> dict[str, nn.Module]:
    _refuse(MAX_POOL3X3, dilation)
    pool = nn.MaxPool2d(3, stride, padding=1)
    return {"pool": pool, "pointwise": nn.Conv2d(in_channels, channels, 1, bias=False)}


def _avg_pool3x3(
    in_channels: int, channels: int, stride: int, dilation: int
) -> dict[str, nn.Module]:
    _refuse(AVG_POOL3X3, dilation)
    # Over the pixels inside the map: its border would fade otherwise, node by node.
    pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    return {"pool": pool, "pointwise": nn.Conv2d(in_channels, channels, 1, bias=False)}


def _refuse(op: str, dilation: int) -> None:
    if dilation != 1:
        raise UsageError(f"output stride: {op} has no dilated form; expected 32, or a convolution")


# By `StageSpec.op`: (in_channels, channels, stride, dilation) -> layers by
# name. Each takes a map
# (B, in_channels, H, W) to (B, channels, ceil(H / stride), ceil(W / stride)).
OPERATIONS: dict[str, Callable[[int, int, int, int], dict[str, nn.Module]]] = {
    SEP_CONV3X3: _sep_conv3x3,
    CONV3X3: _conv3x3,
    MAX_POOL3X3: _max_pool3x3,
    AVG_POOL3X3: _avg_pool3x3,
}
