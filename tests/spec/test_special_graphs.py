"""Wirings beside the paper's: the rules of each, and digests that never change."""

import networkx as nx
import pytest

from randwire_det import generate
from randwire_det.errors import UserError
from randwire_det.spec.generator import GRAPH_MODELS, parameters_of
from randwire_det.spec.graphs import Dag, watts_strogatz
from randwire_det.spec.special_graphs import (
    chain,
    densenet_like,
    nago,
    nested,
    resnet_like,
    ring,
    ws_flex,
)

# SHA-256 of the stages, of seed 1, small regime, C=8, N=32, with these parameters. A checkpoint
# trained before no longer fits if one changes.
NAGO = {"k": 2, "p": 0.5, "mid_nodes": 2, "mid_p": 0.7, "bottom_nodes": 4, "bottom_k": 2}
GOLDEN = {
    "ring": (
        {"k": 4},
        "251b198005f774bdd24e65126cb9f69415a67fea399e6f2b465d153f88e34ca0",
    ),
    "ws_flex": (
        {"degree": 4.5, "p": 0.5},
        "47aa2962649cbcb7996576cee4dc8a73149439ce80a08ee2709936bb52376ad7",
    ),
    "nago": (
        NAGO | {"bottom_p": 0.5},
        "b3ea999bd7e565869f15c9fa40a11dbd15b2934bcad2dbc5f09c18cd6b8d39c4",
    ),
    "chain": (
        {"k": 2},
        "786aed813a2fca8598dae137f2519c7b9b9d5e56febf5f05b58032206bfe7550",
    ),
    "resnet": (
        {},
        "cd9fed1e9b7db76b7258c9b6bb1c90fefc721b67da06a467f7356ceb1208998c",
    ),
    "densenet": (
        {},
        "2e2a4a25e9afca24cf370fb1430e24ca912729973696830ed650b552abf39483",
    ),
}


def small(generator, **changes):
    arguments = {"seed": 1, "regime": "small", "channels": 8, **GOLDEN[generator][0]}
    return generate(generator, **arguments | changes)


@pytest.mark.parametrize("generator", GOLDEN)
def test_the_wirings_never_change(generator):
    assert small(generator).digest == GOLDEN[generator][1]


@pytest.mark.parametrize("generator", GOLDEN)
@pytest.mark.parametrize("regime", ["small", "regular", "cifar"])
def test_every_model_makes_every_regime(generator, regime):
    spec = small(generator, regime=regime, nodes=64)
    assert [stage.dag.num_nodes for stage in spec.stages if stage.dag][-1] == 64
    assert spec.provenance["generator"] == generator
    assert {name: spec.provenance[name] for name in parameters_of(generator)} == GOLDEN[generator][
        0
    ]


def test_only_random_models_hang_on_the_seed():
    differ = {name for name in GOLDEN if small(name, seed=1) != small(name, seed=2)}
    assert differ == {"ws_flex", "nago"}
    assert GOLDEN.keys() | {"er", "ba", "ws"} == GRAPH_MODELS.keys()


def test_a_ring_is_ws_without_rewiring():
    assert ring(16, 4) == watts_strogatz(16, 4, 0, seed=7)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_chain_reads_the_k_nodes_before(k):
    for node, sources in enumerate(chain(9, k).predecessors):
        assert list(sources) == list(range(max(0, node - k), node))
    assert chain(3, 5) == densenet_like(3)


@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_resnet_like_is_the_sum_of_blocks(n):
    """Of numbers: a block's input is what a residual network adds up."""
    sent = []
    for node, sources in enumerate(resnet_like(n).predecessors):
        sent.append(sum(sent[source] for source in sources) + 3**node)
    stream, expected = 0, []  # the residual stream, and what every node puts out
    for block in range(0, n, 2):
        first = stream + 3**block
        expected.append(first)
        if block + 1 < n:
            second = first + 3 ** (block + 1)
            expected.append(second)
            stream += second
    assert sent == expected


def test_densenet_like_reads_all():
    assert set(densenet_like(6).edges) == {(a, b) for b in range(6) for a in range(b)}
    assert densenet_like(1).edges == ()


@pytest.mark.parametrize("degree", [2, 2.6, 4.5, 7.3, 9])
@pytest.mark.parametrize("p", [0, 0.5, 1])
def test_ws_flex_has_the_edges_of_its_degree(degree, p):
    for seed in range(5):
        dag = ws_flex(10, degree, p, seed)
        assert len(dag.edges) == int(10 * degree / 2)
        graph = nx.Graph(list(dag.edges))
        assert nx.is_connected(graph) and len(graph) == 10


def test_ws_flex_without_rewiring_lies_between_two_rings():
    few, many = set(ring(12, 4).edges), set(ring(12, 6).edges)
    own = set(ws_flex(12, 5.1, 0, seed=3).edges)
    assert few < own < many and len(own) == 30
    assert set(ws_flex(12, 4, 0, seed=3).edges) == few


def test_ws_flex_rewires_a_share_p():
    kept = [len(set(ws_flex(40, 6, 0.25, s).edges) & set(ring(40, 6).edges)) for s in range(40)]
    # 120 edges stay with 0.75, and a rewired one lands on one of the few free ring edges at times.
    assert 88 < sum(kept) / 40 < 94


def test_nested_by_hand():
    fork = Dag(3, ((0, 1), (0, 2)))  # outputs 1 and 2
    merge = Dag(3, ((0, 2), (1, 2)))  # inputs 0 and 1
    found = nested(Dag(2, ((0, 1),)), [fork, merge])
    crossing = {(1, 3), (1, 4), (2, 3), (2, 4)}
    assert set(found.edges) == {(0, 1), (0, 2), (3, 5), (4, 5)} | crossing


def test_nago_is_three_levels():
    """With all probabilities at an end, the graph is known."""
    one = {"mid_nodes": 3, "mid_p": 1.0, "bottom_nodes": 4, "bottom_k": 2, "bottom_p": 0.0}
    dag = nago(36, 2, 0.0, **one, seed=1)
    ring_of_4 = nx.cycle_graph(4)
    for start in range(0, 36, 4):  # every bottom graph is a ring
        inside = {(a - start, b - start) for a, b in dag.edges if start <= a and b < start + 4}
        assert inside == set(map(tuple, map(sorted, ring_of_4.edges)))
    # A ring 0-1-3, 0-3 has one input (0) and one output (3); so parts join by single edges.
    parts = {(a // 4, b // 4): (a % 4, b % 4) for a, b in dag.edges if a // 4 != b // 4}
    assert set(parts.values()) == {(3, 0)}
    within = {(a, b) for a, b in parts if a // 3 == b // 3}
    assert within == {(3 * t + a, 3 * t + b) for t in range(3) for a, b in ((0, 1), (0, 2), (1, 2))}
    # The top graph is a ring of three; ER(1) of three nodes has input 0 and output 2.
    assert parts.keys() - within == {(3 * a + 2, 3 * b) for a, b in ((0, 1), (0, 2), (1, 2))}


def test_nago_of_one_bottom_node_has_two_levels():
    dag = nago(12, 2, 0.0, 3, 1.0, 1, 2, 0.5, seed=1)
    complete = [(0, 1), (0, 2), (1, 2)]
    edges = {(3 * top + a, 3 * top + b) for top in range(4) for a, b in complete}
    # From the last node of a part to the first one of the next, along the ring of four parts.
    edges |= {(2, 3), (5, 6), (8, 9), (2, 9)}
    assert set(dag.edges) == edges


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (lambda: chain(5, 0), "chain(K=0)"),
        (lambda: chain(5, 1.5), "chain(K=1.5)"),
        (lambda: ring(5, 3), "even whole number"),
        (lambda: ws_flex(8, 1.5, 0.5, 1), "from 2 to N-1=7"),
        (lambda: ws_flex(8, 4, 1.5, 1), "WS-flex(P=1.5)"),
        (lambda: small("nago", nodes=20), "multiple of mid_nodes x bottom_nodes = 2 x 4 = 8"),
        (lambda: small("nago", bottom_k=3), "bottom level of NAGO: WS(K=3)"),
        (lambda: small("nago", mid_p=2), "middle level of NAGO: ER(P=2)"),
        (lambda: small("nago", nodes=8), "top level of NAGO: WS(K=2): expected K < N=1"),
        (lambda: small("nago", mid_nodes=0), "mid_nodes=0"),
        (lambda: small("resnet", k=2), "'resnet' takes no parameter, but k is given (2)"),
        (lambda: small("ws_flex", degree=None), "degree is missing"),
    ],
)
def test_a_bad_parameter_is_named(sample, expected):
    with pytest.raises(UserError) as caught:
        sample()
    assert expected in str(caught.value)


def test_the_cifar_regime_keeps_the_resolution_in_two_stages():
    stages = small("ring", regime="cifar").stages
    assert [(each.channels, each.stride, each.dag is None) for each in stages] == [
        (8, 1, True),
        (8, 1, True),
        (16, 2, False),
        (32, 2, False),
    ]


def test_a_fraction_of_c_rounds_the_widths():
    def widths(channels):
        return [stage.channels for stage in small("chain", channels=channels).stages]

    assert widths(9.0) == widths(9) == [4, 9, 9, 18, 36]
    assert widths(9.4) == [5, 9, 9, 19, 38]
    assert small("chain", channels=9.0).provenance["channels"] == 9
