"""The forward of a random wiring with fewer passes over memory; its backward: `wiring_backward`.

The arithmetic is that of section 3.2, rearranged in three ways:

- A node outputs its 1x1 convolution's map, and its BN as a scale and a shift per channel. Its
  readers apply these within their weighted sum, so that no normalised map is written.
- `Keep` says which of a node's maps (sum after ReLU, depthwise output, 1x1 output) are saved for
  the backward. The others are recomputed there; only the 1x1 convolution is expensive.
- Maps inside a stage may be padded with zero channels to a width that the hardware prefers.

Nodes run in the order of `spec.order`, in which few maps are in memory at once; each node computes
the same in any order, and the output's mean is summed by the nodes' indices.
"""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec.graphs import Dag
from ..spec.order import Order
from .as_built import is_traced

PART_BYTES = 3_000_000  # of one map; half or twice as much is about as fast


class Keep(Enum):
    """The maps that a forward saves per node for the backward, in descending order of memory."""

    CONVOLUTIONS = "the sum after ReLU, and the outputs of both convolutions"
    SUMS_AND_MAPS = "the sum after ReLU, and the 1x1 convolution's output"
    MAPS = "the 1x1 convolution's output"
    NOTHING = "nothing: the backward runs the stage again"


class NodeTensors(NamedTuple):
    """The tensors of one node.

    Attributes:
        edges: (inputs,), the positive weights; None for a node with one input.
        depthwise: (in, 1, 3, 3).
        pointwise: (out, in, 1, 1).
        gamma, beta: (out,), of BN; if gamma is None, BN is folded and beta is pointwise's bias.
        mean, var: (out,), of BN; None if it uses those of the batch.
    """

    edges: Tensor | None
    depthwise: Tensor
    pointwise: Tensor
    gamma: Tensor | None
    beta: Tensor
    mean: Tensor | None
    var: Tensor | None

    def at(self, in_width: int, width: int, dtype: torch.dtype) -> "NodeTensors":
        """The tensors padded with zeros to the widths of the input and output maps.

        Args:
            dtype: of the convolutions' weights.
        """
        vectors, more = self[3:], width - self.pointwise.shape[0]
        if more:
            vectors = [each if each is None else F.pad(each, (0, more)) for each in vectors]
        return NodeTensors(self.edges, *self.weights_at(in_width, width, dtype), *vectors)

    def weights_at(self, in_width: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """`depthwise` and `pointwise` alone."""
        depthwise, pointwise = self.depthwise.to(dtype), self.pointwise.to(dtype)
        more_in, more = in_width - depthwise.shape[0], width - pointwise.shape[0]
        if more_in:
            depthwise = F.pad(depthwise, (0, 0, 0, 0, 0, 0, 0, more_in))
        if more_in or more:
            pointwise = F.pad(pointwise, (0, 0, 0, 0, 0, more_in, 0, more))
        return depthwise, pointwise


class Affine(NamedTuple):
    """BN as map * scale + shift, and its statistics; each (width,).

    Attributes:
        var: the running variance that BN used; None if it used that of the batch.
        unbiased_var: of the batch, for the running statistics; None if BN did not use the batch.
    """

    scale: Tensor
    shift: Tensor
    gamma: Tensor
    beta: Tensor
    mean: Tensor
    inverse_std: Tensor
    var: Tensor | None
    unbiased_var: Tensor | None


class Kept(NamedTuple):
    """What is saved of each node for the backward; None if not saved.

    Attributes:
        weights: of both convolutions, as `weights_at` gives them.
        sums: weighted sums after ReLU, inputs of the depthwise convolutions.
        depthwise_outputs: inputs of the 1x1 convolutions.
        maps: outputs of the 1x1 convolutions, inputs of BN.
    """

    weights: list[tuple[Tensor, Tensor] | None]
    sums: list[Tensor | None]
    depthwise_outputs: list[Tensor | None]
    maps: list[Tensor | None]


class Plan(NamedTuple):
    """The constants of a stage.

    Attributes:
        order: of the nodes.
        stride: of its input nodes.
        dilations: of its input nodes, and of the others.
        in_channels, channels: of its input and of its output.
        eps: BN's epsilon.
    """

    dag: Dag
    order: Order
    stride: int
    dilations: tuple[int, int]
    in_channels: int
    channels: int
    eps: float

    @property
    def width(self) -> int:
        """Width of the maps inside the stage, at least `channels`."""
        return padded_width(self.channels)

    def places_of(self, index: int) -> tuple[int, int]:
        """Stride and dilation of a node's depthwise convolution."""
        if self.dag.predecessors[index]:
            return 1, self.dilations[1]
        return self.stride, self.dilations[0]

    def widths_of(self, index: int) -> tuple[int, int]:
        """Widths of a node's input and output maps."""
        in_channels = self.channels if self.dag.predecessors[index] else self.in_channels
        return padded_width(in_channels), self.width


def with_vectors_at(width: int, nodes: Sequence[NodeTensors]) -> Sequence[NodeTensors]:
    """The nodes of a stage with BN's tensors padded with zeros, by a few calls for all of them."""
    for field in ("gamma", "beta", "mean", "var"):
        given = [each for each in (getattr(node, field) for node in nodes) if each is not None]
        if given and given[0].shape[0] != width:
            wider = iter(F.pad(torch.stack(given), (0, width - given[0].shape[0])))
            nodes = [
                node if getattr(node, field) is None else node._replace(**{field: next(wider)})
                for node in nodes
            ]
    return nodes


def padded_width(channels: int) -> int:
    """The next multiple of 16, which is faster, if it costs at most 4 % more channels.

    Above 512 a multiple of 8 is as fast, and copying the weights would cost what padding saves.
    """
    wider = -(-channels // 16) * 16
    return wider if channels <= 512 and wider <= 1.04 * channels else channels


def padded(x: Tensor, width: int) -> Tensor:
    """Pad a map (B, channels, H, W) with zeros to `width` channels."""
    return x if x.shape[1] == width else F.pad(x, (0, 0, 0, 0, 0, width - x.shape[1]))


def infer(plan: Plan, x: Tensor, nodes: Sequence[NodeTensors]) -> Tensor:
    """The output of `run` without batch statistics, on a CPU a few images at a time.

    The stage's maps then stay in the caches, and the allocator reuses the memory of a freed map.
    For large maps the system would zero fresh memory, which costs as much as a depthwise
    convolution.
    """
    parts = 1
    if x.device.type == "cpu":
        map_bytes = plan.width * x[:, 0].numel() // plan.stride**2 * x.element_size()
        parts = min(len(x), -(-map_bytes // PART_BYTES))
    if parts <= 1:
        return run(plan, x, nodes)[0]
    return torch.cat([run(plan, part, nodes)[0] for part in x.chunk(parts)])


def run(
    plan: Plan,
    x: Tensor,
    nodes: Sequence[NodeTensors],
    keep: Keep = Keep.NOTHING,
    affines: Sequence[Affine | None] | None = None,
) -> tuple[Tensor, Kept, list[Affine | None]]:
    """The forward of a stage, without autograd.

    Args:
        x: (B, in_channels, H, W), in the dtype to compute in.
        affines: BN scales and shifts to reuse; recomputed if None.

    Returns:
        the output (B, channels, ceil(H / stride), ...), the saved maps, and BN of each node.
    """
    count = plan.dag.num_nodes
    weights, sums, depthwise_outputs, maps = kept = Kept(*([None] * count for _ in Kept._fields))
    found = [None] * count
    relu_x = relu_of_input(plan, x)  # once for all input nodes
    nodes = with_vectors_at(plan.width, nodes)
    running = [None] * count if affines else _running(plan, nodes)
    for index in plan.order.nodes:
        node, sources = nodes[index], plan.dag.predecessors[index]
        at_width = node.weights_at(*plan.widths_of(index), x.dtype)
        total = sum_of(sources, node.edges, maps, found) if sources else relu_x
        if keep in (Keep.CONVOLUTIONS, Keep.SUMS_AND_MAPS):
            weights[index], sums[index] = at_width, total
        if keep is Keep.NOTHING:
            for source in plan.order.last_read[index]:
                maps[source] = None
        if index == plan.order.last_input:
            relu_x = None
        depthwise_output = depthwise(total, at_width[0], *plan.places_of(index))
        if keep is Keep.CONVOLUTIONS:
            depthwise_outputs[index] = depthwise_output
        del total  # freed now, its memory is reused for the next map while still in the cache
        bias = node.beta.to(x.dtype) if node.gamma is None else None
        maps[index] = pointwise(depthwise_output, at_width[1], bias)
        del depthwise_output
        if affines:
            found[index] = affines[index]
        else:
            found[index] = _batch_norm(maps[index], node, running[index], plan.eps)
    output = _mean_of(plan, maps, found)
    if keep is Keep.NOTHING:
        maps[:] = [None] * len(maps)
    return output, kept, found


def relu_of_input(plan: Plan, x: Tensor) -> Tensor:
    """ReLU of a stage's input, padded to the width that its input nodes read."""
    return F.relu(padded(x, padded_width(plan.in_channels)))


def sum_of(sources, weights, maps, affines) -> Tensor:
    """ReLU of the weighted sum of the sources' outputs, as a new map."""
    if weights is None and affines[sources[0]] is None:
        return F.relu(maps[sources[0]])
    return _weighted(sources, weights, maps, affines).relu_()


def _mean_of(plan: Plan, maps, affines) -> Tensor:
    outputs = plan.dag.output_nodes
    weights = maps[outputs[0]].new_full((len(outputs),), 1 / len(outputs))
    return _weighted(outputs, weights, maps, affines, plan.channels)


def _weighted(sources, weights, maps, affines, channels: int | None = None) -> Tensor:
    """The weighted sum of the sources' outputs, of all channels or the first `channels`."""
    dtype, total = maps[sources[0]].dtype, None
    # In the maps' dtype, else half a map's size would become a whole one.
    if affines[sources[0]] is None:
        shift, factors = None, weights.to(dtype)
    else:
        shift, factors = _scales_and_shift(sources, weights, affines, channels, dtype)
    for source, factor in zip(sources, factors, strict=True):
        data = maps[source] if channels is None else maps[source][:, :channels]
        if total is not None:
            total.addcmul_(data, factor)
        elif shift is None:
            total = data * factor
        else:
            total = torch.addcmul(shift, data, factor)
    return total


def _scales_and_shift(sources, weights, affines, channels, dtype) -> tuple[Tensor, Tensor]:
    """A weighted sum's shift (1, width, 1, 1), and each source's scale (inputs, 1, width, 1, 1)."""
    if weights is None:
        scales, shift = affines[sources[0]].scale[None], affines[sources[0]].shift
    else:
        # By one call for all sources: small calls are most of a step on small maps, and on a GPU.
        scales, shifts = (
            torch.stack([getattr(affines[source], name) for source in sources])
            for name in ("scale", "shift")
        )
        weights = weights.to(scales.dtype)
        scales, shift = scales * weights[:, None], weights @ shifts
    shift, scales = shift[None, :channels, None, None], scales[:, None, :channels, None, None]
    return shift.to(dtype), scales.to(dtype)


def depthwise(data: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """A node's depthwise convolution."""
    return F.conv2d(data, weight, None, stride, dilation, dilation, groups=data.shape[1])


def pointwise(data: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A node's 1x1 convolution."""
    if not by_product(data):
        return F.conv2d(data, weight, bias, dilation=pointwise_dilation(data))
    return as_map(F.linear(as_rows(data), weight.flatten(1), bias), data)


def by_product(data: Tensor) -> bool:
    """Whether a 1x1 convolution is faster as a product of matrices.

    In bf16 on a CPU it is, up to three times for few pixels, as oneDNN's convolution brings the
    weights into a layout of its own at every call; where pixels are many, it is slower.
    """
    if data.device.type != "cpu" or data.dtype != torch.bfloat16 or is_traced():
        return False
    return data.numel() <= 100 * data.shape[1] ** 2


def pointwise_dilation(data: Tensor) -> int:
    """The dilation of a 1x1 convolution, which has no effect but on torch's choice of a kernel.

    On one thread and for fewer than 16 images torch leaves plain 1x1 convolutions to a matrix
    product, and dilated ones to oneDNN, which is twice as fast in single precision on AVX-512; on
    others it was not measured. A single small image goes to neither: its dilated convolution would
    run channel by channel.
    """
    if is_traced() or data.device.type != "cpu" or data.dtype != torch.float32:
        return 1
    left_to_a_product = torch.get_num_threads() == 1 and 1 <= len(data) < 16
    onednn = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    onednn = onednn and torch.backends.cpu.get_cpu_capability() == "AVX512"
    large = len(data) > 1 or data.numel() > 20480
    return 2 if left_to_a_product and onednn and large else 1


def as_rows(data: Tensor) -> Tensor:
    """A map (B, C, H, W) as a matrix (B H W, C); a view, if it is in channels-last."""
    return data.permute(0, 2, 3, 1).reshape(-1, data.shape[1])


def as_map(rows: Tensor, like: Tensor) -> Tensor:
    """A matrix (B H W, C) as a map of the batch, height and width of `like`, in channels-last."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _running(plan: Plan, nodes: Sequence[NodeTensors]) -> Sequence[Tensor | None]:
    """For every node, zeros (2, width) for the mean and the variance of a batch."""
    by_batch = next((node for node in nodes if node.gamma is not None and node.mean is None), None)
    if by_batch is None:
        return [None] * len(nodes)
    return by_batch.gamma.new_zeros((len(nodes), 2, plan.width)).unbind()


def _batch_norm(data: Tensor, node: NodeTensors, running: Tensor | None, eps) -> Affine | None:
    if node.gamma is None:
        return None
    mean, var, unbiased = node.mean, node.var, None
    if mean is None:
        if data.numel() == data.shape[1]:  # the same message as torch's
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {data.shape}"
            )
        # The running statistics after a momentum of one are those of the batch; given as such,
        # they are in full precision for maps in half, too.
        of_batch, unbiased = running.unbind()
        mean, var = torch.batch_norm_update_stats(data, of_batch, unbiased, 1.0)
    inverse_std = (var.to(node.gamma.dtype) + eps).rsqrt()
    scale = node.gamma * inverse_std
    shift = torch.addcmul(node.beta, mean, scale, value=-1)
    return Affine(scale, shift, node.gamma, node.beta, mean, inverse_std, node.var, unbiased)
