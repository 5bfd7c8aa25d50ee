"""The transformation of a node after its weighted sum and ReLU: one entry an operation.

An entry makes the layers between ReLU and BN, by the names they have in a state dict, in the order
they are applied. Their count is `complexity.OPERATIONS`, under the same names.
"""

from collections.abc import Callable

from torch import nn

from ..spec.spec import SEP_CONV3X3


def _sep_conv3x3(in_channels: int, channels: int, stride: int) -> dict[str, nn.Module]:
    # Separable as in Xception (footnote 6): nothing stands between the two convolutions.
    return {
        "depthwise": nn.Conv2d(
            in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False
        ),
        "pointwise": nn.Conv2d(in_channels, channels, 1, bias=False),
    }


# By `StageSpec.op`: (in_channels, channels, stride) -> layers by name. Each takes a map
# (B, in_channels, H, W) to (B, channels, ceil(H / stride), ceil(W / stride)).
OPERATIONS: dict[str, Callable[[int, int, int], dict[str, nn.Module]]] = {
    SEP_CONV3X3: _sep_conv3x3,
}
