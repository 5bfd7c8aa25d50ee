"""The three random graph models of the paper, each handed out as a directed acyclic graph.

networkx samples the undirected graph; indexing its nodes and letting every edge run from the
lower to the higher index makes it a DAG (supplement of the paper). networkx stays behind this
module: the rest of the package sees only `Dag`.
"""

from dataclasses import dataclass
from functools import cached_property

import networkx as nx

from .errors import UserError

# How often WS is drawn until the graph is connected. networkx draws from one stream, so a larger
# number never changes a graph that a smaller one had found.
WS_TRIES = 1000


@dataclass(frozen=True)
class Dag:
    """A directed acyclic graph over nodes 0..num_nodes-1, already in topological order.

    Attributes:
        num_nodes: N, without the unique input and output node that a stage adds.
        edges: (source, target) pairs with source < target, sorted by target, then source.

    Raises:
        UserError: no node, or an edge that is no pair, is out of range, runs backwards or doubles.
    """

    num_nodes: int
    edges: tuple[tuple[int, int], ...]

    def __post_init__(self):
        if not _is_int(self.num_nodes) or self.num_nodes < 1:
            raise UserError(f"a graph needs a whole number N >= 1 of nodes, got {self.num_nodes!r}")
        for edge in self.edges:
            pair = isinstance(edge, tuple | list) and len(edge) == 2
            if not pair or not all(map(_is_int, edge)):
                raise UserError(f"edge {edge!r}: expected a pair of node indices")
            source, target = edge
            if not 0 <= source < target < self.num_nodes:
                raise UserError(
                    f"edge {source} -> {target}: expected 0 <= source < target < {self.num_nodes}"
                )
        in_order = sorted(map(tuple, self.edges), key=lambda edge: edge[::-1])
        if len(set(in_order)) != len(in_order):
            raise UserError("an edge stands twice; every edge may stand once")
        object.__setattr__(self, "edges", tuple(in_order))

    @cached_property
    def predecessors(self) -> tuple[tuple[int, ...], ...]:
        """For every node, the nodes it aggregates, ascending."""
        sources = [[] for _ in range(self.num_nodes)]
        for source, target in self.edges:
            sources[target].append(source)
        return tuple(map(tuple, sources))

    @cached_property
    def last_read(self) -> tuple[tuple[int, ...], ...]:
        """For every node, those of its predecessors that no later node aggregates."""
        reader = dict(self.edges)  # sorted by target: the last one stays
        return tuple(
            tuple(source for source in sources if reader[source] == target)
            for target, sources in enumerate(self.predecessors)
        )

    @cached_property
    def input_nodes(self) -> tuple[int, ...]:
        """The nodes without an input edge; the unique input node feeds exactly these."""
        return tuple(node for node, sources in enumerate(self.predecessors) if not sources)

    @cached_property
    def output_nodes(self) -> tuple[int, ...]:
        """The nodes without an output edge; the unique output node averages exactly these."""
        sources = {source for source, _ in self.edges}
        return tuple(node for node in range(self.num_nodes) if node not in sources)


def erdos_renyi(n: int, p: float, seed: int) -> Dag:
    """ER(P): every pair of nodes is joined with probability P, independently.

    The pairs are exchangeable, so the sampled order of the nodes is already a random one.
    Isolated nodes and several components are possible.

    Raises:
        UserError: P outside [0, 1].
    """
    _check_nodes_and_seed(n, seed)
    _check_probability("ER", p)
    return _to_dag(nx.gnp_random_graph(n, p, seed=seed))


def barabasi_albert(n: int, m: int, seed: int) -> Dag:
    """BA(M): M nodes without edges, then every new node joins M others by their degree.

    Nodes are indexed in the order they come. The first node to come joins all of the M initial
    ones, so the graph has exactly M (N - M) edges and M input nodes. networkx would start from a
    star whose hub is node 0, which makes one single input node: hence the `initial_graph`.

    Raises:
        UserError: M outside 1..N-1.
    """
    _check_nodes_and_seed(n, seed)
    if not _is_int(m) or not 1 <= m < n:
        raise UserError(f"BA(M={m!r}): expected a whole number 1 <= M < N={n}")
    start = nx.empty_graph(m + 1)
    start.add_edges_from((node, m) for node in range(m))
    return _to_dag(nx.barabasi_albert_graph(n, m, seed=seed, initial_graph=start))


def watts_strogatz(n: int, k: int, p: float, seed: int) -> Dag:
    """WS(K, P): a ring in which each node joins its K nearest, each edge rewired with chance P.

    Nodes are indexed clockwise. A draw that falls apart is drawn again; this is the wiring that
    gives the parameter and FLOP counts of the paper's Tables 2 and 3. N K / 2 edges.

    Raises:
        UserError: K odd, below 2 or not below N, P outside [0, 1], or no connected graph found.
    """
    _check_nodes_and_seed(n, seed)
    if not _is_int(k) or k < 2 or k % 2:
        raise UserError(f"WS(K={k!r}): expected an even whole number K >= 2")
    if k >= n:
        raise UserError(f"WS(K={k}): expected K < N={n}, the number of nodes of the stage")
    _check_probability("WS", p)
    try:
        graph = nx.connected_watts_strogatz_graph(n, k, p, tries=WS_TRIES, seed=seed)
    except nx.NetworkXError:
        raise UserError(
            f"WS(K={k}, P={p}) gave no connected graph of N={n} nodes in {WS_TRIES} draws;"
            " take a larger K or a smaller P"
        ) from None
    return _to_dag(graph)


def _to_dag(graph: nx.Graph) -> Dag:
    edges = tuple((min(edge), max(edge)) for edge in graph.edges)
    return Dag(graph.number_of_nodes(), edges)


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_seed(seed):
    if not _is_int(seed) or seed < 0:
        raise UserError(f"seed={seed!r}: expected a whole number >= 0")


def _check_nodes_and_seed(n, seed):
    if not _is_int(n) or n < 1:
        raise UserError(f"N={n!r}: expected a whole number of nodes >= 1")
    check_seed(seed)


def _check_probability(model, p):
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise UserError(f"{model}(P={p!r}): expected a probability 0 <= P <= 1")
