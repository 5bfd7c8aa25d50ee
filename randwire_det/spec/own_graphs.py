"""A user's own graph as a `Dag`: a networkx graph, an edge list, or either in a JSON file."""

from pathlib import Path

import networkx as nx

from ..errors import UsageError, UserError, brief
from ..strict import load_json, read_regular
from .graphs import Dag, to_dag


def own_dag(graph) -> Dag:
    """A graph to a `Dag`.

    Args:
        graph: one of
            a `Dag`;
            an `nx.Graph`: its nodes are indexed in their own order (whole numbers: ascending), and
            every edge runs from the lower to the higher index, as in the paper's supplement;
            an `nx.DiGraph` without cycles: its nodes are indexed in topological order;
            a list of [source, target] pairs, source < target, of nodes 0..N-1;
            {"num_nodes": N, "edges": pairs}, for nodes without any edge.

    Raises:
        UserError: none of these, a cycle, a self-loop, parallel edges, or a bad pair.
    """
    if isinstance(graph, Dag):
        return graph
    if isinstance(graph, nx.Graph):
        return _from_networkx(graph)
    if isinstance(graph, dict):
        if graph.keys() != {"num_nodes", "edges"}:
            raise UserError(f"graph with keys {brief(list(graph))}: expected num_nodes and edges")
        return Dag(graph["num_nodes"], graph["edges"])
    if not isinstance(graph, list | tuple):
        raise UserError(
            f"graph {brief(graph)}: expected a networkx graph, a list of [source, target] pairs or"
            " an object with num_nodes and edges"
        )
    targets = [pair[1] for pair in graph if isinstance(pair, list | tuple) and len(pair) == 2]
    numbers = [each for each in targets if type(each) is int]
    return Dag(max(numbers, default=0) + 1, tuple(graph))


def _from_networkx(graph: nx.Graph) -> Dag:
    if graph.is_multigraph():
        raise UserError("a multigraph: expected each edge once, as in nx.Graph or nx.DiGraph")
    loops = list(nx.nodes_with_selfloops(graph))
    if loops:
        raise UserError(f"node {brief(loops[0])} is joined to itself; expected no self-loops")
    numbered = all(type(node) is int for node in graph)
    names = sorted(graph) if numbered else list(graph)
    index = {name: position for position, name in enumerate(names)}
    if graph.is_directed():
        try:
            names = list(nx.lexicographical_topological_sort(graph, key=index.__getitem__))
        except nx.NetworkXUnfeasible:
            raise UserError("a directed graph with a cycle; expected an acyclic one") from None
        index = {name: position for position, name in enumerate(names)}
    return to_dag(nx.relabel_nodes(graph, index))


def own_stages(graph) -> Dag | dict[str, Dag]:
    """A graph for all random stages, or one by stage name.

    Args:
        graph: as `own_dag`; {"conv3": graph, ...}; or the path of a JSON file that holds pairs, an
            object with num_nodes and edges, or an object of these by stage name.

    Raises:
        UsageError: the file cannot be read.
        UserError: as `own_dag`; the file is not JSON.
    """
    if isinstance(graph, str | Path):
        try:
            plain = load_json(read_regular(str(graph)))
        except OSError as error:
            raise UsageError(f"graph {graph}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"graph {graph}: no JSON: {error}") from None
        try:
            return own_stages(plain)
        except UserError as error:
            raise UserError(f"graph {graph}: {error}") from None
    if isinstance(graph, dict) and "edges" not in graph:
        return {name: _of_stage(name, each) for name, each in graph.items()}
    return own_dag(graph)


def _of_stage(name, graph) -> Dag:
    try:
        return own_dag(graph)
    except UserError as error:
        raise UserError(f"{brief(name)}: {error}") from None
