"""The backward of a random wiring as one autograd function, with fewer passes over maps.

A node v reads the nodes S(v); all maps are (B, C, H, W), w_uv > 0 is the weight of edge u -> v:

    s_v = sum_{u in S(v)} w_uv y_u          the weighted sum
    x_v = relu(s_v)                         kept by Keep.SUMS_AND_MAPS
    d_v = depthwise(x_v)                    kept by Keep.CONVOLUTIONS
    z_v = pointwise(d_v)                    kept by Keep.MAPS: "the map" of the node
    y_v = gamma (z_v - mean) / std + beta   BN, never written: a scale and a shift per channel
    output = sum_{o in O} y_o / |O|         over the output nodes O

With g(a) for the gradient of the loss by a, from the last node to the first:

    g(y_o) = g(output) / |O|
    g(z_v), g(gamma), g(beta)  by BN's backward of g(y_v)
    g(d_v), g(x_v) and the weights' gradients  by the convolutions' backward
    g(s_v) = g(x_v) where x_v > 0, else 0
    g(y_u) += w_uv g(s_v)                   in place, one pass an edge

The gradient of an edge weight would be the sum over a product of two maps, g(w_uv) = <g(s_v), y_u>.
With y_u = gamma n_u + beta, where n_u is the normalised map, it becomes

    g(w_uv) = sum_c gamma_c <g(s_v), n_u>_c + beta_c <g(s_v), 1>_c

Both inner products over (B, H, W), one number per channel, are the gradients of gamma and beta that
BN's backward of u returns for the output gradient g(s_v). So it is called for these two only, and
no product of maps is written.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .as_built import is_batched
from .wiring import (
    Keep,
    NodeTensors,
    as_map,
    as_rows,
    by_product,
    depthwise,
    padded,
    pointwise_dilation,
    relu_of_input,
    run,
    sum_of,
)


class RandomWiring(torch.autograd.Function):
    """`run` for autograd: `RandomWiring.apply(plan, keep, statistics, x, *flat)`.

    Args:
        statistics: a list, to which the `Affine` of every node is appended.
        flat: the `NodeTensors` of all nodes, concatenated.

    A second backward through a retained graph (retain_graph=True) recomputes the saved maps.
    """

    @staticmethod
    def forward(ctx, plan, keep, statistics, x, *flat):
        nodes = _grouped(flat)
        output, ctx.kept, affines = run(plan, x, nodes, keep)
        statistics.extend(affines)
        ctx.plan, ctx.affines = plan, affines
        # Not by save_for_backward, which would hold all maps until the end of the stage's backward.
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
        # In the forward's autocast context, whatever that of the backward is.
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
    for node in outputs:  # no other node reads them: their gradients are complete
        back.grad_outputs[node] = share
    del share
    found = [None] * len(nodes)
    for index in reversed(ctx.plan.order.nodes):
        found[index] = back.through(index, needed[index])
    for index, grad_edges in back.grad_edges().items():
        found[index] = found[index]._replace(edges=_fitted(grad_edges, nodes[index].edges))
    return None, None, None, back.grad_input_map(), *(each for node in found for each in node)


class _Backward:
    """The backward of a stage, node by node from the last to the first.

    Attributes:
        grad_outputs: gradients of the nodes' outputs y; complete once all readers of a node are
            processed, and freed with the node.
        along: for every edge whose weight needs a gradient, its source, and the two inner products
            from which that is computed; by target.
    """

    def __init__(self, plan, x, nodes, kept, affines, input_needs_grad):
        self.plan, self.nodes, self.affines = plan, nodes, affines
        self.weights, self.sums, self.depthwise_outputs, self.maps = kept
        self.x, self.input_needs_grad, self.relu_x = x, input_needs_grad, None
        self.grad_outputs = [None] * len(nodes)
        self.grad_relu_input = None
        self.along: dict[int, list[tuple[int, Tensor, Tensor]]] = {}

    def through(self, index: int, needed: NodeTensors) -> NodeTensors:
        """The needed gradients of a node's tensors but its edges' weights; accumulates those of its
        sources' outputs."""
        sources = self.plan.dag.predecessors[index]
        node = self.nodes[index]
        weights = self.weights[index]
        if weights is None:
            weights = node.weights_at(*self.plan.widths_of(index), self.x.dtype)
        gradient, grad_gamma, grad_beta = self._through_norm(
            index, self.grad_outputs[index], [True, needed.gamma, needed.beta]
        )
        total, depthwise_output = self._sum_of(index), self.depthwise_outputs[index]
        for each in (self.weights, self.sums, self.depthwise_outputs, self.maps, self.grad_outputs):
            each[index] = None
        places = self.plan.places_of(index)
        if depthwise_output is None:
            depthwise_output = depthwise(total, weights[0], *places)
        gradient, grad_pointwise = _through_pointwise(
            gradient, depthwise_output, weights[1], [True, needed.pointwise]
        )
        del depthwise_output
        onwards = bool(sources) or self.input_needs_grad
        gradient, grad_depthwise = _through_conv(
            gradient, total, weights[0], [onwards, needed.depthwise], *places
        )
        if sources:
            torch.ops.aten.threshold_backward.grad_input(gradient, total, 0, grad_input=gradient)
            del total
            if needed.edges:
                self.along[index] = self._along(sources, gradient)
            self._into(sources, node.edges, gradient)
        elif onwards:
            self.grad_relu_input = (
                gradient if self.grad_relu_input is None else self.grad_relu_input.add_(gradient)
            )
        found = NodeTensors(None, grad_depthwise, grad_pointwise, grad_gamma, grad_beta, None, None)
        return NodeTensors(*map(_fitted, found, node))

    def grad_input_map(self) -> Tensor | None:
        """The gradient of the stage's input, once all nodes are processed."""
        if self.grad_relu_input is None:
            return None
        return torch.ops.aten.threshold_backward(
            self.grad_relu_input[:, : self.x.shape[1]], self.x, 0
        )

    def _sum_of(self, index):
        """The node's sum after ReLU, recomputed if it was not saved."""
        sources = self.plan.dag.predecessors[index]
        if self.sums[index] is not None:
            return self.sums[index]
        if sources:
            return sum_of(sources, self.nodes[index].edges, self.maps, self.affines)
        if self.relu_x is None:
            self.relu_x = relu_of_input(self.plan, self.x)
        return self.relu_x

    def _through_norm(self, index, gradient, mask):
        """The gradients of a node's map, gamma and beta that `mask` selects."""
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

    def grad_edges(self) -> dict[int, Tensor]:
        """The gradients of the edges' weights (inputs,) by node, once all nodes are processed.

        By a few calls for all of them: a call for so few numbers costs more than it computes.
        """
        edges = [each for along in self.along.values() for each in along]
        if not edges:
            return {}
        sources, along_scales, along_shifts = zip(*edges, strict=True)
        gammas, betas = (
            torch.stack([getattr(self.affines[source], name) for source in sources])
            for name in ("gamma", "beta")
        )
        found = torch.linalg.vecdot(torch.stack(along_scales), gammas)
        found += torch.linalg.vecdot(torch.stack(along_shifts), betas)
        counts = [len(along) for along in self.along.values()]
        return dict(zip(self.along, found.split(counts), strict=True))

    def _along(self, sources, gradient) -> list[tuple[int, Tensor, Tensor]]:
        """Of every source, the gradients of its gamma and beta by a node's g(s_v)."""
        mask = [False, True, True]
        return [(each, *self._through_norm(each, gradient, mask)[1:]) for each in sources]

    def _into(self, sources, weights, gradient) -> None:
        """Add w_uv g(s_v) to the gradient of each source."""
        factors = [None] if weights is None else weights.to(gradient.dtype)
        # The last source may reuse the memory of the node's gradient, if it has no gradient yet.
        positions = sorted(
            range(len(sources)), key=lambda position: self.grad_outputs[sources[position]] is None
        )
        for position in positions:
            source, weight = sources[position], factors[position]
            before = self.grad_outputs[source]
            if before is not None:
                before.add_(gradient) if weight is None else before.addcmul_(gradient, weight)
            elif weight is None:
                self.grad_outputs[source] = gradient
            else:
                is_last = position == positions[-1]
                self.grad_outputs[source] = gradient.mul_(weight) if is_last else gradient * weight


def _through_conv(gradient, data, weight, mask, stride=1, dilation=1):
    """The gradients of `data` and `weight` that `mask` selects."""
    padding, groups = weight.shape[2] // 2 * dilation, data.shape[1] // weight.shape[1]
    places = ([stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], groups)

    def through(*tensors, mask):
        return torch.ops.aten.convolution_backward(*tensors, None, *places, [*mask, False])[:2]

    grad_data = grad_weight = None
    on_cpu = data.device.type == "cpu"
    if on_cpu and mask[0] and stride > 1 and data.itemsize < 4:
        # oneDNN has a fast kernel for this one in single precision only; in bf16 it takes 7 times
        # as long on maps of 112 x 112, 50 times on maps of 14 x 14.
        shape = torch.empty_like(data, dtype=torch.float32)  # its values play no part
        whole = gradient.float(), shape, weight.float()
        grad_data = through(*whole, mask=[True, False])[0].to(data.dtype)
    if on_cpu and mask[1] and groups > 1 and stride == 1 and min(data.shape[2:]) < 3:
        # Maps with a side of one or two pixels take it 7 to 30 times as long as wider ones.
        wider = _at_least_3x3(gradient), _at_least_3x3(data)
        _, grad_weight = through(*wider, weight, mask=[False, True])
    rest = [mask[0] and grad_data is None, mask[1] and grad_weight is None]
    if any(rest):
        found = through(gradient, data, weight, mask=rest)
        grad_data = found[0] if rest[0] else grad_data
        grad_weight = found[1] if rest[1] else grad_weight
    return grad_data, grad_weight


def _at_least_3x3(data):
    """A map with zeros to its right and below, where height or width is less than 3."""
    height, width = data.shape[2:]
    wider = F.pad(data, (0, max(0, 3 - width), 0, max(0, 3 - height)))
    return wider.contiguous(memory_format=torch.channels_last)


def _through_pointwise(gradient, data, weight, mask):
    """As `_through_conv`, for a 1x1 convolution."""
    if not by_product(data):
        return _through_conv(gradient, data, weight, mask, dilation=pointwise_dilation(data))
    rows, matrix = as_rows(gradient), weight.flatten(1)
    grad_data = as_map(rows @ matrix, data) if mask[0] else None
    grad_weight = (rows.T @ as_rows(data)).view_as(weight) if mask[1] else None
    return grad_data, grad_weight


def _fitted(gradient, tensor):
    """A gradient at the padded width, cut to the tensor's size, dtype and strides.

    Torch would copy a gradient with other strides, or a view into a larger tensor, again.
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
