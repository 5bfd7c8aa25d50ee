"""The order of the nodes: against brute force over all topological orders, and graphs by heart."""

import itertools
import random

import pytest

from randwire_det.spec import order as order_module
from randwire_det.spec.graphs import Dag, barabasi_albert, erdos_renyi, watts_strogatz
from randwire_det.spec.order import best_order, live_maps
from randwire_det.spec.special_graphs import chain, densenet_like


def random_dag(rng, most):
    n, p = rng.randint(1, most), rng.random() ** 2
    return Dag(n, tuple((a, b) for b in range(n) for a in range(b) if rng.random() < p))


def alive_by_hand(dag, order, input_maps):
    """The most maps at once, by simulating the memory; the input is -1."""
    readers = {node: {b for a, b in dag.edges if a == node} for node in range(dag.num_nodes)}
    size, most, memory, done = {-1: input_maps}, 0, [-1], set()
    for node in order:
        sources = dag.predecessors[node]
        memory.append("sum") if sources else None
        most = max(most, sum(size.get(each, 1) for each in memory))
        done.add(node)
        memory = [
            each
            for each in memory
            if each == "sum" or each == -1 or not readers[each] or readers[each] - done
        ]
        memory.append("depthwise")
        most = max(most, sum(size.get(each, 1) for each in memory))
        if set(dag.input_nodes) <= done and -1 in memory:
            memory.remove(-1)
        if sources:
            memory.remove("sum")
        memory.append(node)
        most = max(most, sum(size.get(each, 1) for each in memory))
        memory.remove("depthwise")
    assert sorted(memory) == sorted(dag.output_nodes)
    return max(most, len(memory) + 1)


def topological_orders(dag):
    for order in itertools.permutations(range(dag.num_nodes)):
        if all(order.index(a) < order.index(b) for a, b in dag.edges):
            yield order


@pytest.mark.parametrize("input_maps", [0, 1, 2, 2.5])
def test_the_best_order_by_brute_force(input_maps):
    rng = random.Random(0)
    for _ in range(40):
        dag = random_dag(rng, 6)
        peaks = {order: live_maps(dag, order, input_maps) for order in topological_orders(dag)}
        for order, peak in peaks.items():
            assert peak == alive_by_hand(dag, order, input_maps), (dag, order)
        found = best_order(dag, input_maps)
        assert found.is_best and peaks[found.nodes] == min(peaks.values()), dag


def test_a_chain_needs_two_maps_and_a_dense_one_all():
    assert live_maps(chain(20, 1), best_order(chain(20, 1)).nodes) == 2
    assert live_maps(densenet_like(20), best_order(densenet_like(20)).nodes) == 20
    # 20 sources that one node reads, indexed in a bad order, and a long way to compute each.
    parts = [((i, 20 + i), (20 + i, 40)) for i in range(20)]
    fan = Dag(41, tuple(edge for part in parts for edge in part))
    assert live_maps(fan, range(41)) == 21
    assert live_maps(fan, best_order(fan).nodes) == 21


LARGE = [watts_strogatz(64, 2, 1.0, 1), erdos_renyi(256, 0.01, 1), barabasi_albert(300, 2, 1)]


@pytest.mark.parametrize("dag", LARGE, ids=["given up", "greedy", "by index"])
def test_a_long_search_is_given_up_for_an_order_no_worse_than_by_index(dag):
    found = best_order(dag)
    assert not found.is_best
    place = {node: at for at, node in enumerate(found.nodes)}
    assert sorted(place) == list(range(dag.num_nodes))
    assert all(place[source] < place[target] for source, target in dag.edges)
    assert live_maps(dag, found.nodes) <= live_maps(dag, range(dag.num_nodes))
    last_readers = {}
    for source, target in sorted(dag.edges, key=lambda edge: place[edge[1]]):
        last_readers[source] = target
    for node, freed in enumerate(found.last_read):
        assert set(freed) == {each for each, last in last_readers.items() if last == node}
    assert found.last_input == max(dag.input_nodes, key=place.__getitem__)


def test_a_search_that_ends_is_short(monkeypatch):
    """The paper's networks need no more than a twentieth of the limit."""
    monkeypatch.setattr(order_module, "MAX_SETS", 2_500)
    assert best_order(watts_strogatz(32, 4, 0.75, 1), 2.0).is_best
