"""Wirings beside the paper's three random models: fixed ones, and generators of later work.

All have the signature of those in `graphs`: the number of nodes, the model's parameters, a seed.
A fixed wiring ignores the seed, so that studies can treat all generators alike.
"""

import random

import networkx as nx

from ..errors import UserError, brief
from .graphs import (
    Dag,
    check_nodes,
    check_probability,
    check_seed,
    erdos_renyi,
    real,
    to_dag,
    watts_strogatz,
    whole,
)

REWIRING_TRIES = 1000  # draws of WS-flex until the graph is connected


def ring(n: int, k: int, seed: int = 0) -> Dag:
    """Regular ring: every node joins its K nearest. This is WS(K, 0), which the paper tests, too.

    Raises:
        UserError: as `watts_strogatz`.
    """
    return watts_strogatz(n, k, 0.0, seed)


def chain(n: int, k: int, seed: int = 0) -> Dag:
    """A chain in which every node reads the K nodes before it, or all there are.

    K=1 is the plain chain, K=2 a chain in which every node is skipped once.

    Raises:
        UserError: K is no whole number >= 1.
    """
    n, read = check_nodes(n), whole(k)
    if read is None or read < 1:
        raise UserError(f"chain(K={brief(k)}): expected a whole number K >= 1")
    pairs = ((a, b) for b in range(n) for a in range(max(0, b - read), b))
    return Dag(n, tuple(pairs))


def resnet_like(n: int, seed: int = 0) -> Dag:
    """Residual blocks of two nodes.

    The input of a block is the sum of the outputs of all blocks before it, which is a residual
    network with its sums written out: the first node of a block reads the second node of every
    block before, and the second node reads the first.
    """
    n = check_nodes(n)
    inside = [(first, first + 1) for first in range(0, n - 1, 2)]
    between = [(last, first) for first in range(2, n, 2) for last in range(1, first, 2)]
    return Dag(n, tuple(inside + between))


def densenet_like(n: int, seed: int = 0) -> Dag:
    """Every node reads all nodes before it. DenseNet concatenates them; a node here sums them."""
    return chain(n, max(1, check_nodes(n)), seed)


def ws_flex(n: int, degree: float, p: float, seed: int) -> Dag:
    """WS-flex (You et al. 2020, "Graph Structure of Neural Networks"): WS with a real-valued K.

    There are floor(N degree / 2) edges. Each node of a ring joins as many following nodes as all
    can have, the edges left over go to nodes drawn at random, one each, and every edge is then
    rewired with probability P. A draw that is not connected is drawn again, as in `watts_strogatz`.

    Args:
        degree: the average number of neighbours of a node, 2 to N - 1.

    Raises:
        UserError: a degree or a P out of range, or no connected graph found.
    """
    n, seed, average = check_nodes(n), check_seed(seed), real(degree)
    if average is None or not 2 <= average <= n - 1:
        raise UserError(f"WS-flex(degree={brief(degree)}): expected a number from 2 to N-1={n - 1}")
    p = check_probability("WS-flex", p)
    rng = random.Random(seed)
    for _ in range(REWIRING_TRIES):
        graph = _rewired(n, int(n * average / 2), p, rng)
        if nx.is_connected(graph):
            return to_dag(graph)
    raise UserError(
        f"WS-flex(degree={average}, P={p}) gave no connected graph of N={n} nodes in"
        f" {REWIRING_TRIES} draws; use a larger degree or a smaller P"
    )


def _rewired(n: int, count: int, p: float, rng: random.Random) -> nx.Graph:
    """One draw of WS-flex: a ring of `count` edges, each rewired with probability P."""
    each, left = divmod(count, n)
    edges = [(v, (v + i) % n) for i in range(1, each + 1) for v in range(n)]
    # Half of an even ring away, both ends would start the same edge.
    starts = range(n // 2) if 2 * (each + 1) == n else range(n)
    edges += [(v, (v + each + 1) % n) for v in sorted(rng.sample(starts, left))]
    graph = nx.empty_graph(n)
    graph.add_edges_from(edges)
    for a, b in edges:
        free = [v for v in range(n) if v != a and not graph.has_edge(a, v)]
        if free and rng.random() < p:
            graph.remove_edge(a, b)
            graph.add_edge(a, rng.choice(free))
    return graph


def nago(
    n: int,
    k: int,
    p: float,
    mid_nodes: int,
    mid_p: float,
    bottom_nodes: int,
    bottom_k: int,
    bottom_p: float,
    seed: int,
) -> Dag:
    """The hierarchical WS-ER-WS generator of NAGO (Ru et al. 2020), flattened to one graph.

    A top graph WS(K, P), each node of which is a graph ER(mid_p) of `mid_nodes` nodes, each node of
    which is a graph WS(bottom_k, bottom_p) of `bottom_nodes` nodes. An edge between two nodes of an
    upper level joins every output node of the first one's graph to every input node of the
    second's. The top graph has N / (mid_nodes bottom_nodes) nodes. With one bottom node there are
    two levels, and bottom_k and bottom_p have no effect.

    Raises:
        UserError: N is no multiple of mid_nodes bottom_nodes, or a level's parameter is bad.
    """
    n, seed = check_nodes(n), check_seed(seed)
    mid, bottom = check_nodes(mid_nodes, "mid_nodes"), check_nodes(bottom_nodes, "bottom_nodes")
    if n % (mid * bottom):
        raise UserError(
            f"N={n}: expected a multiple of mid_nodes x bottom_nodes = {mid} x {bottom}"
            f" = {mid * bottom}"
        )
    rng = random.Random(seed)

    def drawn(level: str, model, *arguments) -> Dag:
        try:
            return model(*arguments, seed=rng.randrange(2**32))
        except UserError as error:
            raise UserError(f"{level} level of NAGO: {error}") from None

    def middle() -> Dag:
        graph = drawn("middle", erdos_renyi, mid, mid_p)
        parts = [drawn("bottom", _cell, bottom, bottom_k, bottom_p) for _ in range(mid)]
        return nested(graph, parts)

    top = drawn("top", watts_strogatz, n // (mid * bottom), k, p)
    return nested(top, [middle() for _ in range(top.num_nodes)])


def _cell(n: int, k: int, p: float, seed: int) -> Dag:
    return Dag(1, ()) if n == 1 else watts_strogatz(n, k, p, seed)


def nested(outer: Dag, inner: list[Dag]) -> Dag:
    """`outer` with its node i replaced by the graph `inner[i]`.

    An edge of `outer` becomes the edges from every output node of its source's graph to every
    input node of its target's graph.
    """
    starts, total = [], 0
    for graph in inner:
        starts.append(total)
        total += graph.num_nodes
    edges = [
        (start + a, start + b)
        for start, graph in zip(starts, inner, strict=True)
        for a, b in graph.edges
    ]
    edges += [
        (starts[source] + a, starts[target] + b)
        for source, target in outer.edges
        for a in inner[source].output_nodes
        for b in inner[target].input_nodes
    ]
    return Dag(total, tuple(edges))
