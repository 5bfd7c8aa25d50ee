"""What one node does (section 3.2, Figure 2): aggregate, then ReLU - convolution - BN."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        if len(inputs) == 1:
            return inputs[0]
        weights = self.edge_logits.sigmoid()
        if self.training:
            weights = weights * self.edge_mask
        total = inputs[0] * weights[0]
        for data, weight in zip(inputs[1:], weights[1:], strict=True):
            total = torch.addcmul(total, data, weight)
        return total
