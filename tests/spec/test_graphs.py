"""The random graphs against what section 3.3 and the paper's supplement say of them."""

import math
from collections import Counter
from itertools import combinations
from statistics import stdev

import numpy as np
import pytest

from randwire_det.errors import UserError
from randwire_det.spec.graphs import Dag, barabasi_albert, erdos_renyi, watts_strogatz

SEEDS = range(20)
SAMPLES = {
    "er": lambda seed: erdos_renyi(17, 0.2, seed),
    "ba": lambda seed: barabasi_albert(17, 3, seed),
    "ws": lambda seed: watts_strogatz(17, 4, 0.75, seed),
}


def ring_lattice(n, k):
    """N nodes in a ring, each joined to its K/2 neighbours on both sides."""
    return {tuple(sorted((v, (v + i) % n))) for v in range(n) for i in range(1, k // 2 + 1)}


def reachable(dag, start=0):
    """The nodes joined to `start`, the direction of edges left aside."""
    found, todo = {start}, [start]
    while todo:
        node = todo.pop()
        joined = {a + b - node for a, b in dag.edges if node in (a, b)}
        todo += joined - found
        found |= joined
    return found


@pytest.mark.parametrize("model", SAMPLES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_graph_is_a_sorted_dag_given_by_its_seed(model, seed):
    dag = SAMPLES[model](seed)
    assert all(0 <= source < target < 17 for source, target in dag.edges)
    assert dag.edges == tuple(sorted(set(dag.edges), key=lambda edge: (edge[1], edge[0])))
    assert dag == SAMPLES[model](seed)
    assert dag != SAMPLES[model](seed + 1)


@pytest.mark.parametrize("model", SAMPLES)
@pytest.mark.parametrize("seed", SEEDS)
def test_input_and_output_nodes_by_brute_force(model, seed):
    dag, nodes = SAMPLES[model](seed), range(17)
    has_input = [any((a, node) in dag.edges for a in nodes) for node in nodes]
    has_output = [any((node, b) in dag.edges for b in nodes) for node in nodes]
    assert dag.input_nodes == tuple(node for node in nodes if not has_input[node])
    assert dag.output_nodes == tuple(node for node in nodes if not has_output[node])
    for node in nodes:
        assert list(dag.predecessors[node]) == [a for a in nodes if (a, node) in dag.edges]


# --- ER


def test_er_joins_every_pair_with_probability_p():
    """Also the supplement's random order: no pair of indices is favoured."""
    draws, p = 400, 0.3
    graphs = [erdos_renyi(10, p, seed).edges for seed in range(draws)]
    # Independent pairs: the number of edges is binomial.
    assert stdev(map(len, graphs)) == pytest.approx(math.sqrt(45 * p * (1 - p)), rel=0.2)
    count = Counter(edge for edges in graphs for edge in edges)
    deviation = math.sqrt(p * (1 - p) / draws)
    for pair in combinations(range(10), 2):
        assert count[pair] / draws == pytest.approx(p, abs=5 * deviation)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_er_extremes(n):
    empty, full = erdos_renyi(n, 0, 1), erdos_renyi(n, 1, 1)
    assert empty.edges == ()
    assert empty.input_nodes == empty.output_nodes == tuple(range(n))
    assert set(full.edges) == set(combinations(range(n), 2))
    assert full.input_nodes == (0,)
    assert full.output_nodes == (n - 1,)


# --- BA


@pytest.mark.parametrize(("n", "m"), [(2, 1), (17, 1), (16, 5), (32, 7), (9, 8)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ba_starts_from_m_edgeless_nodes(n, m, seed):
    """networkx's own start, a star around node 0, would leave a single input node."""
    dag = barabasi_albert(n, m, seed)
    assert len(dag.edges) == m * (n - m)
    assert dag.input_nodes == tuple(range(m))
    assert dag.predecessors[m] == tuple(range(m))
    assert all(len(sources) == m for sources in dag.predecessors[m:])


def test_ba_prefers_nodes_of_high_degree():
    """BA(1), N=4: node 2 joins 0 or 1, which then has 2 of the 4 edge ends; node 3 picks by ends.

    A uniform choice would join that node in a third of the draws only.
    """
    draws = 2000
    graphs = [barabasi_albert(4, 1, seed) for seed in range(draws)]
    popular = sum(dag.predecessors[3] == dag.predecessors[2] for dag in graphs)
    assert popular / draws == pytest.approx(1 / 2, abs=5 * math.sqrt(0.25 / draws))


# --- WS


@pytest.mark.parametrize(("n", "k"), [(3, 2), (8, 4), (16, 6), (7, 6), (32, 4)])
def test_ws_without_rewiring_is_the_ring_lattice(n, k):
    assert set(watts_strogatz(n, k, 0, 1).edges) == ring_lattice(n, k)


@pytest.mark.parametrize(("n", "k", "p"), [(32, 4, 0.75), (16, 2, 1.0), (15, 6, 0.25), (5, 4, 1)])
@pytest.mark.parametrize("seed", SEEDS)
def test_ws_keeps_the_edge_count_and_is_connected(n, k, p, seed):
    dag = watts_strogatz(n, k, p, seed)
    assert len(dag.edges) == n * k // 2  # the paper's N K counts every edge from both ends
    assert reachable(dag) == set(range(n))


@pytest.mark.parametrize("p", [0.25, 0.5, 0.75, 1.0])
def test_ws_rewires_the_share_p_of_the_lattice(p):
    """A rewired edge may land on the lattice again, at about K of the N - 1 other nodes."""
    n, k, lattice = 32, 4, ring_lattice(32, 4)
    kept = [len(lattice & set(watts_strogatz(n, k, p, seed).edges)) for seed in range(50)]
    share = sum(kept) / len(kept) / len(lattice)
    assert 1 - p - 0.03 <= share <= 1 - p + p * k / (n - 1) + 0.03


# --- what is refused


@pytest.mark.parametrize(
    ("model", "arguments", "value", "rule"),
    [
        (erdos_renyi, (0, 0.5, 1), 0, ">= 1"),
        (erdos_renyi, (-3, 0.5, 1), -3, ">= 1"),
        (erdos_renyi, (4.0, 0.5, 1), 4.0, "whole number"),
        (erdos_renyi, ("8", 0.5, 1), "8", "whole number"),
        (erdos_renyi, (True, 0.5, 1), True, "whole number"),
        (erdos_renyi, (8, -0.1, 1), -0.1, "0 <= P <= 1"),
        (erdos_renyi, (8, 1.5, 1), 1.5, "0 <= P <= 1"),
        (erdos_renyi, (8, math.nan, 1), math.nan, "0 <= P <= 1"),
        (erdos_renyi, (8, "0.5", 1), "0.5", "0 <= P <= 1"),
        (erdos_renyi, (8, True, 1), True, "0 <= P <= 1"),
        (erdos_renyi, (8, None, 1), None, "0 <= P <= 1"),
        (erdos_renyi, (8, 0.5, -1), -1, ">= 0"),
        (erdos_renyi, (8, 0.5, "1"), "1", "whole number"),
        (erdos_renyi, (8, 0.5, 1.0), 1.0, "whole number"),
        (erdos_renyi, (8, 0.5, None), None, "whole number"),
        (erdos_renyi, (8, 0.5, False), False, "whole number"),
        (barabasi_albert, (8, 0, 1), 0, "1 <= M < N"),
        (barabasi_albert, (8, -1, 1), -1, "1 <= M < N"),
        (barabasi_albert, (8, 8, 1), 8, "1 <= M < N"),
        (barabasi_albert, (1, 1, 1), 1, "1 <= M < N"),
        (barabasi_albert, (8, 2.0, 1), 2.0, "whole number"),
        (barabasi_albert, (8, True, 1), True, "whole number"),
        (barabasi_albert, (8, "2", 1), "2", "whole number"),
        (barabasi_albert, (8, 2, -1), -1, ">= 0"),
        (barabasi_albert, (0, 1, 1), 0, ">= 1"),
        (watts_strogatz, (8, 3, 0.5, 1), 3, "even"),
        (watts_strogatz, (8, 0, 0.5, 1), 0, "K >= 2"),
        (watts_strogatz, (8, -2, 0.5, 1), -2, "K >= 2"),
        (watts_strogatz, (8, 4.0, 0.5, 1), 4.0, "whole number"),
        (watts_strogatz, (8, "4", 0.5, 1), "4", "whole number"),
        (watts_strogatz, (8, True, 0.5, 1), True, "whole number"),
        (watts_strogatz, (8, 8, 0.5, 1), 8, "K < N"),
        (watts_strogatz, (8, 10, 0.5, 1), 10, "K < N"),
        (watts_strogatz, (8, 4, 1.01, 1), 1.01, "0 <= P <= 1"),
        (watts_strogatz, (8, 4, math.nan, 1), math.nan, "0 <= P <= 1"),
        (watts_strogatz, (8, 4, math.inf, 1), math.inf, "0 <= P <= 1"),
        (watts_strogatz, (8, 4, 0.5, -5), -5, ">= 0"),
        (watts_strogatz, (None, 4, 0.5, 1), None, "whole number"),
    ],
)
def test_a_bad_parameter_is_named_with_its_rule(model, arguments, value, rule):
    with pytest.raises(ValueError) as caught:
        model(*arguments)
    assert repr(value) in str(caught.value)
    assert rule in str(caught.value)


# --- Dag


def test_a_dag_sorts_its_edges():
    dag = Dag(4, ((2, 3), (0, 3), (1, 2), (0, 1)))
    assert dag.edges == ((0, 1), (1, 2), (0, 3), (2, 3))
    assert dag == Dag(4, tuple(reversed(dag.edges)))
    assert hash(dag) == hash(Dag(4, tuple(reversed(dag.edges))))


def test_a_dag_takes_lists_as_json_gives_them():
    assert Dag(3, [[1, 2], [0, 1]]) == Dag(3, ((0, 1), (1, 2)))


def test_isolated_nodes_tell_dags_apart():
    assert Dag(2, ((0, 1),)) != Dag(3, ((0, 1),))


@pytest.mark.parametrize("num_nodes", [0, -1, 2.0, "2", True, None, [2]])
def test_a_dag_refuses_a_bad_node_count(num_nodes):
    with pytest.raises(UserError, match=r"N >= 1"):
        Dag(num_nodes, ())


@pytest.mark.parametrize(
    "edges",
    [
        ((1, 0),),  # backward
        ((1, 1),),  # a loop
        ((0, 1), (0, 1)),  # twice
        ((0, 3),),  # out of range
        ((-1, 1),),
        ((0,),),  # no pair
        ((0, 1, 2),),
        ((),),
        (5,),
        (None,),
        ("01",),
        ((0, 1.0),),  # no node index
        ((False, True),),
        (("0", "1"),),
        ((0, None),),
    ],
)
def test_a_dag_refuses_a_bad_edge(edges):
    with pytest.raises(UserError, match="edge"):
        Dag(3, edges)


@pytest.mark.parametrize("edges", [None, 5, "01", {0: 1}, np.array(4)])
def test_a_dag_refuses_what_holds_no_edges(edges):
    with pytest.raises(UserError, match=r"expected (pairs|a pair) of node indices"):
        Dag(2, edges)
