"""The stages of a trunk (Table 1): a single convolution, or a random wiring of nodes."""

from enum import Enum, auto
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..spec.order import best_order
from ..spec.spec import CONV3X3, NetworkSpec, StageSpec
from .as_built import (
    classes_are_as_imported,
    conv_configuration,
    is_exported,
    is_plain_conv,
    is_plain_norm,
    is_traced,
    is_transformed,
)
from .fusing import Foldable, FoldedConv, FoldedTensors
from .nodes import Node, Norm, node_class_is_as_imported, record_statistics
from .operations import OPERATIONS
from .wiring import Keep, NodeTensors, Plan, infer, run
from .wiring_backward import RandomWiring


class Sampling(NamedTuple):
    """At which pixels a stage computes.

    Attributes:
        stride: of the convolutions right after the stage's input.
        input_dilation, dilation: of these, and of the others.
    """

    stride: int
    input_dilation: int = 1
    dilation: int = 1


def samplings(spec: NetworkSpec, output_stride: int) -> list[Sampling]:
    """Those of each stage of a trunk whose maps shrink no further than to 1 / `output_stride`.

    A stage that would go further keeps the resolution, and what is computed after its stride takes
    pixels that are further apart instead: every second or fourth pixel of its output is what the
    stage would put out with its stride.
    """
    found, stride, dilation = [], 1, 1
    for stage in spec.stages:
        before, own = dilation, stage.stride
        if stride * own > output_stride:
            own, dilation = 1, dilation * own
        stride *= own
        found.append(Sampling(own, before, dilation))
    return found


class ConvStage(Foldable):
    """A single convolution as a stage: Conv-BN for conv1, ReLU-Conv-BN after it (Table 1)."""

    def __init__(self, stage: StageSpec, in_channels: int, norm: Norm, sampling: Sampling):
        super().__init__()
        self.relu = nn.Identity() if stage.name == "conv1" else nn.ReLU()
        layers = OPERATIONS[CONV3X3](in_channels, stage.channels, *sampling[:2])
        self.conv = layers["conv"]
        self.norm = norm(stage.channels)
        self.built = conv_configuration(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, channels, ceil(H / stride), ceil(W / stride))."""
        return self.norm(self.conv(self.relu(x)))

    def is_plain(self) -> bool:
        return is_plain_conv(self.conv, self.built) and is_plain_norm(self.norm)

    def folded(self, dtype: torch.dtype | None) -> "ConvStage":
        self.conv, self.norm = FoldedConv(self.conv, self.norm, dtype), nn.Identity()
        return self


class Way(Enum):
    """How a random stage is computed; all give the same result. `RandomStage.way` chooses."""

    NODE_BY_NODE = auto()  # section 3.2 literally, by the nodes' modules
    INFER = auto()  # `wiring.infer`: no batch statistics, no gradients
    PLAIN = auto()  # `wiring.run`: as INFER, but plain operations for a tracer
    BATCH = auto()  # `wiring.run`: batch statistics, no gradients
    LEARN = auto()  # `wiring_backward.RandomWiring`: with its own backward
    LEAVE_OUT = auto()  # excluded from a compiled training step, runs eagerly


class RandomStage(Foldable):
    """A random wiring as a stage; the unique input and output node have no convolution."""

    def __init__(self, stage: StageSpec, in_channels: int, norm: Norm, sampling: Sampling):
        super().__init__()
        self.dag, self.in_channels, self.channels = stage.dag, in_channels, stage.channels
        self.sampling = sampling
        stride, input_dilation, dilation = sampling
        # At once, and not when first asked for: torch.compile cannot trace the search.
        self.order = best_order(stage.dag, in_channels * stride**2 / stage.channels)
        widths = stage.channels, stage.channels
        self.nodes = nn.ModuleList(
            Node(stage.op, *widths, len(sources), 1, norm, dilation)
            if sources
            else Node(stage.op, in_channels, stage.channels, 1, stride, norm, input_dilation)
            for sources in stage.dag.predecessors
        )

    def forward(
        self, x: Tensor, keep: Keep = Keep.SUMS_AND_MAPS, edge_mask: Tensor | None = None
    ) -> Tensor:
        """A stage's input to its output.

        Args:
            x: (B, in_channels, H, W).
            keep: the maps saved for the backward; saving fewer means recomputing more.
            edge_mask: (edges into nodes with more than one input,), by target, then source; 0 for
                an edge that is dropped in training mode, else 1.

        Returns:
            (B, channels, ceil(H / stride), ceil(W / stride)).
        """
        way = self.way(x)
        if way is Way.LEAVE_OUT:
            return self._left_out(x, keep, edge_mask)
        if way is Way.NODE_BY_NODE:
            return self.node_by_node(x, edge_mask)
        with torch.autocast(x.device.type, enabled=False):
            return self._at_once(way, x.to(_autocast_dtype(x)), keep, edge_mask)

    def way(self, x: Tensor) -> Way:
        """How to compute the stage for this input, given the modules and torch's current state."""
        # torch.fx can trace the nodes' modules only; autocast does not support meta tensors.
        if isinstance(x, torch.fx.Proxy) or x.is_meta or not self.is_plain():
            return Way.NODE_BY_NODE
        # Whether autograd records this forward.
        recording = torch.is_grad_enabled() and (x.requires_grad or self.is_trained())
        by_batch = any(node.takes_batch_statistics for node in self.nodes)
        if is_traced():
            # The same operations with and without gradients: torch.jit.trace compares the two.
            if is_exported() or torch.jit.is_tracing():
                return Way.NODE_BY_NODE if by_batch else Way.PLAIN
            if recording:  # on CPUs compiling a stage takes minutes and makes it slower
                return Way.LEAVE_OUT if x.device.type == "cpu" else Way.NODE_BY_NODE
        # The fast paths do not support torch.func's transforms or statistics of an empty batch.
        elif is_transformed() or (len(x) == 0 and (recording or by_batch)):
            return Way.NODE_BY_NODE
        if recording:
            return Way.LEARN
        return Way.BATCH if by_batch else Way.INFER

    @torch._disable_dynamo  # as in torch.optim; torch.compiler.disable takes a second to import
    def _left_out(self, x: Tensor, keep: Keep, edge_mask: Tensor | None) -> Tensor:
        return self(x, keep, edge_mask)

    def is_plain(self) -> bool:
        """Whether `wiring.run` implements everything in the nodes."""
        plain = (
            classes_are_as_imported()
            and node_class_is_as_imported()
            and type(self).node_by_node is _NODE_BY_NODE
            and "node_by_node" not in self.__dict__
            and all(type(node) is Node and node.is_plain() for node in self.nodes)
        )
        return plain and len({node.norm.eps for node in self.nodes}) == 1

    def is_trained(self) -> bool:
        """Whether any weight of a plain stage requires a gradient."""
        learned = (each for node in self.nodes for each in node.learned())
        return any(each.requires_grad for each in learned)

    def _masks(self, edge_mask: Tensor | None) -> list[Tensor | None]:
        """Split the stage's edge mask into one per node."""
        if edge_mask is None:
            return [None] * len(self.nodes)
        counts = [len(sources) for sources in self.dag.predecessors]
        return list(edge_mask.split([count if count > 1 else 0 for count in counts]))

    def node_by_node(self, x: Tensor, edge_mask: Tensor | None = None) -> Tensor:
        """Section 3.2 literally, one node after the other."""
        maps = self.node_maps(x, edge_mask)
        outputs = [maps[node] for node in self.dag.output_nodes]
        return sum(outputs[1:], start=outputs[0]) / len(outputs)

    def node_maps(self, x: Tensor, edge_mask: Tensor | None = None) -> list[Tensor]:
        """The output of every node, each (B, channels, ceil(H / stride), ceil(W / stride))."""
        maps = []
        masks = self._masks(edge_mask)
        for node, sources, mask in zip(self.nodes, self.dag.predecessors, masks, strict=True):
            inputs = [maps[source] for source in sources] or [x]
            # A module that replaces a node need not accept a mask.
            maps.append(node(inputs) if mask is None else node(inputs, mask))
        return maps

    def _at_once(self, way: Way, x: Tensor, keep: Keep, edge_mask: Tensor | None) -> Tensor:
        """The same, by the functions of `wiring` and `wiring_backward`."""
        plan = self.plan()
        weights = self._edge_weights(edge_mask)
        tensors = [node.tensors(each) for node, each in zip(self.nodes, weights, strict=True)]
        if way is Way.INFER:
            return infer(plan, x, tensors)
        if way is Way.LEARN:
            affines = []
            flat = [each for node in tensors for each in node]
            output = RandomWiring.apply(plan, keep, affines, x, *flat)
        else:
            output, _, affines = run(plan, x, tensors)
        record_statistics(self.nodes, affines)
        return output

    def _edge_weights(self, edge_mask: Tensor | None) -> list[Tensor | None]:
        """Of every plain node; without a mask by one sigmoid for all of them."""
        if edge_mask is not None:
            masks = self._masks(edge_mask)
            return [node.edge_weights(each) for node, each in zip(self.nodes, masks, strict=True)]
        logits = [getattr(node, "edge_logits", None) for node in self.nodes]
        given = [each for each in logits if each is not None]
        if not given:
            return logits
        weights = iter(torch.cat(given).sigmoid().split([len(each) for each in given]))
        return [each if each is None else next(weights) for each in logits]

    def plan(self) -> Plan:
        """The plan of a plain stage."""
        stride, *dilations = self.sampling
        widths = (self.in_channels, self.channels)
        return Plan(self.dag, self.order, stride, tuple(dilations), *widths, self.nodes[0].norm.eps)

    def folded(self, dtype: torch.dtype | None) -> "FoldedStage":
        return FoldedStage(self, dtype)


_NODE_BY_NODE = RandomStage.node_by_node


class FoldedStage(nn.Module):
    """A random wiring for inference, with BN folded into the 1x1 convolutions; see `fuse`."""

    def __init__(self, stage: RandomStage, dtype: torch.dtype | None):
        super().__init__()
        self.plan = stage.plan()
        nodes = []
        for index, node in enumerate(stage.nodes):
            folded = node.folded(dtype)
            widths = self.plan.widths_of(index)
            nodes.append(FoldedTensors(**folded.at(*widths, folded.beta.dtype)._asdict()))
        self.nodes = nn.ModuleList(nodes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, channels, ceil(H / stride), ceil(W / stride))."""
        if isinstance(x, torch.fx.Proxy):  # a leaf module: the code below compares shapes
            path = x.tracer.path_of_module(self)
            return x.tracer.create_proxy("call_module", path, (x,), {})
        tensors = [
            NodeTensors(*(getattr(node, name) for name in NodeTensors._fields))
            for node in self.nodes
        ]
        x = x.to(tensors[0].beta.dtype)
        if x.is_meta:  # not supported by autocast
            return run(self.plan, x, tensors)[0]
        x = x.to(_autocast_dtype(x))
        with torch.autocast(x.device.type, enabled=False):
            if torch.is_grad_enabled() or is_exported() or torch.jit.is_tracing():
                return run(self.plan, x, tensors)[0]
            return infer(self.plan, x, tensors)


def _autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype that a convolution of x computes in; autocast does not cast doubles."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return x.dtype
