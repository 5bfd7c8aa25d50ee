"""The stages of a trunk (Table 1): a single convolution, or a random wiring of nodes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fusing import Fusable, Fused, FusedConv
from .nodes import Node, Norm
from .spec import StageSpec
from .wiring import Keep, NodeTensors, Plan, run
from .wiring_backward import RandomWiring

PART_BYTES = 3_000_000  # of one map; half and twice as much do about as well


class ConvStage(Fusable):
    """A single convolution as a stage: Conv-BN for conv1, ReLU-Conv-BN after it (Table 1)."""

    def __init__(self, stage: StageSpec, in_channels: int, norm: Norm):
        super().__init__()
        self.relu = nn.Identity() if stage.name == "conv1" else nn.ReLU()
        self.conv = nn.Conv2d(in_channels, stage.channels, 3, stage.stride, padding=1, bias=False)
        self.norm = norm(stage.channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.runs_fused:
            return self.fused(self.relu(x))
        return self.norm(self.conv(self.relu(x)))

    def fuse(self, dtype: torch.dtype | None) -> None:
        """See `RandWire.fuse`."""
        self.fused = FusedConv(self.conv, self.norm, dtype)


class RandomStage(Fusable):
    """A random wiring as a stage; the unique input and output node do no convolution.

    Attributes:
        width: of the maps inside, and of those put out: channels past the stage's own are zero.
    """

    def __init__(self, stage: StageSpec, in_channels: int, norm: Norm):
        super().__init__()
        self.dag, self.stride = stage.dag, stage.stride
        self.in_channels, self.width = in_channels, padded_width(stage.channels)
        self.nodes = nn.ModuleList(
            Node(stage.channels, stage.channels, len(sources), 1, norm)
            if sources
            else Node(in_channels, stage.channels, 1, stage.stride, norm)
            for sources in stage.dag.predecessors
        )

    def forward(self, x: Tensor, keep: Keep = Keep.SUMS_AND_MAPS) -> Tensor:
        """A stage's input to its output.

        Args:
            x: (B, in_channels or, padded with zeros, more, H, W).
            keep: what is kept for the backward; the fewer, the more is computed twice.

        Returns:
            (B, channels or, padded with zeros, `width`, ceil(H / stride), ...).
        """
        if self.runs_fused:
            tensors = [node.tensors() for node in self.fused]
            x = _padded(x, padded_width(self.in_channels)).to(tensors[0].depthwise.dtype)
            return self._by_parts(x, tensors)
        # Whether autograd will ask for a gradient.
        recording = torch.is_grad_enabled() and (x.requires_grad or self.is_trained())
        if recording and torch.compiler.is_compiling() and x.device.type == "cpu":
            return self._uncompiled(x, keep)
        # A tracer looks for plain operations, and differentiates them itself.
        traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if (recording and (traced or not len(x))) or not self._is_plain():
            return self.node_by_node(x[:, : self.in_channels])
        dtype, device = x.dtype, x.device.type
        if torch.is_autocast_enabled(device) and dtype != torch.float64:  # as torch's own does
            dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return self._at_once(x.to(dtype), keep if recording else None)

    @torch._disable_dynamo  # what torch.optim uses; torch.compiler.disable takes a second to import
    def _uncompiled(self, x: Tensor, keep: Keep) -> Tensor:
        """`forward` as it is in a training step of torch.compile on the CPU.

        What its compiler makes of a stage there takes minutes to make, and is slower.
        """
        return self(x, keep)

    def _is_plain(self) -> bool:
        """Whether `wiring.run` knows all there is in the nodes."""
        plain = all(node.is_plain() for node in self.nodes)
        return plain and len({node.norm.eps for node in self.nodes}) == 1

    def is_trained(self) -> bool:
        return any(each.requires_grad for each in self.parameters())

    def node_by_node(self, x: Tensor) -> Tensor:
        """Section 3.2 as it is written."""
        maps = []
        for node, sources in zip(self.nodes, self.dag.predecessors, strict=True):
            maps.append(node([maps[source] for source in sources] or [x]))
        outputs = [maps[node] for node in self.dag.output_nodes]
        return sum(outputs[1:], start=outputs[0]) / len(outputs)

    def _at_once(self, x: Tensor, keep: Keep | None) -> Tensor:
        """The same by `wiring.run`; without `keep` nothing is recorded for a backward."""
        tensors = [node.tensors() for node in self.nodes]
        if keep is None and not any(node.takes_batch_statistics for node in self.nodes):
            return self._by_parts(x, tensors)
        if keep is None:
            output, _, affines = run(self._plan(), x, tensors)
        else:
            affines = []
            flat = [each for node in tensors for each in node]
            output = RandomWiring.apply(self._plan(), keep, affines, x, *flat)
        for node, affine in zip(self.nodes, affines, strict=True):
            node.record_statistics(affine)
        return output

    def _by_parts(self, x: Tensor, tensors: list[NodeTensors]) -> Tensor:
        """Inference of a few images after another, so that a stage's maps stay in a CPU's caches.

        What is let go of is then small enough, too, for the next map to take its place: the system
        would clear memory anew for a large one, which costs as much as a depthwise convolution.
        """
        plan, parts = self._plan(), 1
        if x.device.type == "cpu" and not torch.jit.is_tracing():
            map_bytes = self.width * x[:, 0].numel() // self.stride**2 * x.element_size()
            parts = min(len(x), -(-map_bytes // PART_BYTES))
        if parts <= 1:
            return run(plan, x, tensors)[0]
        return torch.cat([run(plan, part, tensors)[0] for part in x.chunk(parts)])

    def _plan(self) -> Plan:
        return Plan(self.dag, self.stride, self.width, self.nodes[0].norm.eps)

    def fuse(self, dtype: torch.dtype | None) -> None:
        """See `RandWire.fuse`."""
        in_width = padded_width(self.in_channels)
        fused = []
        for node, sources in zip(self.nodes, self.dag.predecessors, strict=True):
            folded = node.folded(dtype)
            folded = folded.at(self.width if sources else in_width, self.width, folded.beta.dtype)
            fused.append(FusedNode(**folded._asdict()))
        self.fused = nn.ModuleList(fused)


class FusedNode(Fused):
    """The tensors of a node, BN in its 1x1 convolution."""

    def tensors(self) -> NodeTensors:
        return NodeTensors(*(getattr(self, name) for name in NodeTensors._fields))


def padded_width(channels: int) -> int:
    """The next multiple of 16, which the hardware likes, where it costs at most 4 % more.

    Past 512 a multiple of 8 does as well, and a copy of the weights takes as much as it saves.
    """
    wider = -(-channels // 16) * 16
    return wider if channels <= 512 and wider <= 1.04 * channels else channels


def _padded(x: Tensor, width: int) -> Tensor:
    return x if x.shape[1] == width else F.pad(x, (0, 0, 0, 0, 0, width - x.shape[1]))
