"""In which order to run the nodes of a wiring: any topological one; the best needs least memory.

Of the orders of a WS(4, 0.75) of 32 nodes, the best needs a tenth less than that of the indices.
Ahn et al. 2020 (SERENITY) search for it by dynamic programming over the sets of nodes that have
run; this is the same search, best first.
"""

import heapq
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from .graphs import Dag

# A search may find so many sets of nodes, in about half a second, before it is given up.
MAX_SETS = 50_000
# Above it, the order of the indices is taken: even a greedy search takes seconds.
MAX_NODES = 256


class Order(NamedTuple):
    """A topological order of the nodes of a wiring.

    Attributes:
        nodes: in the order they run.
        last_read: for every node, by index, those of its inputs that no later node reads.
        last_input: the input node that runs last.
        is_best: whether no other order needs less memory.
    """

    nodes: tuple[int, ...]
    last_read: tuple[tuple[int, ...], ...]
    last_input: int
    is_best: bool


def live_maps(dag: Dag, order: Sequence[int], input_maps: float = 0) -> float:
    """The most maps in memory at once, for nodes run in a topological order.

    A node sums its inputs into a new map, lets go of those that no later node reads, and computes
    two more maps, one from the other (`network.wiring.run`). Maps of output nodes stay to the end,
    where their mean is one map more.

    Args:
        input_maps: what the stage's input counts for, until the last input node has run.
    """
    walk = _Walk(dag, input_maps)
    done, alive, most = 0, float(input_maps), 0.0
    for node in order:
        peak, alive = walk.through(done, alive, node)
        done, most = done | 1 << node, max(most, peak)
    return max(most, alive + 1)


@lru_cache(maxsize=4096)  # the stages of a network mostly share a graph
def best_order(dag: Dag, input_maps: float = 0) -> Order:
    """The topological order with the least `live_maps`, or a good one if the search is too long."""
    by_index = tuple(range(dag.num_nodes))
    if dag.num_nodes > MAX_NODES:
        return order_of(dag, by_index, False)
    found = _search(dag, input_maps)
    if found is not None:
        return order_of(dag, found, True)
    orders = [by_index, _greedy(dag, input_maps)]
    found = min(orders, key=lambda order: live_maps(dag, order, input_maps))
    return order_of(dag, found, False)


def order_of(dag: Dag, nodes: tuple[int, ...], is_best: bool) -> Order:
    """Nodes in a topological order as an `Order`."""
    place = {node: at for at, node in enumerate(nodes)}
    last = dict.fromkeys(nodes, -1)
    for source, target in dag.edges:
        last[source] = max(last[source], place[target])
    last_read = tuple(
        tuple(source for source in sources if last[source] == place[target])
        for target, sources in enumerate(dag.predecessors)
    )
    return Order(nodes, last_read, max(dag.input_nodes, key=place.__getitem__), is_best)


class _Walk:
    """What running a node costs; sets of nodes are bits of a number."""

    def __init__(self, dag: Dag, input_maps: float):
        self.dag, self.input_maps = dag, input_maps
        self.reads = [sum(1 << source for source in sources) for sources in dag.predecessors]
        self.readers = [0] * dag.num_nodes
        self.targets: list[list[int]] = [[] for _ in range(dag.num_nodes)]
        for source, target in dag.edges:
            self.readers[source] |= 1 << target
            self.targets[source].append(target)
        self.inputs = sum(1 << node for node in dag.input_nodes)

    def ready_after(self, ready: Sequence[int], done: int, node: int) -> list[int]:
        """The nodes that may run once `node` of `ready` and those of `done` have run."""
        after = done | 1 << node
        enabled = [each for each in self.targets[node] if not self.reads[each] & ~after]
        return [*(each for each in ready if each != node), *enabled]

    def freed(self, done: int, node: int) -> float:
        """How many maps nobody needs any longer once the node has its sum."""
        after = done | 1 << node
        freed: float = sum(not self.readers[each] & ~after for each in self.dag.predecessors[node])
        if not self.reads[node] and not self.inputs & ~after:
            freed += self.input_maps
        return freed

    def through(self, done: int, alive: float, node: int) -> tuple[float, float]:
        """The most maps while the node runs, and those that are left after it."""
        left = alive - self.freed(done, node)
        return max(alive + 1, left + 2), left + 1


def _search(dag: Dag, input_maps: float) -> tuple[int, ...] | None:
    """The best order by a best-first search, the smallest peak first; among equal peaks the set
    with the most nodes. None after `MAX_SETS`."""
    walk = _Walk(dag, input_maps)
    full, start = (1 << dag.num_nodes) - 1, float(input_maps)
    # Peak, minus the number of nodes, the nodes, maps alive, nodes that may come next.
    queue = [(start, 0, 0, start, list(dag.input_nodes))]
    best = {0: (start, -1)}  # of the nodes that have run: the smallest peak, and the last node
    while queue and len(best) < MAX_SETS:
        peak, _, done, alive, ready = heapq.heappop(queue)
        if done == full:
            return _way_to(full, best)
        if peak > best[done][0]:
            continue  # a better way to this set was found since
        for node in _worth_trying(walk, ready, done):
            after = done | 1 << node
            most, left = walk.through(done, alive, node)
            most = max(peak, most)
            if after not in best or most < best[after][0]:
                best[after] = most, node
                following = walk.ready_after(ready, done, node)
                heapq.heappush(queue, (most, -after.bit_count(), after, left, following))
    return None


def _worth_trying(walk: _Walk, ready: Sequence[int], done: int) -> Sequence[int]:
    """The nodes of `ready` that come next in some best order, a single one if that is certain."""
    for node in ready:
        # Running it now costs no more than any other node, and leaves no more in memory in
        # whatever order the others follow.
        if walk.freed(done, node) >= 1:
            return [node]
    # An output node that frees nothing can wait for those that are read: it enables no other.
    return [node for node in ready if walk.readers[node]] or ready


def _way_to(done: int, best: dict[int, tuple[float, int]]) -> tuple[int, ...]:
    order: list[int] = []
    while done:
        order.append(best[done][1])
        done &= ~(1 << order[-1])
    return tuple(reversed(order))


def _greedy(dag: Dag, input_maps: float) -> tuple[int, ...]:
    """Always the node that leaves the least; among equals the one that was ready first."""
    walk = _Walk(dag, input_maps)
    done, ready, order = 0, list(dag.input_nodes), []
    while ready:
        worth_trying = _worth_trying(walk, ready, done)
        node = max(worth_trying, key=lambda each: walk.freed(done, each))
        ready = walk.ready_after(ready, done, node)
        order.append(node)
        done |= 1 << node
    return tuple(order)
