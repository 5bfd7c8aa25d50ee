"""Graph measures of a wiring: the classical ones, and those that later studies tie to accuracy.

Clustering, path length and degrees are of the undirected graph without the stage's input and
output node, as the generators sample it; the others are of the DAG. Where a graph is not connected,
path length and elongation are of its largest component.
"""

from functools import lru_cache
from statistics import fmean, pstdev

import networkx as nx
import numpy as np

from .graphs import Dag
from .order import best_order, live_maps
from .spec import NetworkSpec


def measures(spec: NetworkSpec) -> dict[str, float]:
    """The measures of a network: the mean over its random stages, by name."""
    stages = [dag_measures(stage.dag) for stage in spec.stages if stage.dag is not None]
    return {name: fmean(each[name] for each in stages) for name in stages[0]}


@lru_cache(maxsize=4096)  # the stages of a network mostly share a graph
def dag_measures(dag: Dag) -> dict[str, float]:
    """The measures of a wiring, by name.

    Returns:
        nodes, edges; components: connected components;
        clustering: average clustering coefficient;
        path_length: average shortest path length, in edges;
        degree_mean, degree_std, degree_max: of the nodes, inputs and outputs together;
        depth: nodes on the longest path from input to output;
        input_nodes, output_nodes: joined to the stage's unique input and output node;
        bottlenecks: cuts between successive nodes that a single edge crosses;
        elongation: quasi-1-dimensionality, -1 to 1 (Nowak & Janik 2020): 2 (v - 1/2), where v is
            the share of variance along the principal axis of the Kamada-Kawai layout in the plane;
        live_maps: the most maps in memory at once (`order.live_maps`), nodes run in index order;
        live_maps_best: the same for the best topological order; NaN where the search is too long.
    """
    graph = nx.empty_graph(dag.num_nodes)
    graph.add_edges_from(dag.edges)
    order = best_order(dag)
    main = graph.subgraph(max(nx.connected_components(graph), key=len))
    degrees = [degree for _, degree in graph.degree]
    return {
        "nodes": dag.num_nodes,
        "edges": len(dag.edges),
        "components": nx.number_connected_components(graph),
        "clustering": nx.average_clustering(graph),
        "path_length": nx.average_shortest_path_length(main) if len(main) > 1 else 0.0,
        "degree_mean": fmean(degrees),
        "degree_std": pstdev(degrees),
        "degree_max": max(degrees),
        "depth": _depth(dag),
        "input_nodes": len(dag.input_nodes),
        "output_nodes": len(dag.output_nodes),
        "bottlenecks": _bottlenecks(dag),
        "elongation": _elongation(main),
        "live_maps": live_maps(dag, range(dag.num_nodes)),
        "live_maps_best": live_maps(dag, order.nodes) if order.is_best else float("nan"),
    }


def _depth(dag: Dag) -> int:
    depth: list[int] = []
    for sources in dag.predecessors:
        depth.append(1 + max((depth[source] for source in sources), default=0))
    return max(depth)


def _bottlenecks(dag: Dag) -> int:
    crossing = [0] * dag.num_nodes
    for source, target in dag.edges:
        for cut in range(source, target):
            crossing[cut] += 1
    return crossing[:-1].count(1)


def _elongation(graph: nx.Graph) -> float:
    if len(graph) < 3:
        return 1.0  # a point or a line
    layout = nx.kamada_kawai_layout(graph)
    points = np.array(list(layout.values()))
    variances = np.linalg.eigvalsh(np.cov(points.T))
    return float(2 * variances[-1] / variances.sum() - 1)
