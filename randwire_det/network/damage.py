"""Graph damage (Figure 5): one node or one edge is removed from a trained trunk.

What is removed contributes nothing, and everything else stays as trained: no other edge weight
changes, and no weighted sum is rescaled. In particular

  - the edges of a removed node are removed with it, and the stage's output is the average over the
    output nodes that are left: the removed one neither counts nor adds;
  - a node that loses its last input receives a map of zeros, so that it puts out the constant that
    BN makes of zeros; it does not become an input node;
  - a node that loses its last reader does not become an output node;
  - a stage whose only output node is removed puts out zeros.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageError
from ..spec.spec import NetworkSpec
from .stages import RandomStage
from .trunk import RandWire


@dataclass(frozen=True)
class Removal:
    """A node or an edge to remove from a random stage.

    Attributes:
        stage: "conv3", ...
        part: the index of a node, or an edge as (source, target).
        degree: what Figure 5 plots the loss against: the output degree of a node, the input degree
            of an edge's target. The edges to and from the stage's unique output and input node do
            not count, so that output nodes have degree 0.
    """

    stage: str
    part: int | tuple[int, int]
    degree: int

    @property
    def kind(self) -> str:
        """ "node" or "edge"."""
        return "node" if isinstance(self.part, int) else "edge"


def removals(spec: NetworkSpec) -> list[Removal]:
    """Every node of every random stage, then every edge, in the order of the spec."""
    wirings = [(stage.name, stage.dag) for stage in spec.stages if stage.dag is not None]
    nodes = [
        Removal(name, node, sum(source == node for source, _ in dag.edges))
        for name, dag in wirings
        for node in range(dag.num_nodes)
    ]
    return nodes + [
        Removal(name, edge, len(dag.predecessors[edge[1]]))
        for name, dag in wirings
        for edge in dag.edges
    ]


@torch.no_grad()
def damaged(trunk: RandWire, x: Tensor, removed: Sequence[Removal]) -> Iterator[dict[str, Tensor]]:
    """The outputs of a trunk in eval mode, intact, then after each removal alone.

    The trunk does not change. Maps that a removal leaves as they are, are computed once: all stages
    before it, and the nodes of its stage that do not depend on what is removed. Memory holds the
    node maps of one stage, so `removed` should be sorted by stage.

    Args:
        x: (B, 3, H, W), normalised.

    Yields:
        {name: (B, channels, ...)} as `RandWire.forward`, 1 + len(removed) times.

    Raises:
        UsageError: the trunk is in training mode, where BN takes the statistics of the batch.
    """
    if trunk.training:
        raise UsageError("graph damage is of a trained network; call eval() first")
    x = x.contiguous(memory_format=torch.channels_last)
    names, received, sent = trunk.stage_names, {}, {}
    for name in names:
        received[name] = x
        sent[name] = x = getattr(trunk, name)(x)
    yield {name: sent[name] for name in trunk.out_channels}
    prepared = maps = None
    for removal in removed:
        stage = getattr(trunk, removal.stage)
        if prepared != removal.stage:
            maps = stage.node_maps(received[removal.stage])
            prepared = removal.stage
        outputs = dict(sent)
        outputs[removal.stage] = x = _without(removal.part, stage, maps)
        for name in names[names.index(removal.stage) + 1 :]:
            outputs[name] = x = getattr(trunk, name)(x)
        yield {name: outputs[name] for name in trunk.out_channels}


def _without(part: int | tuple[int, int], stage: RandomStage, maps: list[Tensor]) -> Tensor:
    """The output of a stage without a node or an edge, given the maps of its intact nodes."""
    nothing = torch.zeros_like(maps[0])
    # The nodes that put out another map than before.
    changed = {part: nothing} if isinstance(part, int) else {}
    for target, sources in enumerate(stage.dag.predecessors):
        gone = [source for source in sources if (source, target) == part]
        if target == part or not (gone or changed.keys() & set(sources)):
            continue
        inputs = [
            nothing if source in gone else changed.get(source, maps[source]) for source in sources
        ]
        changed[target] = stage.nodes[target](inputs)
    left = [changed.get(node, maps[node]) for node in stage.dag.output_nodes if node != part]
    return sum(left[1:], start=left[0]) / len(left) if left else nothing
