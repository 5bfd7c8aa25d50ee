"""Parameters, multiply-adds and activations of a spec, counted without torch.

The paper counts as FLOPs the multiply-adds of every convolution and of fc, plus the weighted
aggregation: one per element and edge into a node that has more than one input. This is the count
that gives its Tables 2 and 3; BN, ReLU, pooling and the output node's average are not in it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import UserError
from .spec import AVG_POOL3X3, CONV3X3, MAX_POOL3X3, SEP_CONV3X3, NetworkSpec, StageSpec

HEAD_CHANNELS = 1280  # of the classifier's 1x1 convolution, Table 1


@dataclass(frozen=True)
class Complexity:
    """Counts of one image's forward pass.

    Attributes:
        params: learnable scalars.
        macs: multiply-adds (the paper's "FLOPs").
        activations: elements put out by convolutions and fc, as Radosavovic et al. 2020 count them.
    """

    params: int = 0
    macs: int = 0
    activations: int = 0

    def __add__(self, other: "Complexity") -> "Complexity":
        return Complexity(
            self.params + other.params,
            self.macs + other.macs,
            self.activations + other.activations,
        )


def complexity(
    spec: NetworkSpec,
    input_size: int = 224,
    num_classes: int | None = 1000,
    head_channels: int = HEAD_CHANNELS,
) -> Complexity:
    """Count a classifier, or with `num_classes=None` the trunk alone.

    Args:
        input_size: height and width of the RGB image, in pixels.

    Raises:
        UserError: a size or a number of classes below 1.
    """
    sizes = {"input size": input_size, "head channels": head_channels}
    if num_classes is not None:
        sizes["number of classes"] = num_classes
    for what, value in sizes.items():
        if type(value) is not int or value < 1:
            raise UserError(f"{what} {value!r}: expected a whole number >= 1")
    total, channels, size = Complexity(), 3, input_size
    for stage in spec.stages:
        total += stage_complexity(stage, channels, size)
        channels, size = stage.channels, _strided(size, stage.stride)
    if num_classes is not None:
        fc = head_channels * num_classes
        total += _conv_bn(channels, head_channels, kernel=1, size=size)
        total += Complexity(fc + num_classes, fc, num_classes)
    return total


def matching_channels(count: Callable[[float], float], macs: float) -> float:
    """The width C at which a network has `macs` multiply-adds, within 1 % where C can do it.

    Figure 6 compares node operations at equal complexity, for which C is adjusted. A whole C is
    preferred where it comes within 1 %; otherwise C is a multiple of 1/16.

    Args:
        count: C to multiply-adds, which grow with C.
    """
    for step in (1, 1 / 16):
        low, high = round(1 / step), round(2 / step)  # in steps; C >= 1
        while count(high * step) < macs:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if count(middle * step) < macs else (low, middle)
        best = min((low * step, high * step), key=lambda channels: abs(count(channels) - macs))
        if abs(count(best) - macs) <= macs / 100:
            break
    return best


def stage_complexity(stage: StageSpec, in_channels: int, in_size: int) -> Complexity:
    """Count one stage on a map of `in_channels` x `in_size` x `in_size`."""
    size, width = _strided(in_size, stage.stride), stage.channels
    if stage.dag is None:
        return _conv_bn(in_channels, width, kernel=3, size=size)
    total = Complexity()
    for sources in stage.dag.predecessors:
        node_in = width if sources else in_channels
        total += OPERATIONS[stage.op](node_in, width, size) + Complexity(params=2 * width)  # BN
        if len(sources) > 1:
            total += Complexity(len(sources), len(sources) * width * size**2)
    return total


def _sep_conv3x3(in_channels: int, channels: int, size: int) -> Complexity:
    depthwise = Complexity(9 * in_channels, 9 * in_channels * size**2, in_channels * size**2)
    return depthwise + _conv(in_channels, channels, kernel=1, size=size)


def _conv3x3(in_channels: int, channels: int, size: int) -> Complexity:
    return _conv(in_channels, channels, kernel=3, size=size)


def _pool3x3(in_channels: int, channels: int, size: int) -> Complexity:
    # Pooling has no multiply-adds; only the 1x1 convolution after it counts.
    return _conv(in_channels, channels, kernel=1, size=size)


# By `StageSpec.op`: (in_channels, channels, output size) -> counts of a node's operation without
# its BN. The layers are those of `operations.OPERATIONS`.
OPERATIONS: dict[str, Callable[[int, int, int], Complexity]] = {
    SEP_CONV3X3: _sep_conv3x3,
    CONV3X3: _conv3x3,
    MAX_POOL3X3: _pool3x3,
    AVG_POOL3X3: _pool3x3,
}


def _conv_bn(in_channels: int, out_channels: int, *, kernel: int, size: int) -> Complexity:
    """A convolution without bias, and the scale and shift of its BN."""
    conv = _conv(in_channels, out_channels, kernel=kernel, size=size)
    return conv + Complexity(params=2 * out_channels)


def _conv(in_channels: int, out_channels: int, *, kernel: int, size: int) -> Complexity:
    weights = kernel**2 * in_channels * out_channels
    return Complexity(weights, weights * size**2, out_channels * size**2)


def _strided(size: int, stride: int) -> int:
    """The output size of a 3x3 convolution with padding 1."""
    return (size - 1) // stride + 1
