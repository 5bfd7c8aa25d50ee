"""Graph measures: against networkx by other ways, brute force, and graphs known by heart."""

import itertools
import math
import random

import networkx as nx
import pytest

from randwire_det import generate
from randwire_det.spec.graphs import Dag, erdos_renyi, watts_strogatz
from randwire_det.spec.measures import dag_measures, live_maps, live_maps_best, measures
from randwire_det.spec.special_graphs import chain, densenet_like, ring


def random_dag(rng, most):
    n, p = rng.randint(1, most), rng.random() ** 2
    return Dag(n, tuple((a, b) for b in range(n) for a in range(b) if rng.random() < p))


def alive_by_hand(dag, order):
    """The most maps at once: a map is there from its node on, as long as a reader is to come."""
    most, place = 0, {node: step for step, node in enumerate(order)}
    for step, _ in enumerate(order):
        alive = 0
        for node in order[: step + 1]:
            readers = [place[b] for a, b in dag.edges if a == node]
            alive += not readers or max(readers) >= step
        most = max(most, alive)
    return most


def test_live_maps_by_brute_force():
    rng = random.Random(0)
    for _ in range(60):
        dag = random_dag(rng, 6)
        orders = [
            order
            for order in itertools.permutations(range(dag.num_nodes))
            if all(order.index(a) < order.index(b) for a, b in dag.edges)
        ]
        assert live_maps(dag) == alive_by_hand(dag, list(range(dag.num_nodes)))
        assert live_maps_best(dag) == min(alive_by_hand(dag, order) for order in orders)


def test_a_chain_needs_two_maps_and_a_dense_one_all():
    assert dag_measures(chain(20, 1))["live_maps_best"] == 2
    assert dag_measures(densenet_like(20))["live_maps_best"] == 20
    # 20 sources that one node reads, indexed in a bad order, and a long way to compute each.
    parts = [((i, 20 + i), (20 + i, 40)) for i in range(20)]
    fan = Dag(41, tuple(edge for part in parts for edge in part))
    assert (live_maps(fan), live_maps_best(fan)) == (21, 21)


def test_a_search_without_end_is_given_up():
    graph = watts_strogatz(64, 2, 1.0, 1)
    assert math.isnan(live_maps_best(graph)) and live_maps(graph) > 10


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
