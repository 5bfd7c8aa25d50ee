"""The trunk and the classifier: equal to the reference evaluator, and a sound torch module."""

import copy
import io

import pytest
import torch
from conftest import THETA, tiny_spec
from network_helpers import (
    EVERY_STAGE,
    NETWORKS,
    assert_close,
    build,
    gradients,
    random_image,
    run_both,
)
from torch import nn

from randwire_det.errors import UserError
from randwire_det.network import RandWire, RandWireClassifier
from randwire_det.spec import NetworkSpec, StageSpec
from randwire_det.spec.graphs import Dag


def classifier_of(spec, **arguments):
    return RandWireClassifier(spec, 5, head_channels=16, **arguments)


# --- equal to section 3.2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("network", NETWORKS)
def test_forward_and_all_gradients_equal_the_reference(network, training, dtype):
    batch, spec = NETWORKS[network]
    trunk = build(spec, dtype, training, out_features=EVERY_STAGE)
    image = random_image(batch, dtype=dtype)
    ours, expected, statistics = run_both(trunk, image)
    assert_close(ours, expected)
    of = dict(trunk.named_parameters()) | {"image": image}
    assert_close(gradients(ours, of), gradients(expected, of))
    for name, buffer in trunk.named_buffers():
        if "running" in name:
            assert_close({name: buffer}, {name: statistics[name]})


def test_the_networks_above_cover_what_they_promise():
    dags = [stage.dag for _, spec in NETWORKS.values() for stage in spec.stages if stage.dag]
    in_degrees = {len(sources) for dag in dags for sources in dag.predecessors}
    assert {0, 1, 2, 3, 4} <= in_degrees
    assert any(set(dag.input_nodes) & set(dag.output_nodes) and dag.edges for dag in dags)


@pytest.mark.parametrize("generator", THETA)
def test_without_gradients_the_maps_are_the_same(generator):
    trunk, image = build(tiny_spec(generator), training=False), random_image()
    expected = {name: each.detach() for name, each in trunk(image).items()}
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert_close(trunk(image.detach()), expected)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_frozen_parameters_leave_the_gradients_of_the_others(training):
    """A detector freezes whole stages, or BN alone, and its image needs no gradient."""
    trunk, image = build(tiny_spec(), training=training), random_image().detach()
    for name, parameter in trunk.named_parameters():
        frozen = name.startswith(("conv1", "conv2")) or "norm" in name or ".2." in name
        parameter.requires_grad_(not frozen)
    ours, expected, _ = run_both(trunk, image)
    expected = {name: each for name, each in expected.items() if name in trunk.out_channels}
    of = {name: each for name, each in trunk.named_parameters() if each.requires_grad}
    assert len(of) > 10
    ours = {name: each for name, each in ours.items() if each.requires_grad}
    expected = {name: each for name, each in expected.items() if each.requires_grad}
    assert_close(gradients(ours, of), gradients(expected, of))


def test_a_worked_example():
    """Nodes 0, 1 -> 2 and the isolated node 3; what each sends out is set by hand.

    Node 2 gets sigmoid(0) * 4 + sigmoid(-20) * (-6), about 2, after ReLU 2, times 3. The output is
    the mean of nodes 2 and 3; with the signs of 4 and -6 exchanged the ReLU leaves node 2 nothing.
    """
    spec = NetworkSpec(
        (StageSpec("conv1", 1), StageSpec("conv2", 1, Dag(4, ((0, 2), (1, 2))), "sep_conv3x3"))
    )
    trunk = RandWire(spec).double().eval()
    state = trunk.state_dict()
    for node, sent in ((0, 4.0), (1, -6.0), (3, 10.0)):
        state[f"conv2.nodes.{node}.norm.weight"].zero_()
        state[f"conv2.nodes.{node}.norm.bias"].fill_(sent)
    state["conv2.nodes.2.edge_logits"].copy_(torch.tensor([0.0, -20.0]))
    state["conv2.nodes.2.depthwise.weight"].zero_()[:, :, 1, 1] = 1
    state["conv2.nodes.2.pointwise.weight"].fill_(3)
    state["conv2.nodes.2.norm.running_var"].fill_(1 - trunk.conv2.nodes[2].norm.eps)

    def output():
        return trunk(torch.randn(1, 3, 4, 4).double())["conv2"].item()

    assert output() == pytest.approx((6 + 10) / 2, abs=1e-6)
    state["conv2.nodes.0.norm.bias"].neg_()
    assert output() == pytest.approx((0 + 10) / 2, abs=1e-6)


# --- what went wrong in other implementations


@pytest.mark.parametrize("generator", THETA)
def test_only_output_nodes_are_averaged(generator):
    """With all readers deaf, a shift of a node moves the output iff it is an output node."""
    trunk = build(tiny_spec(generator, channels=3), training=False, out_features=["conv3"])
    stage, dag = trunk.conv3, trunk.conv3.dag
    assert 0 < len(dag.output_nodes) < dag.num_nodes
    with torch.no_grad():
        for node in set(range(dag.num_nodes)) - set(dag.input_nodes):
            stage.nodes[node].pointwise.weight.zero_()
        image = random_image()
        before = trunk(image)["conv3"]
        for node in range(dag.num_nodes):
            stage.nodes[node].norm.bias += 1
            moved = trunk(image)["conv3"] - before
            stage.nodes[node].norm.bias -= 1
            expected = 1 / len(dag.output_nodes) if node in dag.output_nodes else 0
            torch.testing.assert_close(moved, torch.full_like(moved, expected))


@pytest.mark.parametrize("generator", THETA)
def test_a_wiring_with_the_same_tensors_computes_something_else(generator):
    """The edges themselves matter: one redirected edge changes the output."""
    spec = tiny_spec(generator)
    trunk = build(spec, training=False)
    for name, tensor in trunk.state_dict().items():
        if name.endswith("edge_logits"):
            tensor.zero_()
    dag = spec.stages[2].dag
    free = [
        (target, source, other)
        for target, sources in enumerate(dag.predecessors)
        for source in sources
        for other in range(target)
        if other not in sources
    ]
    target, source, other = free[-1]  # into the last node, so it shows in the output at once
    edges = (set(dag.edges) - {(source, target)}) | {(other, target)}
    conv3 = StageSpec("conv3", 4, Dag(dag.num_nodes, tuple(edges)), "sep_conv3x3")
    rewired = NetworkSpec((*spec.stages[:2], conv3, *spec.stages[3:]))
    other_trunk = RandWire(rewired).double().eval()
    for name, tensor in other_trunk.state_dict().items():
        tensor.copy_(trunk.state_dict()[name])
    image = random_image()
    assert not torch.allclose(other_trunk(image)["conv3"], trunk(image)["conv3"])


@pytest.mark.parametrize("regime", ["small", "regular"])
def test_single_convolutions_are_plain_ones(regime):
    """Separable ones there would miss the parameter counts of Tables 2 and 3."""
    trunk = RandWire(tiny_spec("ba", regime=regime, channels=6))
    expected = {"conv1": 3 * 3 * 3 * 3 + 2 * 3}
    if regime == "small":
        expected["conv2"] = 3 * 3 * 3 * 6 + 2 * 6
    for name, count in expected.items():
        assert sum(each.numel() for each in getattr(trunk, name).parameters()) == count


@pytest.mark.parametrize("generator", THETA)
def test_every_parameter_learns(generator):
    """None left without a gradient, which would break DDP; no edge weight dead."""
    spec = tiny_spec(generator, seed_per_stage=True)
    model = classifier_of(spec).double()
    image = random_image(4, 64, 64)
    nn.functional.cross_entropy(model(image), torch.tensor([0, 1, 2, 3])).backward()
    assert image.grad.abs().max() > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
        if name.endswith("edge_logits"):
            assert (parameter.grad != 0).all(), name
    aggregating = [
        len(sources)
        for stage in spec.stages
        for sources in (stage.dag.predecessors if stage.dag else ())
        if len(sources) > 1
    ]
    logits = [each for name, each in model.named_parameters() if name.endswith("edge_logits")]
    assert [each.numel() for each in logits] == aggregating


def test_a_few_steps_of_sgd_lower_the_loss():
    model, image = classifier_of(tiny_spec("er")), torch.randn(4, 3, 64, 64)
    target = torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(20):
        losses.append(nn.functional.cross_entropy(model(image), target))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("size", [(32, 32), (97, 97), (224, 224), (64, 51), (1, 1)], ids=str)
def test_the_classifier_takes_any_image_size(size):
    assert classifier_of(tiny_spec()).eval()(torch.randn(2, 3, *size)).shape == (2, 5)


# --- the trunk's contract


@pytest.mark.parametrize(
    "wanted",
    [EVERY_STAGE, ("conv2", "conv3", "conv4", "conv5"), ["conv4", "conv2"], ("conv5",), ("conv1",)],
    ids=str,
)
@pytest.mark.parametrize("regime", ["small", "regular"])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (45, 33)])
def test_channels_and_strides_are_those_of_the_maps(wanted, regime, height, width):
    trunk = RandWire(tiny_spec("ba", channels=3, regime=regime), out_features=wanted).eval()
    maps = trunk(torch.randn(2, 3, height, width))
    assert list(maps) == list(trunk.out_channels) == list(trunk.out_strides) == sorted(wanted)
    for name, each in maps.items():
        stride = trunk.out_strides[name]
        assert each.shape == (
            2,
            trunk.out_channels[name],
            -(-height // stride),
            -(-width // stride),
        )


def test_an_unstrided_stage():
    """The stride of a wiring is that of its input nodes."""
    dag = Dag(4, ((0, 1), (0, 3), (2, 3)))
    spec = NetworkSpec(
        (
            StageSpec("conv1", 3, stride=1),
            StageSpec("conv2", 4, dag, "sep_conv3x3", stride=1),
            StageSpec("conv3", 5, dag, "sep_conv3x3", stride=2),
            StageSpec("conv4", 6, stride=1),
        )
    )
    trunk = build(spec, out_features=EVERY_STAGE[:4])
    ours, expected, _ = run_both(trunk, random_image())
    assert trunk.out_strides == {"conv1": 1, "conv2": 1, "conv3": 2, "conv4": 2}
    assert [tuple(each.shape[2:]) for each in ours.values()] == [(37, 53)] * 2 + [(19, 27)] * 2
    assert_close(ours, expected)


def test_conv2_and_all_after_it_by_default():
    assert list(RandWire(tiny_spec()).out_channels) == ["conv2", "conv3", "conv4", "conv5"]


def test_stages_past_the_last_feature_are_not_built():
    """They would be unused parameters, on which DDP stumbles."""
    trunk = RandWire(tiny_spec(), out_features=["conv3", "conv2"])
    stages = {name.partition(".")[0] for name, _ in trunk.named_parameters()}
    assert stages == {"conv1", "conv2", "conv3"}
    maps = trunk(random_image(dtype=torch.float32))
    sum(each.square().sum() for each in maps.values()).backward()
    assert all(parameter.grad is not None for parameter in trunk.parameters())


def test_fewer_features_are_the_same_maps():
    trunk = build(tiny_spec("er"), training=False)
    some = RandWire(trunk.spec, out_features=["conv3"]).double().eval()
    tensors = {k: v for k, v in trunk.state_dict().items() if k in some.state_dict()}
    some.load_state_dict(tensors)
    image = random_image()
    assert torch.equal(some(image)["conv3"], trunk(image)["conv3"])


@pytest.mark.parametrize("bad", [[], ["conv6"], ["conv3", "res4"], "conv3", ["head"], [None]])
def test_bad_features_are_refused_with_the_good_ones(bad):
    with pytest.raises(UserError, match="conv1, conv2, conv3, conv4, conv5"):
        RandWire(tiny_spec(), out_features=bad)


def test_the_norm_can_be_chosen():
    model = classifier_of(tiny_spec(), norm=lambda channels: nn.GroupNorm(1, channels))
    kinds = [type(module).__name__ for module in model.modules()]
    assert "BatchNorm2d" not in kinds
    # One per node and per single convolution: conv1, conv2, three wirings of N=10, the head.
    assert kinds.count("GroupNorm") == 1 + 1 + 3 * 10 + 1
    assert model(torch.randn(2, 3, 32, 32)).isfinite().all()


# --- weights know their wiring


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("build_model", [RandWire, classifier_of], ids=["trunk", "classifier"])
def test_weights_of_another_wiring_are_refused(build_model, strict):
    """Every tensor of these two has the same name and shape, but for the digest."""
    mine, other = (
        NetworkSpec((StageSpec("conv1", 2), StageSpec("conv2", 4, Dag(4, edges), "sep_conv3x3")))
        for edges in (((0, 1), (1, 2), (2, 3)), ((0, 1), (0, 2), (0, 3)))
    )
    theirs, ours = build_model(other), build_model(mine)
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {
        k: v.shape for k, v in ours.state_dict().items()
    }
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(UserError) as caught:
        ours.load_state_dict(theirs.state_dict(), strict=strict)
    assert mine.digest[:12] in str(caught.value)
    assert other.digest[:12] in str(caught.value)
    assert "\n" not in str(caught.value)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} was changed all the same"


@pytest.mark.parametrize("strict", [True, False])
def test_weights_cast_to_floats_still_know_their_wiring(strict):
    """As after `{name: tensor.float() ...}`, a common way to average or shrink weights."""
    theirs, ours = RandWire(tiny_spec(seed=2)), RandWire(tiny_spec(seed=1))
    with pytest.raises(UserError) as caught:
        ours.load_state_dict({k: v.float() for k, v in theirs.state_dict().items()}, strict=strict)
    assert theirs.spec.digest[:12] in str(caught.value)
    theirs.load_state_dict({k: v.half() for k, v in theirs.state_dict().items()}, strict=strict)


@pytest.mark.parametrize("seed", [1, 2])
def test_weights_of_the_same_wiring_load_through_a_file(seed):
    one, two = (
        classifier_of(tiny_spec(seed=seed)).eval(),
        classifier_of(tiny_spec(seed=seed)).eval(),
    )
    image = torch.randn(2, 3, 40, 40)
    assert not torch.equal(one(image), two(image))
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    two.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(one(image), two(image))


def test_the_trunk_of_a_classifier_is_a_trunk_by_name():
    spec = tiny_spec()
    weights = classifier_of(spec).state_dict()
    RandWire(spec).load_state_dict(
        {k.removeprefix("trunk."): v for k, v in weights.items() if k.startswith("trunk.")}
    )


# --- a sound torch module


def test_dropout_acts_in_training_only():
    model, image = classifier_of(tiny_spec(), dropout=0.5), torch.randn(4, 3, 32, 32)
    model.eval()
    assert torch.equal(model(image), model(image))
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert not torch.equal(model(image), model(image))
    certain = classifier_of(tiny_spec())
    assert torch.equal(certain(image), certain(image))


def test_a_copy_is_equal_and_independent():
    model, image = classifier_of(tiny_spec("er")).eval(), torch.randn(2, 3, 32, 32)
    twin = copy.deepcopy(model)
    before = model(image)
    assert torch.equal(twin(image), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 1
    assert torch.equal(model(image), before)
    assert not torch.equal(twin(image), before)


def test_the_memory_format_of_the_image_does_not_matter():
    trunk, image = build(tiny_spec("er", channels=5)), random_image().detach()
    contiguous = trunk(image)
    channels_last = trunk(image.contiguous(memory_format=torch.channels_last))
    assert_close(channels_last, contiguous)
    strided = torch.stack([image, image], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    assert_close(trunk(strided), contiguous)


def test_the_image_is_left_as_it_was():
    trunk, image = build(tiny_spec()), random_image().detach()
    before = image.clone()
    trunk(image)
    assert torch.equal(image, before)


def test_in_training_a_batch_has_no_effect_on_the_next_but_for_the_statistics():
    trunk, image = build(tiny_spec("er")), random_image().detach()
    first = {name: each.clone() for name, each in trunk(image).items()}
    trunk(random_image().detach())
    assert_close(trunk(image), first)
