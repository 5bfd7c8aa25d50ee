"""Graph damage (Figure 5): every node and every edge of small nets, against the reference."""

import pytest
import torch
from conftest import tiny_spec
from network_helpers import assert_close, build, random_image
from reference import evaluate

from randwire_det.errors import UsageError
from randwire_det.network.damage import damaged, removals
from randwire_det.spec import generate

# The chain has nodes of one input and a single output node; er, ba and ws several of each.
SPECS = {
    "er": tiny_spec("er", nodes=7, p=0.5, regime="regular"),
    "ba": tiny_spec("ba", nodes=6, m=2),
    "ws, max_pool3x3": tiny_spec("ws", nodes=8, op="max_pool3x3"),
    "chain": generate("chain", seed=1, regime="small", channels=3, nodes=4, k=1),
}


@pytest.mark.parametrize("name", SPECS)
def test_every_node_and_edge_is_listed_with_its_degree(name):
    spec = SPECS[name]
    wirings = {stage.name: stage.dag for stage in spec.stages if stage.dag}
    found = removals(spec)
    nodes = {(each.stage, each.part): each.degree for each in found if each.kind == "node"}
    assert nodes == {
        (stage, node): [source for source, _ in dag.edges].count(node)
        for stage, dag in wirings.items()
        for node in range(dag.num_nodes)
    }
    edges = {(each.stage, each.part): each.degree for each in found if each.kind == "edge"}
    assert edges == {
        (stage, edge): [target for _, target in dag.edges].count(edge[1])
        for stage, dag in wirings.items()
        for edge in dag.edges
    }
    assert len(found) == len(nodes) + len(edges)


@pytest.mark.parametrize("name", SPECS)
def test_every_removal_equals_the_reference(name):
    spec = SPECS[name]
    trunk = build(spec, out_features=spec.stage_names).eval()
    tensors, image = trunk.state_dict(), random_image(height=35, width=32)
    before = {key: each.clone() for key, each in tensors.items()}
    everything = removals(spec)
    intact, *outputs = damaged(trunk, image, everything)
    expected = evaluate(spec, tensors, image, False)
    assert_close(intact, expected)
    for removal, output in zip(everything, outputs, strict=True):
        part = (removal.part,) if removal.kind == "node" else removal.part
        theirs = evaluate(spec, tensors, image, False, without=(removal.stage, *part))
        assert_close(output, theirs)
        # The stages before it are as they were, its own is not.
        changed = [stage for stage in output if not torch.equal(output[stage], intact[stage])]
        assert changed[0] == removal.stage
    assert all(torch.equal(each, before[key]) for key, each in trunk.state_dict().items())


def test_any_order_and_choice_of_removals_gives_the_same():
    spec = SPECS["er"]
    trunk, image = build(spec).eval(), random_image()
    everything = removals(spec)
    _, *outputs = damaged(trunk, image, everything)
    _, *others = damaged(trunk, image, everything[::-3])
    for output, other in zip(outputs[::-3], others, strict=True):
        assert output.keys() == other.keys() == trunk.out_channels.keys()
        assert all(torch.equal(output[stage], other[stage]) for stage in output)


def test_nothing_is_recorded_for_a_backward():
    trunk, image = build(SPECS["chain"]).eval(), random_image().requires_grad_()
    for output in damaged(trunk, image, removals(trunk.spec)[:2]):
        assert not any(each.requires_grad for each in output.values())


def test_a_trunk_in_training_mode_is_refused():
    trunk = build(SPECS["chain"])
    with pytest.raises(UsageError, match=r"eval\(\)"):
        next(damaged(trunk, random_image(), []))
