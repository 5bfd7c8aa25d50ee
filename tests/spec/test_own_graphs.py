"""A graph of one's own comes through `generate` as it is."""

import json

import networkx as nx
import pytest

from randwire_det import NetworkSpec, generate
from randwire_det.errors import UsageError, UserError
from randwire_det.spec.graphs import Dag
from randwire_det.spec.own_graphs import own_dag, own_stages

PAIRS = [[0, 1], [0, 3], [2, 3]]


def own(graph, regime="small"):
    return generate("graph", seed=1, regime=regime, channels=4, graph=graph)


@pytest.mark.parametrize(
    "graph",
    [
        PAIRS,
        {"num_nodes": 4, "edges": PAIRS},
        Dag(4, ((0, 1), (0, 3), (2, 3))),
        nx.Graph([(3, 0), (1, 0), (2, 3)]),
        nx.DiGraph([(0, 1), (0, 3), (2, 3)]),
    ],
    ids=["pairs", "object", "Dag", "Graph", "DiGraph"],
)
def test_each_form_is_the_same_network(graph):
    if isinstance(graph, nx.DiGraph):
        # 2 comes first in no topological order but its own; the nodes keep their numbers here.
        assert own_dag(graph).edges == own_dag(PAIRS).edges
    spec = own(graph)
    assert [stage.dag.edges for stage in spec.stages[2:]] == [((0, 1), (0, 3), (2, 3))] * 3
    assert NetworkSpec.from_json(spec.to_json()) == spec == own(PAIRS)
    assert spec.provenance["nodes"] == 4


def test_a_directed_graph_is_sorted_whatever_its_nodes_are_called():
    dag = own_dag(nx.DiGraph([("z", "a"), ("a", "m"), ("z", "m")]))
    assert dag.edges == ((0, 1), (0, 2), (1, 2))


def test_an_undirected_graph_keeps_the_order_of_its_nodes():
    graph = nx.Graph()
    graph.add_nodes_from("cab")
    graph.add_edge("b", "c")
    assert own_dag(graph) == Dag(3, ((0, 2),))


def test_a_graph_per_stage(tmp_path):
    by_stage = {"conv2": [[0, 1]], "conv3": PAIRS, "conv4": PAIRS, "conv5": [[0, 2], [1, 2]]}
    path = tmp_path / "graphs.json"
    path.write_text(json.dumps(by_stage))
    for given in (by_stage, str(path), path):
        spec = own(given, regime="regular")
        assert [stage.dag.num_nodes for stage in spec.stages[1:]] == [2, 4, 4, 3]


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (None, "graph is missing"),
        (7, "graph 7: expected a networkx graph, a list"),
        ([[1, 0]], "1 -> 0"),
        ([[0, 1], [0, 1]], "duplicate edge 0 -> 1"),
        ([[0, "1"]], "expected a pair of node indices"),
        ({"num_nodes": 2, "edges": [[0, 2]]}, "< 2"),
        ({"edges": []}, "expected num_nodes and edges"),
        (nx.DiGraph([(0, 1), (1, 0)]), "cycle"),
        (nx.Graph([(0, 0)]), "joined to itself"),
        (nx.MultiGraph([(0, 1)]), "multigraph"),
        ({"conv3": [[0, 1]]}, "conv3, conv4, conv5"),
        ({"conv3": [[1, 0]], "conv4": [], "conv5": []}, "'conv3': edge 1 -> 0"),
    ],
    ids=str,
)
def test_a_bad_graph_is_refused(graph, expected):
    with pytest.raises(UserError) as caught:
        own(graph)
    assert expected in str(caught.value)


def test_a_bad_file_is_named(tmp_path):
    path = tmp_path / "graph.json"
    with pytest.raises(UsageError, match=r"graph.json: No such file"):
        own_stages(path)
    for text, expected in (("[[0, 1]", "no JSON"), ("[[0, 0]]", "0 -> 0")):
        path.write_text(text)
        with pytest.raises(UserError) as caught:
            own_stages(path)
        assert "graph.json" in str(caught.value) and expected in str(caught.value)
