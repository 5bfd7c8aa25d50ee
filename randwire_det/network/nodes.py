"""A node (section 3.2, Figure 2): weighted sum, then ReLU - convolution - BN."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..spec.spec import SEP_CONV3X3
from .as_built import conv_configuration, is_plain_conv, is_plain_norm, is_untouched
from .fusing import fold
from .operations import OPERATIONS
from .wiring import Affine, NodeTensors

Norm = Callable[[int], nn.Module]  # channels -> a normalisation layer


class Node(nn.Module):
    """Weighted sum with positive weights -> ReLU -> the stage's operation -> BN.

    A node with one input has no weight: BN would absorb a positive scale.

    Args:
        op: a name in `operations.OPERATIONS`.
        in_channels: of every input.
        channels: of the output.
        num_inputs: input degree; the unique input node counts as one.
        stride: of the operation; 2 for the nodes right after a stage's input.
        norm: maps a channel count to a normalisation layer.
        dilation: of the operation.
    """

    def __init__(
        self,
        op: str,
        in_channels: int,
        channels: int,
        num_inputs: int,
        stride: int,
        norm: Norm,
        dilation: int = 1,
    ):
        super().__init__()
        if num_inputs > 1:
            # w = sigmoid(logit) is positive (footnote 4); zero initializes every weight to 0.5.
            self.edge_logits = nn.Parameter(torch.zeros(num_inputs))
        self.op = op
        layers = OPERATIONS[op](in_channels, channels, stride, dilation)
        self.layer_names = tuple(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.norm = norm(channels)
        if op == SEP_CONV3X3:  # the only one that `wiring.run` implements
            self.built = tuple(conv_configuration(layer) for layer in layers.values())

    def forward(self, inputs: Sequence[Tensor], edge_mask: Tensor | None = None) -> Tensor:
        """`num_inputs` maps (B, in_channels, H, W) to one (B, channels, H/stride, W/stride).

        Args:
            edge_mask: (num_inputs,), 0 for an edge that is dropped in training mode, else 1.
        """
        x = F.relu(self.aggregate(inputs, edge_mask))
        for name in self.layer_names:
            x = getattr(self, name)(x)
        return self.norm(x)

    def aggregate(self, inputs: Sequence[Tensor], edge_mask: Tensor | None = None) -> Tensor:
        """The weighted sum of all inputs, as one map."""
        weights = self.edge_weights(edge_mask)
        if weights is None:
            return inputs[0]
        total = inputs[0] * weights[0]
        for position in range(1, len(inputs)):  # indexing, not iteration: torch.fx can trace it
            total = torch.addcmul(total, inputs[position], weights[position])
        return total

    def edge_weights(self, edge_mask: Tensor | None = None) -> Tensor | None:
        """(num_inputs,), positive except for a dropped edge; None for a single input."""
        if not hasattr(self, "edge_logits"):
            return None
        weights = self.edge_logits.sigmoid()
        if edge_mask is None or not self.training:
            return weights
        # A factor keeps every weight in the graph: DDP waits for the gradient of each.
        return weights * edge_mask.to(weights.dtype)

    # --- for `wiring.run`, which computes a whole stage with the same tensors

    @property
    def takes_batch_statistics(self) -> bool:
        return type(self.norm) is nn.BatchNorm2d and self.norm.training

    def is_plain(self) -> bool:
        """Whether the node is still as built and `wiring.run` implements all of it."""
        return (
            self.op == SEP_CONV3X3
            and is_untouched(self, ("forward", "aggregate", "edge_weights", "_call_impl"))
            and is_plain_conv(self.depthwise, self.built[0])
            and is_plain_conv(self.pointwise, self.built[1])
            and is_plain_norm(self.norm)
        )

    def learned(self) -> list[Tensor]:
        """The trained tensors of a plain node. DataParallel and FSDP replace parameters by plain
        attributes, which `parameters()` does not list."""
        edges = [self.edge_logits] if hasattr(self, "edge_logits") else []
        norm = self.norm
        return [*edges, self.depthwise.weight, self.pointwise.weight, norm.weight, norm.bias]

    def tensors(self, edge_weights: Tensor | None) -> NodeTensors:
        """The tensors that the node computes with, `edge_weights` among them."""
        norm, statistics = self.norm, (None, None)
        if not self.takes_batch_statistics:
            statistics = norm.running_mean, norm.running_var
        return NodeTensors(
            edge_weights,
            self.depthwise.weight,
            self.pointwise.weight,
            *(norm.weight, norm.bias),
            *statistics,
        )

    @torch.no_grad()
    def folded(self, dtype: torch.dtype | None) -> NodeTensors:
        """As `tensors`, for a plain node in eval mode, with BN folded into the 1x1 convolution.

        Args:
            dtype: of all tensors but the edge weights; unchanged by default.
        """
        pointwise, bias = fold(self.pointwise.weight, self.norm, dtype)
        depthwise = self.depthwise.weight.to(pointwise.dtype, copy=True)
        return NodeTensors(self.edge_weights(), depthwise, pointwise, None, bias, None, None)


@torch.no_grad()
def record_statistics(nodes: Iterable[Node], affines: Iterable[Affine | None]) -> None:
    """Update BN's running statistics with those of the batch, as BN itself does.

    A few calls do it for all nodes, as each call costs more than what it computes.
    """
    counters, pairs = [], defaultdict(list)  # pairs of running and batch statistics by momentum
    for node, affine in zip(nodes, affines, strict=True):
        if affine is None or affine.unbiased_var is None:
            continue
        norm, of_batch = node.norm, (affine.mean, affine.unbiased_var)
        counters.append(norm.num_batches_tracked)
        for running, each in zip((norm.running_mean, norm.running_var), of_batch, strict=True):
            each = each[: len(running)].to(running.dtype)
            if norm.momentum is None:  # BN's setting for a cumulative average
                running.lerp_(each, 1 / (norm.num_batches_tracked + 1).to(running.dtype))
            else:
                pairs[norm.momentum].append((running, each))
    if counters:
        torch._foreach_add_(counters, 1)
    for momentum, of_momentum in pairs.items():
        running, of_batch = map(list, zip(*of_momentum, strict=True))
        torch._foreach_lerp_(running, of_batch, momentum)


# The methods at import, to detect a patched `Node.forward`.
_METHODS = (Node.forward, Node.aggregate, Node.edge_weights)


def node_class_is_as_imported() -> bool:
    return (Node.forward, Node.aggregate, Node.edge_weights) == _METHODS
