"""The backward of a random wiring as one autograd function, with fewer passes.

A gradient is added to that of a node's output where it lies, one pass an edge, and an edge's own
gradient is a sum over channels of what BN's backward sums anyway: no product of maps is written.
"""

import torch
from torch import Tensor

from .as_built import is_batched
from .wiring import Keep, NodeTensors, depthwise, padded, relu_of_input, run, sum_of


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
    def backward(ctx, gradient):
        if torch.is_grad_enabled():  # by create_graph=True
            raise RuntimeError(
                "create_graph=True: a RandWire stage has no gradients of gradients; expected"
                " create_graph=False, or a trunk whose stages run by RandomStage.node_by_node"
            )
        if is_batched(gradient):
            raise RuntimeError(
                "is_grads_batched=True, or torch.func.vmap around a backward: a RandWire stage has"
                " no batched gradients; expected one autograd.grad at a time, torch.func.vjp, or a"
                " trunk whose stages run by RandomStage.node_by_node"
            )
        # As the forward was run, whatever the context that the backward is called in.
        with torch.autocast(gradient.device.type, enabled=False):
            return _gradients(ctx, gradient)


def _gradients(ctx, gradient):
    """Of every argument of `RandomWiring.apply`."""
    x, *flat = ctx.saved_tensors
    kept, ctx.kept = ctx.kept, None
    nodes, needed = _grouped(flat), _grouped(ctx.needs_input_grad[4:])
    if kept is None or kept.maps[0] is None:
        _, kept, _ = run(ctx.plan, x, nodes, Keep.MAPS, ctx.affines)
    back = _Backward(ctx.plan, x, nodes, kept, ctx.affines, ctx.needs_input_grad[3])
    outputs = ctx.plan.dag.output_nodes
    share = padded(gradient / len(outputs), ctx.plan.width)
    share = share.contiguous(memory_format=torch.channels_last)
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
        sources = self.plan.dag.predecessors[index]
        node = self.nodes[index]
        by_depth, by_point = node.weights_at(*self.plan.widths_of(index), self.x.dtype)
        gradient, of_gamma, of_beta = self._through_norm(
            index, self.of_outputs[index], [True, needed.gamma, needed.beta]
        )
        total, spread = self._sum_of(index), self.spreads[index]
        for each in (self.sums, self.spreads, self.maps, self.of_outputs):
            each[index] = None
        stride = 1 if sources else self.plan.stride
        if spread is None:
            spread = depthwise(total, by_depth, stride)
        gradient, of_pointwise = _through_conv(gradient, spread, by_point, [True, needed.pointwise])
        del spread
        onwards = bool(sources) or self.into_x
        gradient, of_depthwise = _through_conv(
            gradient, total, by_depth, [onwards, needed.depthwise], stride
        )
        of_edges = None
        if sources:
            torch.ops.aten.threshold_backward.grad_input(gradient, total, 0, grad_input=gradient)
            del total
            of_edges = self._into(sources, node.edges, gradient, needed.edges)
        elif onwards:
            self.of_relu_x = gradient if self.of_relu_x is None else self.of_relu_x.add_(gradient)
        found = NodeTensors(of_edges, of_depthwise, of_pointwise, of_gamma, of_beta, None, None)
        return NodeTensors(*map(_fitted, found, node))

    def of_input(self) -> Tensor | None:
        """The gradient of the stage's input, once all nodes have been gone through."""
        if self.of_relu_x is None:
            return None
        return torch.ops.aten.threshold_backward(self.of_relu_x[:, : self.x.shape[1]], self.x, 0)

    def _sum_of(self, index):
        """The node's sum after ReLU, computed again where it was not kept."""
        sources = self.plan.dag.predecessors[index]
        if self.sums[index] is not None:
            return self.sums[index]
        if sources:
            return sum_of(sources, self.nodes[index].edges, self.maps, self.affines)
        if self.relu_x is None:
            self.relu_x = relu_of_input(self.plan, self.x)
        return self.relu_x

    def _through_norm(self, index, gradient, mask):
        """The gradients of a node's map, gamma and beta, as far as `mask` says."""
        affine = self.affines[index]
        by_batch = affine.var is None
        return torch.ops.aten.native_batch_norm_backward(
            gradient,
            self.maps[index],
            affine.gamma,
            *(None if by_batch else affine.mean, affine.var),
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
                affine = self.affines[source]
                found[position] = affine.gamma.dot(along_scale) + affine.beta.dot(along_shift)
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
    return backward(gradient, data, weight, None, *places, [*mask, False])[:2]


def _fitted(gradient, tensor):
    """A gradient at the width run at, as one of the tensor's own size, dtype and strides.

    Torch would copy one in other strides, or in a part of what it lies in, once more.
    """
    if gradient is None:
        return None
    own = gradient[: tensor.shape[0]]
    if own.shape != tensor.shape:
        own = own[:, : tensor.shape[1]]
    if own.shape[1:] != gradient.shape[1:] or own.dtype != tensor.dtype:
        return torch.empty_like(tensor).copy_(own)
    if own.is_contiguous() and tensor.is_contiguous():
        # They may differ in the strides of dimensions of size 1.
        return own.as_strided(tensor.shape, tensor.stride())
    return own


def _grouped(flat) -> list[NodeTensors]:
    size = len(NodeTensors._fields)
    return [NodeTensors(*flat[at : at + size]) for at in range(0, len(flat), size)]
