"""What one node does (section 3.2, Figure 2): aggregate, then ReLU - convolution - BN."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fusing import fold, has_plain_norm
from .wiring import Affine, NodeTensors

Norm = Callable[[int], nn.Module]  # channels -> a normalisation layer


class Node(nn.Module):
    """Weighted sum with positive weights -> ReLU -> 3x3 separable convolution -> BN.

    A node with one input has no weight: a positive scale there is absorbed by the BN that follows.

    Args:
        in_channels: of every input.
        channels: of the output.
        num_inputs: input degree; the unique input node counts as one.
        stride: of the 3x3 convolution; 2 for the nodes right after a stage's input.
        norm: makes the normalisation layer.
    """

    def __init__(self, in_channels: int, channels: int, num_inputs: int, stride: int, norm: Norm):
        super().__init__()
        if num_inputs > 1:
            # w = sigmoid(logit) is positive (footnote 4); zero starts every edge at one half.
            self.edge_logits = nn.Parameter(torch.zeros(num_inputs))
            # 0 for an edge that a training step leaves out (RandWire.drop_edge). A factor, so that
            # every weight stays in the graph: DDP waits for the gradient of each.
            self.register_buffer("edge_mask", torch.ones(num_inputs), persistent=False)
        # Separable as in Xception (footnote 6): nothing stands between the two convolutions.
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm = norm(channels)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """`num_inputs` maps (B, in_channels, H, W) to one (B, channels, H/stride, W/stride)."""
        return self.norm(self.pointwise(self.depthwise(F.relu(self.aggregate(inputs)))))

    def aggregate(self, inputs: Sequence[Tensor]) -> Tensor:
        """The weighted sum of all inputs, as one map."""
        weights = self.edge_weights()
        if weights is None:
            return inputs[0]
        total = inputs[0] * weights[0]
        for data, weight in zip(inputs[1:], weights[1:], strict=True):
            total = torch.addcmul(total, data, weight)
        return total

    def edge_weights(self) -> Tensor | None:
        """(num_inputs,), positive but for the edge that is left out; None for a single input."""
        if not hasattr(self, "edge_logits"):
            return None
        weights = self.edge_logits.sigmoid()
        # A copy, as another edge may be left out before the backward of this forward.
        return weights * self.edge_mask.clone() if self.training else weights

    # --- for `wiring.run`, which computes a whole stage by the same tensors

    @property
    def takes_batch_statistics(self) -> bool:
        return type(self.norm) is nn.BatchNorm2d and self.norm.training

    def is_plain(self) -> bool:
        """Whether the node is still what it was built as, with a BN that `wiring.run` knows."""
        convolutions = type(self.depthwise) is nn.Conv2d and type(self.pointwise) is nn.Conv2d
        parts = (self, self.depthwise, self.pointwise, self.norm)
        return has_plain_norm(self.norm) and convolutions and not any(map(_has_hooks, parts))

    def tensors(self) -> NodeTensors:
        """What the node computes with."""
        norm, statistics = self.norm, (None, None)
        if not self.takes_batch_statistics:
            statistics = norm.running_mean, norm.running_var
        return NodeTensors(
            self.edge_weights(),
            self.depthwise.weight,
            self.pointwise.weight,
            *(norm.weight, norm.bias),
            *statistics,
        )

    @torch.no_grad()
    def folded(self, dtype: torch.dtype | None) -> NodeTensors:
        """As `tensors`, of a node in eval mode, with BN in the 1x1 convolution.

        Args:
            dtype: of all but the edges' weights; by default their own.
        """
        pointwise, bias = fold(self.pointwise.weight, self.norm, dtype)
        depthwise = self.depthwise.weight.to(pointwise.dtype)
        edges = self.edge_logits.sigmoid() if hasattr(self, "edge_logits") else None
        return NodeTensors(edges, depthwise, pointwise, None, bias, None, None)

    @torch.no_grad()
    def record_statistics(self, affine: Affine) -> None:
        """Take the batch's mean and variance into BN's running ones, as BN itself does."""
        norm = self.norm
        if affine.unbiased_var is None:
            return
        norm.num_batches_tracked += 1
        momentum = norm.momentum
        if momentum is None:  # BN's way of saying: the mean of all batches
            momentum = 1 / norm.num_batches_tracked.to(norm.running_mean.dtype)
        for running, of_batch in (
            (norm.running_mean, affine.mean),
            (norm.running_var, affine.unbiased_var),
        ):
            running.lerp_(of_batch[: len(running)].to(running.dtype), momentum)


def _has_hooks(module: nn.Module) -> bool:
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return any(hooks)
