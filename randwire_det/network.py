"""From a spec to torch: the trunk (conv1..conv5), and the ImageNet classifier around it.

There is one trunk. The classifier here and the detectron2 backbone are thin wrappers around it
that both call it `trunk`, so that the weights of one are the weights of the other by name.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .complexity import HEAD_CHANNELS
from .errors import UsageError, UserError
from .fusing import Fusable, FusedConv
from .nodes import Node, Norm
from .spec import NetworkSpec
from .stages import ConvStage, RandomStage
from .wiring import Keep

MEMORY = ("standard", "lean")


class RandWire(nn.Module):
    """The trunk: an image to the maps of the stages asked for.

    Args:
        spec: the network.
        out_features: names of the stages to put out, default conv2 and all after it. Stages past
            the last of them are not built.
        norm: makes a normalisation layer for a channel count.
        memory: "standard", or "lean": a training step keeps less than half as much for its
            backward, and computes the rest again there.

    Attributes:
        out_channels, out_strides: by name, for the features put out, in order of depth.

    Raises:
        UserError: a feature that the spec does not have, or none; an unknown memory; and on loading
            a state dict, one that belongs to another spec. Almost every tensor keeps its name and
            shape under any wiring, so the digest of the spec travels in the state dict as the
            buffer `spec_digest`.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        out_features: tuple[str, ...] | list[str] | None = None,
        norm: Norm = nn.BatchNorm2d,
        memory: str = "standard",
    ):
        super().__init__()
        if memory not in MEMORY:
            raise UsageError(f"memory {memory!r}: expected one of {', '.join(MEMORY)}")
        names = spec.stage_names
        wanted = names[1:] if out_features is None else tuple(out_features)
        if not wanted or not set(wanted) <= set(names):
            raise UserError(f"features {list(wanted)}: expected some of {', '.join(names)}")
        self.spec, self.memory = spec, memory
        self.out_channels: dict[str, int] = {}
        self.out_strides: dict[str, int] = {}
        self.stage_names = names[: max(map(names.index, wanted)) + 1]
        channels, stride = 3, 1
        for stage in spec.stages[: len(self.stage_names)]:
            build = ConvStage if stage.dag is None else RandomStage
            self.add_module(stage.name, build(stage, channels, norm))
            channels, stride = stage.channels, stride * stage.stride
            if stage.name in wanted:
                self.out_channels[stage.name], self.out_strides[stage.name] = channels, stride
        self.register_buffer("spec_digest", _digest_tensor(spec))
        self._dropped: tuple[Node, int] | None = None
        self.apply(_initialise)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W), normalised, to {name: (B, channels, ceil(H / stride), ...)}.

        The maps are what the stage's unique output node puts out, before any ReLU.
        """
        # Depthwise convolutions are several times faster in channels-last.
        x = x.contiguous(memory_format=torch.channels_last)
        features = {}
        keep = self._what_to_keep()
        for name in self.stage_names:
            x = getattr(self, name)(x, *keep.get(name, ()))
            if name in self.out_channels:
                features[name] = x[:, : self.out_channels[name]]
        return features

    def _what_to_keep(self) -> dict[str, tuple[Keep]]:
        """For every random stage, an argument more than its input."""
        stages = {name: getattr(self, name) for name in self.stage_names}
        stages = {name: each for name, each in stages.items() if isinstance(each, RandomStage)}
        if self.memory == "standard":
            # The late stages' maps are small: one more of each node costs little memory.
            late = {name: (Keep.CONVOLUTIONS,) for name in stages if name in ("conv4", "conv5")}
            return dict.fromkeys(stages, (Keep.SUMS_AND_MAPS,)) | late
        keep = dict.fromkeys(stages, (Keep.MAPS,))
        # The backward comes to the first one when it has let go of the others.
        first = next((name for name, stage in stages.items() if stage.is_trained()), None)
        return keep | {first: (Keep.NOTHING,)}

    def fuse(self, dtype: torch.dtype | None = None) -> "RandWire":
        """Make inference faster: BN becomes part of the convolutions.

        Used under torch.no_grad() and torch.inference_mode(), until `train()` or another state
        dict. Parameters and state dict stay as they are; the folded weights take as much memory
        again.

        Args:
            dtype: to compute in and to put the maps out in, torch.bfloat16 say; by default the
                weights' own.

        Returns:
            this trunk.

        Raises:
            UserError: in training mode, a normalisation that cannot be folded, a dtype that is no
                float; nothing is fused then.
        """
        if dtype is not None and not dtype.is_floating_point:
            raise UsageError(f"fuse({dtype}): expected a floating dtype, torch.bfloat16 say")
        stages = [getattr(self, name) for name in self.stage_names]
        try:
            for stage in stages:
                stage.fuse(dtype)
        except UserError:
            for stage in stages:
                stage.fused = None
            raise
        return self

    def droppable_edges(self) -> list[tuple[str, int, int]]:
        """The edges whose target has other inputs, too: (source, target) nodes of a stage.

        Returns:
            (stage, source, target) of each, in the order of the spec.
        """
        return [
            (stage.name, source, target)
            for stage in self.spec.stages[: len(self.stage_names)]
            if stage.dag is not None
            for target, sources in enumerate(stage.dag.predecessors)
            if len(sources) > 1
            for source in sources
        ]

    def drop_edge(self, edge: tuple[str, int, int] | None) -> None:
        """Leave one edge out of the forwards in training mode, until the next call (section 4.2).

        The other edges keep their weights. In eval mode nothing is left out.

        Args:
            edge: one of `droppable_edges()`; None leaves none out.

        Raises:
            UserError: no such edge, or the only one into its target.
        """
        if edge is not None and edge not in self.droppable_edges():
            raise UserError(f"edge {edge}: expected one of droppable_edges()")
        if self._dropped is not None:
            node, position = self._dropped
            node.edge_mask[position] = 1
            self._dropped = None
        if edge is not None:
            name, source, target = edge
            stage = getattr(self, name)
            node, position = stage.nodes[target], stage.dag.predecessors[target].index(source)
            node.edge_mask[position] = 0
            self._dropped = node, position

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        theirs = state_dict.get(prefix + "spec_digest")
        # Compared as numbers: whoever averages or shrinks weights may have cast this tensor, too.
        if theirs is not None and theirs.tolist() != _digest_tensor(self.spec).tolist():
            theirs = "".join(f"{int(byte):02x}" for byte in theirs.flatten().tolist())
            raise UserError(
                f"these weights belong to another network (spec digest {theirs[:12]}); this one is"
                f" {self.spec.describe()}. Build the network from the spec of the weights."
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class RandWireClassifier(nn.Module):
    """The trunk and Table 1's head: ReLU - 1x1 conv - BN - ReLU, average pool, dropout, fc.

    Args:
        spec: the network.
        num_classes: outputs of fc.
        head_channels: of the 1x1 convolution, 1280 in the paper.
        dropout: chance of dropping an input of fc; the paper's regular regime takes 0.2.
        norm: makes a normalisation layer for a channel count.
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
        """See `RandWire.fuse`; fc, and so the logits, keep their own dtype."""
        self.trunk.fuse(dtype)
        self.head.fuse(dtype)
        return self


class Head(Fusable):
    """The classifier's head, the only part of a classifier that a detector leaves out."""

    def __init__(self, in_channels, head_channels, num_classes, dropout, norm):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, head_channels, 1, bias=False)
        self.norm = norm(head_channels)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(head_channels, num_classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        if self.runs_fused:
            x = F.relu(self.fused(x)).mean((2, 3)).to(self.fc.weight.dtype)
            return self.fc(x)
        x = F.relu(self.norm(self.conv(x)))
        return self.fc(self.dropout(x.mean((2, 3))))

    def fuse(self, dtype: torch.dtype | None) -> None:
        """See `RandWire.fuse`."""
        self.fused = FusedConv(self.conv, self.norm, dtype)


def _initialise(module: nn.Module):
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def _digest_tensor(spec: NetworkSpec) -> Tensor:
    return torch.tensor(list(bytes.fromhex(spec.digest)), dtype=torch.uint8)
