"""Graph measures: against networkx by other ways, and graphs known by heart."""

import itertools
import math

import networkx as nx
import pytest

from randwire_det import generate
from randwire_det.spec.graphs import Dag, erdos_renyi, watts_strogatz
from randwire_det.spec.measures import dag_measures, measures
from randwire_det.spec.special_graphs import chain, ring


@pytest.mark.parametrize("dag", [watts_strogatz(32, 4, 0.75, 1), erdos_renyi(32, 0.05, 2)])
def test_the_classical_measures(dag):
    found = dag_measures(dag)
    graph = nx.empty_graph(dag.num_nodes)
    graph.add_edges_from(dag.edges)
    parts = sorted(nx.connected_components(graph), key=len)
    lengths = dict(nx.all_pairs_shortest_path_length(graph.subgraph(parts[-1])))
    pairs = [lengths[a][b] for a in parts[-1] for b in parts[-1] if a != b]
    assert found["components"] == len(parts)
    assert found["path_length"] == pytest.approx(sum(pairs) / len(pairs))
    triangles = []
    for node in graph:
        around = list(itertools.combinations(graph[node], 2))
        closed = sum(graph.has_edge(*pair) for pair in around)
        triangles.append(closed / len(around) if around else 0)
    assert found["clustering"] == pytest.approx(sum(triangles) / len(triangles))
    assert found["degree_mean"] == pytest.approx(2 * len(dag.edges) / 32)
    assert found["depth"] == nx.dag_longest_path_length(nx.DiGraph(list(dag.edges))) + 1
    assert found["input_nodes"] == len(dag.input_nodes)
    assert found["output_nodes"] == len(dag.output_nodes)


def test_elongation_tells_a_line_from_a_ring():
    assert dag_measures(chain(12, 1))["elongation"] == pytest.approx(1, abs=0.01)
    assert dag_measures(ring(12, 2))["elongation"] == pytest.approx(0, abs=0.01)
    assert dag_measures(chain(12, 1))["bottlenecks"] == 11
    assert dag_measures(ring(12, 2))["bottlenecks"] == 0


@pytest.mark.parametrize("dag", [Dag(1, ()), Dag(2, ()), Dag(2, ((0, 1),)), Dag(3, ())])
def test_the_smallest_graphs_have_measures(dag):
    assert not any(math.isnan(value) for value in dag_measures(dag).values())


def test_a_network_has_the_mean_of_its_stages():
    spec = generate("ws", seed=1, regime="regular", channels=4, k=4, p=0.75)
    assert measures(spec)["nodes"] == (16 + 3 * 32) / 4
    stages = [dag_measures(stage.dag) for stage in spec.stages[1:]]
    assert measures(spec)["depth"] == pytest.approx(sum(each["depth"] for each in stages) / 4)


def test_maps_in_memory():
    found = dag_measures(watts_strogatz(32, 4, 0.75, 3))
    assert found["live_maps_best"] < found["live_maps"]
    too_long = dag_measures(watts_strogatz(64, 2, 1.0, 1))
    assert math.isnan(too_long["live_maps_best"]) and too_long["live_maps"] > 10
