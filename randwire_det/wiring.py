"""A random wiring's forward with fewer passes and kept maps; `wiring_backward` is its way back.

The arithmetic is section 3.2's, rearranged in three ways:

- A node hands out what its 1x1 convolution gives, together with its BN as a scale and a shift per
  channel. Its readers apply those within their weighted sum, so that no normalised map is written.
- Of a node's four maps (sum after ReLU, depthwise output, 1x1 output, BN output) `Keep` says which
  are kept for the backward. The rest is computed again there; only the 1x1 convolution costs much.
- Maps may be wider than the stage, where the hardware likes it; the channels more are zero.
"""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .graphs import Dag


class Keep(Enum):
    """What a forward keeps of every node for the backward, each less than the one before."""

    CONVOLUTIONS = "the sum after ReLU, and the outputs of both convolutions"
    SUMS_AND_MAPS = "the sum after ReLU, and the 1x1 convolution's output"
    MAPS = "the 1x1 convolution's output"
    NOTHING = "nothing: the backward runs the stage again"


class NodeTensors(NamedTuple):
    """What one node computes with.

    Attributes:
        edges: (inputs,), the positive weights; None for a node with one input.
        depthwise: (in, 1, 3, 3).
        pointwise: (out, in, 1, 1).
        gamma, beta: (out,), BN's; without gamma, BN is folded into pointwise and beta its bias.
        mean, var: (out,), what BN normalises by; None where it takes those of the batch.
    """

    edges: Tensor | None
    depthwise: Tensor
    pointwise: Tensor
    gamma: Tensor | None
    beta: Tensor
    mean: Tensor | None
    var: Tensor | None

    def at(self, in_width: int, width: int, dtype: torch.dtype) -> "NodeTensors":
        """The same at the widths of the maps read and put out; the channels more are zero.

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
    """BN as map * scale + shift, and what it is made of; each (width,).

    Attributes:
        var: that BN was given to normalise by; None where it took that of the batch.
        unbiased_var: of the batch, for the running statistics; None where BN did not take it.
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
    """The maps of each node that are kept for the backward, None for those that are not.

    Attributes:
        sums: after ReLU, which the depthwise convolution reads.
        spreads: the depthwise convolution's outputs, which the 1x1 convolution reads.
        maps: the 1x1 convolution's outputs, which BN reads.
    """

    sums: list[Tensor | None]
    spreads: list[Tensor | None]
    maps: list[Tensor | None]


class Plan(NamedTuple):
    """What is fixed of a stage.

    Attributes:
        stride: of its input nodes.
        width: of its maps, at least its channels.
        eps: BN's epsilon.
    """

    dag: Dag
    stride: int
    width: int
    eps: float

    def shape_of(self, index: int, x: Tensor) -> tuple[int, int, torch.dtype]:
        """Where a node is run: its widths and dtype, as `NodeTensors.at` takes them, of input x."""
        in_width = self.width if self.dag.predecessors[index] else x.shape[1]
        return in_width, self.width, x.dtype


def run(
    plan: Plan,
    x: Tensor,
    nodes: Sequence[NodeTensors],
    keep: Keep = Keep.NOTHING,
    affines: Sequence[Affine | None] | None = None,
) -> tuple[Tensor, Kept, list[Affine | None]]:
    """A stage's forward, without a record for autograd.

    Args:
        x: (B, in, H, W), in the dtype to compute in.
        affines: BN of a run before, to be repeated; by default each is found anew.

    Returns:
        the output (B, width, ceil(H / stride), ...); what `keep` says of each node; and its BN.
    """
    count = plan.dag.num_nodes
    sums, spreads, maps = kept = Kept([None] * count, [None] * count, [None] * count)
    found = [None] * count
    relu_x = F.relu(x)  # once for all input nodes
    for index, (node, sources) in enumerate(zip(nodes, plan.dag.predecessors, strict=True)):
        node = node.at(*plan.shape_of(index, x))
        total = sum_of(sources, node.edges, maps, found) if sources else relu_x
        if keep in (Keep.CONVOLUTIONS, Keep.SUMS_AND_MAPS):
            sums[index] = total
        spread = depthwise(total, node.depthwise, plan.stride if not sources else 1)
        if keep is Keep.CONVOLUTIONS:
            spreads[index] = spread
        del total  # what is let go of at once is the next map's memory, still in the cache
        bias = node.beta if node.gamma is None else None
        maps[index] = F.conv2d(spread, node.pointwise, bias)
        del spread
        found[index] = affines[index] if affines else _batch_norm(maps[index], node, plan.eps)
        if keep is Keep.NOTHING:
            for source in plan.dag.last_read[index]:
                maps[source] = None
    output = _mean_of(plan.dag.output_nodes, maps, found)
    if keep is Keep.NOTHING:
        maps[:] = [None] * len(maps)
    return output, kept, found


def sum_of(sources, weights, maps, affines) -> Tensor:
    """ReLU of the weighted sum of what the sources hand out, as a map of its own."""
    if weights is None and affines[sources[0]] is None:
        return F.relu(maps[sources[0]])
    return _weighted(sources, [None] if weights is None else weights, maps, affines).relu_()


def _mean_of(outputs, maps, affines) -> Tensor:
    weights = maps[outputs[0]].new_full((len(outputs),), 1 / len(outputs))
    return _weighted(outputs, weights, maps, affines)


def _weighted(sources, weights, maps, affines) -> Tensor:
    total = shift = None
    factors = []
    for source, weight in zip(sources, weights, strict=True):
        affine = affines[source]
        if affine is None:
            factors.append(weight)
            continue
        scaled = (affine.scale, affine.shift)
        if weight is not None:
            scaled = (affine.scale * weight, affine.shift * weight)
        factors.append(scaled[0].view(1, -1, 1, 1))
        shift = scaled[1] if shift is None else shift + scaled[1]
    for source, factor in zip(sources, factors, strict=True):
        data = maps[source]
        factor = factor.to(data.dtype)  # else half a map's size would become a whole one
        if total is not None:
            total.addcmul_(data, factor)
        elif shift is None:
            total = data * factor
        else:
            total = torch.addcmul(shift.to(data.dtype).view(1, -1, 1, 1), data, factor)
    return total


def depthwise(data: Tensor, weight: Tensor, stride: int) -> Tensor:
    """A node's depthwise convolution."""
    return F.conv2d(data, weight, None, stride, padding=1, groups=data.shape[1])


def _batch_norm(data: Tensor, node: NodeTensors, eps: float) -> Affine | None:
    if node.gamma is None:
        return None
    mean, var, unbiased = node.mean, node.var, None
    if mean is None:
        if data.numel() == data.shape[1]:  # torch's own words
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {data.shape}"
            )
        # The running statistics after a momentum of one are those of the batch; given as such,
        # they are in full precision for maps in half, too.
        running, unbiased = torch.zeros_like(node.gamma), torch.zeros_like(node.gamma)
        mean, var = torch.batch_norm_update_stats(data, running, unbiased, 1.0)
    inverse_std = (var.to(node.gamma.dtype) + eps).rsqrt()
    scale = node.gamma * inverse_std
    shift = node.beta - mean * scale
    return Affine(scale, shift, node.gamma, node.beta, mean, inverse_std, node.var, unbiased)
