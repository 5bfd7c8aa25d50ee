"""The three random graph models of the paper, each handed out as a directed acyclic graph.

networkx samples the undirected graph; indexing its nodes and letting every edge run from the
lower to the higher index makes it a DAG (supplement of the paper). networkx stays behind this
module: the rest of the package sees only `Dag`.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral, Real

import networkx as nx

from ..errors import UserError, brief

# How often WS is drawn until the graph is connected. networkx draws from one stream, so a larger
# number never changes a graph that a smaller one had found.
WS_TRIES = 1000
# Of a stage; the paper's have 32. More would take minutes and gigabytes before anything runs.
MAX_NODES = 2048
MAX_SEED = 2**128  # a number of 5,000 digits can be written into no file


@dataclass(frozen=True)
class Dag:
    """A directed acyclic graph over nodes 0..num_nodes-1, already in topological order.

    Attributes:
        num_nodes: N, without the unique input and output node that a stage adds.
        edges: (source, target) pairs with source < target, sorted by target, then source.
        predecessors: for every node, the nodes it aggregates, ascending.
        input_nodes: the nodes without an input edge; the unique input node feeds exactly these.
        output_nodes: the nodes without an output edge; the unique output node averages these.

    Raises:
        UserError: no node, or an edge that is no pair, is out of range, runs backwards or doubles.
    """

    num_nodes: int
    edges: tuple[tuple[int, int], ...]
    # Derived at once, and not when first asked for: torch.compile cannot trace that.
    predecessors: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)
    input_nodes: tuple[int, ...] = field(init=False, repr=False, compare=False)
    output_nodes: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        nodes = whole(self.num_nodes)
        if nodes is None or not 1 <= nodes <= MAX_NODES:
            raise UserError(
                f"a graph needs a whole number N >= 1 of nodes, at most {MAX_NODES},"
                f" got {brief(self.num_nodes)}"
            )
        try:
            given = None if isinstance(self.edges, str) else list(self.edges)
        except TypeError:
            given = None
        if given is None:
            raise UserError(f"edges {brief(self.edges)}: expected pairs of node indices")
        edges = sorted((_checked(edge, nodes) for edge in given), key=lambda edge: edge[::-1])
        for edge, following in pairwise(edges):
            if edge == following:
                raise UserError(f"duplicate edge {edge[0]} -> {edge[1]}; expected each edge once")
        sources = [[] for _ in range(nodes)]
        for source, target in edges:
            sources[target].append(source)
        read = {source for source, _ in edges}
        derived = {
            "num_nodes": nodes,
            "edges": tuple(edges),
            "predecessors": tuple(map(tuple, sources)),
            "input_nodes": tuple(node for node, each in enumerate(sources) if not each),
            "output_nodes": tuple(node for node in range(nodes) if node not in read),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)


def erdos_renyi(n: int, p: float, seed: int) -> Dag:
    """ER(P): every pair of nodes is joined with probability P, independently.

    The pairs are exchangeable, so the sampled order of the nodes is already a random one.
    Isolated nodes and several components are possible.

    Raises:
        UserError: P outside [0, 1].
    """
    n, seed, p = check_nodes(n), check_seed(seed), check_probability("ER", p)
    return to_dag(nx.gnp_random_graph(n, p, seed=seed))


def barabasi_albert(n: int, m: int, seed: int) -> Dag:
    """BA(M): M nodes without edges, then every new node joins M others by their degree.

    Nodes are indexed in the order they come. The first node to come joins all of the M initial
    ones, so the graph has exactly M (N - M) edges and M input nodes. networkx would start from a
    star whose hub is node 0, which makes one single input node: hence the `initial_graph`.

    Raises:
        UserError: M outside 1..N-1.
    """
    n, seed, joined = check_nodes(n), check_seed(seed), whole(m)
    if joined is None or not 1 <= joined < n:
        raise UserError(f"BA(M={brief(m)}): expected a whole number 1 <= M < N={n}")
    start = nx.empty_graph(joined + 1)
    start.add_edges_from((node, joined) for node in range(joined))
    return to_dag(nx.barabasi_albert_graph(n, joined, seed=seed, initial_graph=start))


def watts_strogatz(n: int, k: int, p: float, seed: int) -> Dag:
    """WS(K, P): a ring in which each node joins its K nearest, each edge rewired with chance P.

    Nodes are indexed clockwise. A draw that falls apart is drawn again; this is the wiring that
    gives the parameter and FLOP counts of the paper's Tables 2 and 3. N K / 2 edges.

    Raises:
        UserError: K odd, below 2 or not below N, P outside [0, 1], or no connected graph found.
    """
    n, seed, joined = check_nodes(n), check_seed(seed), whole(k)
    if joined is None or joined < 2 or joined % 2:
        raise UserError(f"WS(K={brief(k)}): expected an even whole number K >= 2")
    if joined >= n:
        raise UserError(f"WS(K={brief(k)}): expected K < N={n}, the number of nodes of the stage")
    p = check_probability("WS", p)
    try:
        graph = nx.connected_watts_strogatz_graph(n, joined, p, tries=WS_TRIES, seed=seed)
    except nx.NetworkXError:
        raise UserError(
            f"WS(K={joined}, P={p}) gave no connected graph of N={n} nodes in {WS_TRIES} draws;"
            " take a larger K or a smaller P"
        ) from None
    return to_dag(graph)


def to_dag(graph: nx.Graph) -> Dag:
    """A graph over nodes 0..N-1 whose edges all run from the lower to the higher index."""
    edges = tuple((min(edge), max(edge)) for edge in graph.edges)
    return Dag(graph.number_of_nodes(), edges)


def _checked(edge, nodes: int) -> tuple[int, int]:
    pair = isinstance(edge, tuple | list) and len(edge) == 2
    source, target = map(whole, edge) if pair else (None, None)
    if source is None or target is None:
        raise UserError(f"edge {brief(edge)}: expected a pair of node indices")
    if not 0 <= source < target < nodes:
        raise UserError(
            f"edge {brief(source)} -> {brief(target)}: expected 0 <= source < target < {nodes}"
        )
    return source, target


def whole(value) -> int | None:
    """A whole number of any kind, numpy's too, as Python's own; None for everything else.

    Only Python's own can be written into JSON, and read back from a checkpoint by torch.
    """
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def real(value) -> float | int | None:
    """As `whole`, of a finite real number; whole numbers stay whole."""
    if isinstance(value, Integral):
        return whole(value)
    try:
        found = float(value) if isinstance(value, Real) else math.nan
    except OverflowError:  # of a fraction
        return None
    return found if math.isfinite(found) else None


def check_seed(seed) -> int:
    """The seed as Python's own number."""
    found = whole(seed)
    if found is None or not 0 <= found < MAX_SEED:
        raise UserError(f"seed={brief(seed)}: expected a whole number >= 0, below 2^128")
    return found


def check_nodes(n, name: str = "N") -> int:
    """The number of nodes as Python's own number."""
    found = whole(n)
    if found is None or not 1 <= found <= MAX_NODES:
        raise UserError(
            f"{name}={brief(n)}: expected a whole number of nodes >= 1, at most {MAX_NODES}"
        )
    return found


def check_probability(model: str, p) -> float | int:
    """P as Python's own number."""
    found = real(p)
    if found is None or not 0 <= found <= 1:
        raise UserError(f"{model}(P={brief(p)}): expected a probability 0 <= P <= 1")
    return found
