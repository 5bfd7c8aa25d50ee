"""The ImageNet classifier: the trunk, and the head of Table 1 around it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..spec.complexity import HEAD_CHANNELS
from ..spec.spec import NetworkSpec
from .as_built import conv_configuration, is_plain_conv, is_plain_norm, is_untouched
from .fusing import Foldable, FoldedConv, fuse
from .nodes import Norm
from .trunk import RandWire, initialise


class RandWireClassifier(nn.Module):
    """The trunk and Table 1's head: ReLU - 1x1 conv - BN - ReLU, average pool, dropout, fc.

    Args:
        spec: the network.
        num_classes: outputs of fc.
        head_channels: of the 1x1 convolution, 1280 in the paper.
        dropout: probability before fc; 0.2 in the paper's regular regime.
        norm: maps a channel count to a normalisation layer.
        memory: of the trunk, "standard" or "lean".
    """

    def __init__(
        self,
        spec: NetworkSpec,
        num_classes: int = 1000,
        *,
        head_channels: int = HEAD_CHANNELS,
        dropout: float = 0.0,
        norm: Norm = nn.BatchNorm2d,
        memory: str = "standard",
    ):
        super().__init__()
        self.trunk = RandWire(spec, out_features=spec.stage_names[-1:], norm=norm, memory=memory)
        self.head = Head(spec.stages[-1].channels, head_channels, num_classes, dropout, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), normalised, to logits (B, num_classes)."""
        (features,) = self.trunk(x).values()
        return self.head(features)

    def fuse(self, dtype: torch.dtype | None = None) -> "RandWireClassifier":
        """See `fusing.fuse`; fc, and so the logits, keep their own dtype."""
        return fuse(self, dtype)


class Head(Foldable):
    """The classifier's head, the only part of a classifier that a detector does not use."""

    def __init__(self, in_channels, head_channels, num_classes, dropout, norm):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, head_channels, 1, bias=False)
        self.norm = norm(head_channels)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(head_channels, num_classes)
        self.built = conv_configuration(self.conv)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to logits (B, num_classes)."""
        x = F.relu(self.norm(self.conv(F.relu(x))))
        x = x.mean((2, 3)).to(self.fc.weight.dtype)  # a fused trunk may have another dtype
        return self.fc(self.dropout(x))

    def is_plain(self) -> bool:
        return is_plain_conv(self.conv, self.built) and is_plain_norm(self.norm)

    def folded(self, dtype: torch.dtype | None) -> "Head":
        self.conv, self.norm = FoldedConv(self.conv, self.norm, dtype), nn.Identity()
        if type(self.dropout) is nn.Dropout and is_untouched(self.dropout):
            self.dropout = nn.Identity()
        return self
