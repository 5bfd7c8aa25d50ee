"""Edge-drop (section 4.2): the right edge goes, with its own weight, in training alone."""

from collections import Counter

import numpy as np
import pytest
import torch
from conftest import tiny_spec
from network_helpers import assert_close, build, gradients, random_image
from reference import evaluate

from pretrain import recipe
from randwire_det.errors import UserError
from randwire_det.network import RandWire

SPECS = {
    "er": tiny_spec("er", nodes=7, p=0.5, regime="regular"),
    "ba": tiny_spec("ba", nodes=6, m=2),
    "ws": tiny_spec("ws", nodes=8),
}


def edges_with_company(spec):
    """(stage, source, target) of every edge whose target has another one, from the edge list."""
    company = []
    for stage in spec.stages:
        edges = stage.dag.edges if stage.dag else ()
        degree = Counter(target for _, target in edges)
        company += [(stage.name, a, b) for a, b in edges if degree[b] > 1]
    return company


@pytest.mark.parametrize("name", SPECS)
def test_only_edges_into_sums_can_go(name):
    spec = SPECS[name]
    edges = RandWire(spec).droppable_edges()
    assert sorted(edges) == sorted(edges_with_company(spec)) and edges


@pytest.mark.parametrize("name", SPECS)
def test_each_edge_goes_with_its_own_weight(name):
    """Forward and all gradients equal the reference evaluator's without that edge."""
    trunk = build(SPECS[name])
    parameters = dict(trunk.named_parameters())
    image = random_image(height=32, width=33)
    of = parameters | {"image": image}
    edges = trunk.droppable_edges()
    for edge in edges[:: max(1, len(edges) // 6)]:
        statistics = {name: buffer.clone() for name, buffer in trunk.named_buffers()}
        tensors = parameters | statistics
        expected = evaluate(trunk.spec, tensors, image, training=True, without=edge)
        expected = {stage: expected[stage] for stage in trunk.out_channels}
        trunk.drop_edge(edge)
        ours = trunk(image)
        assert_close(ours, expected)
        # Every parameter stays in the graph of the trunk: DDP waits for a gradient of each. Without
        # its only reader, a node of the reference evaluator has none.
        found = gradients(ours, of)
        assert_close(found, gradients(expected, of, unused_are_zero=True))
        stage, source, target = edge
        position = getattr(trunk, stage).dag.predecessors[target].index(source)
        assert found[f"{stage}.nodes.{target}.edge_logits"][position] == 0


def test_it_does_nothing_in_eval_mode_and_leaves_no_trace():
    trunk, image = build(SPECS["ws"], training=False), random_image(height=32, width=32)
    names, whole = list(trunk.state_dict()), trunk(image)
    edge = trunk.droppable_edges()[-1]
    trunk.drop_edge(edge)
    assert_close(trunk(image), whole)
    assert list(trunk.state_dict()) == names
    statistics = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}

    def trained():
        trunk.load_state_dict(statistics)
        return trunk.train()(image)

    less = trained()
    trunk.drop_edge(None)
    more = trained()
    assert not torch.equal(less["conv5"], more["conv5"])
    trunk.drop_edge(trunk.droppable_edges()[0])
    trunk.drop_edge(None)
    assert_close(trained(), more)


def test_an_edge_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="droppable_edges"):
        RandWire(SPECS["ws"]).drop_edge(("conv3", 0, 99))


def test_every_edge_goes_equally_often():
    """Of n draws each of E edges goes n * p / E times, within five standard deviations."""
    edges, p, n = RandWire(SPECS["ba"]).droppable_edges(), 0.1, 40_000
    rng = np.random.default_rng(0)
    counts = Counter(recipe.draw_edge(edges, p, rng) for _ in range(n))
    none = counts.pop(None)
    assert abs(none - n * (1 - p)) < 5 * (n * p * (1 - p)) ** 0.5
    assert counts.keys() == set(edges)
    share = p / len(edges)
    for edge, count in counts.items():
        assert abs(count - n * share) < 5 * (n * share * (1 - share)) ** 0.5, edge
    assert recipe.draw_edge([], 1.0, rng) is None and recipe.draw_edge(edges, 0.0, rng) is None
