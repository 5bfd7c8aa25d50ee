"""A random wiring as one function with a backward of its own: fewer kept maps, fewer passes.

The arithmetic is section 3.2's, rearranged in three ways:

- A node hands out what its 1x1 convolution gives, together with its BN as a scale and a shift per
  channel. Its readers apply those within their weighted sum, so that no normalised map is written.
- A gradient is added to that of a node's output where it lies, one pass an edge, and an edge's own
  gradient is a sum over channels of what BN's backward sums anyway: no product of maps is written.
- Of a node's four maps (sum after ReLU, depthwise output, 1x1 output, BN output) `Keep` says which
  are kept for the backward. The rest is computed again there; only the 1x1 convolution costs much.
"""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

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


class Affine(NamedTuple):
    """BN as map * scale + shift, each (channels,), and what it is made of.

    Attributes:
        unbiased_var: of the batch, for the running statistics; None where BN did not take it.
    """

    scale: Tensor
    shift: Tensor
    mean: Tensor
    inverse_std: Tensor
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
    """What is fixed of a stage: its wiring, the stride of its input nodes, BN's epsilon."""

    dag: Dag
    stride: int
    eps: float


def run(
    plan: Plan,
    x: Tensor,
    nodes: Sequence[NodeTensors],
    keep: Keep = Keep.NOTHING,
    affines: Sequence[Affine | None] | None = None,
) -> tuple[Tensor, Kept, list[Affine | None]]:
    """A stage's forward, without a record for autograd.

    Args:
        x: (B, in, H, W).
        affines: BN of a run before, to be repeated; by default each is found anew.

    Returns:
        the output (B, out, ceil(H / stride), ...); what `keep` says of each node; and its BN.
    """
    count = plan.dag.num_nodes
    sums, spreads, maps = kept = Kept([None] * count, [None] * count, [None] * count)
    found = [None] * count
    relu_x = F.relu(x)  # once for all input nodes
    for index, (node, sources) in enumerate(zip(nodes, plan.dag.predecessors, strict=True)):
        total = _sum_of(sources, node.edges, maps, found) if sources else relu_x
        if keep in (Keep.CONVOLUTIONS, Keep.SUMS_AND_MAPS):
            sums[index] = total
        spread = _depthwise(total, node, plan.stride if not sources else 1)
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


def _sum_of(sources, weights, maps, affines) -> Tensor:
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


def _depthwise(data: Tensor, node: NodeTensors, stride: int) -> Tensor:
    return F.conv2d(data, node.depthwise, None, stride, padding=1, groups=data.shape[1])


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
    return Affine(scale, node.beta - mean * scale, mean, inverse_std, unbiased)


class RandomWiring(torch.autograd.Function):
    """`run` for autograd: `RandomWiring.apply(plan, keep, statistics, x, *flat)`.

    Args:
        statistics: a list, to which the `Affine` of every node is appended.
        flat: the `NodeTensors` of all nodes, one after the other.

    A graph that is kept (retain_graph=True) can be gone back through again: what was kept is then
    computed anew.
    """

    @staticmethod
    def forward(ctx, plan, keep, statistics, x, *flat):
        nodes = _grouped(flat)
        output, ctx.kept, affines = run(plan, x, nodes, keep)
        statistics.extend(affines)
        ctx.plan, ctx.affines = plan, affines
        # Of what is kept no map by save_for_backward, which would hold all until the stage's end.
        ctx.save_for_backward(x, *flat)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, *flat = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None
        nodes, needed = _grouped(flat), _grouped(ctx.needs_input_grad[4:])
        if kept is None or kept.maps[0] is None:
            _, kept, _ = run(ctx.plan, x, nodes, Keep.MAPS, ctx.affines)
        back = _Backward(ctx.plan, x, nodes, kept, ctx.affines, ctx.needs_input_grad[3])
        outputs = ctx.plan.dag.output_nodes
        share = (gradient / len(outputs)).contiguous(memory_format=torch.channels_last)
        for node in outputs:  # which no other node reads, so that nothing is added to it
            back.of_outputs[node] = share
        del share
        found = [None] * len(nodes)
        for index in reversed(range(len(nodes))):
            found[index] = back.through(index, needed[index])
        return None, None, None, back.of_input(), *(each for node in found for each in node)


class _Backward:
    """The way back through a stage, node by node from the last to the first.

    Attributes:
        of_outputs: gradients of what the nodes hand out, BN applied; complete once all readers of
            a node have been gone through, and let go of with the node.
    """

    def __init__(self, plan, x, nodes, kept, affines, into_x):
        self.plan, self.nodes, self.affines = plan, nodes, affines
        self.sums, self.spreads, self.maps = kept
        self.x, self.into_x, self.relu_x = x, into_x, None
        self.of_outputs = [None] * len(nodes)
        self.of_relu_x = None

    def through(self, index: int, needed: NodeTensors) -> NodeTensors:
        """The gradients of a node's tensors, as far as needed; those of its inputs are added where
        they belong."""
        node, sources = self.nodes[index], self.plan.dag.predecessors[index]
        gradient, of_gamma, of_beta = self._through_norm(
            index, self.of_outputs[index], [True, needed.gamma, needed.beta]
        )
        total, spread = self._sum_of(index), self.spreads[index]
        for each in (self.sums, self.spreads, self.maps, self.of_outputs):
            each[index] = None
        stride = 1 if sources else self.plan.stride
        if spread is None:
            spread = _depthwise(total, node, stride)
        gradient, of_pointwise = _through_conv(
            gradient, spread, node.pointwise, [True, needed.pointwise]
        )
        del spread
        onwards = bool(sources) or self.into_x
        gradient, of_depthwise = _through_conv(
            gradient, total, node.depthwise, [onwards, needed.depthwise], stride
        )
        of_edges = None
        if sources:
            torch.ops.aten.threshold_backward.grad_input(gradient, total, 0, grad_input=gradient)
            del total
            of_edges = self._into(sources, node.edges, gradient, needed.edges)
        elif onwards:
            self.of_relu_x = gradient if self.of_relu_x is None else self.of_relu_x.add_(gradient)
        return NodeTensors(of_edges, of_depthwise, of_pointwise, of_gamma, of_beta, None, None)

    def of_input(self) -> Tensor | None:
        """The gradient of the stage's input, once all nodes have been gone through."""
        if self.of_relu_x is None:
            return None
        return torch.ops.aten.threshold_backward(self.of_relu_x, self.x, 0)

    def _sum_of(self, index):
        """The node's sum after ReLU, computed again where it was not kept."""
        sources = self.plan.dag.predecessors[index]
        if self.sums[index] is not None:
            return self.sums[index]
        if sources:
            return _sum_of(sources, self.nodes[index].edges, self.maps, self.affines)
        if self.relu_x is None:
            self.relu_x = F.relu(self.x)
        return self.relu_x

    def _through_norm(self, index, gradient, mask):
        """The gradients of a node's map, gamma and beta, as far as `mask` says."""
        node, affine = self.nodes[index], self.affines[index]
        by_batch = node.mean is None
        return torch.ops.aten.native_batch_norm_backward(
            gradient,
            self.maps[index],
            node.gamma,
            *(node.mean, node.var),
            *(affine.mean, affine.inverse_std),
            by_batch,
            self.plan.eps,
            mask,
        )

    def _into(self, sources, weights, gradient, needed) -> Tensor | None:
        """Add a node's gradient to those of its sources; gives the one of its weights."""
        found = [None] * len(sources)
        # The last may take the memory of the node's gradient, if it is the first to be given one.
        positions = sorted(
            range(len(sources)), key=lambda position: self.of_outputs[sources[position]] is None
        )
        for position in positions:
            source = sources[position]
            if needed:
                # <gradient, BN(map)> by the sums of BN's backward: no product is written.
                _, along_scale, along_shift = self._through_norm(
                    source, gradient, [False, True, True]
                )
                node = self.nodes[source]
                found[position] = node.gamma.dot(along_scale) + node.beta.dot(along_shift)
            before = self.of_outputs[source]
            weight = None if weights is None else weights[position].to(gradient.dtype)
            is_last = position == positions[-1]
            if before is not None:
                before.add_(gradient) if weight is None else before.addcmul_(gradient, weight)
            elif weight is None:
                self.of_outputs[source] = gradient
            else:
                self.of_outputs[source] = gradient.mul_(weight) if is_last else gradient * weight
        return torch.stack(found) if needed else None


def _through_conv(gradient, data, weight, mask, stride=1):
    """The gradients of `data` and `weight`, as far as `mask` says."""
    padding, groups = weight.shape[2] // 2, data.shape[1] // weight.shape[1]
    places = ([stride, stride], [padding, padding], [1, 1], False, [0, 0], groups)
    backward = torch.ops.aten.convolution_backward
    of_data, of_weight, _ = backward(gradient, data, weight, None, *places, [*mask, False])
    if of_weight is not None and of_weight.is_contiguous() and weight.is_contiguous():
        # They may differ in the strides of dimensions of size 1; torch would copy such a gradient.
        of_weight = of_weight.as_strided(weight.shape, weight.stride())
    return of_data, of_weight


def _grouped(flat) -> list[NodeTensors]:
    size = len(NodeTensors._fields)
    return [NodeTensors(*flat[at : at + size]) for at in range(0, len(flat), size)]
