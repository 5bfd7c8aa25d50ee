"""fuse(): a frozen copy for inference, equal to the model, which it leaves alone."""

import copy

import pytest
import torch
from conftest import tiny_spec
from network_helpers import (
    EVERY_STAGE,
    NETWORKS,
    assert_close,
    build,
    far,
    gradients,
    random_image,
)
from reference import evaluate
from torch import nn

from randwire_det.errors import UsageError, UserError
from randwire_det.network import RandWire, RandWireClassifier, graphed
from randwire_det.network.fusing import fuse
from randwire_det.network.stages import FoldedStage, RandomStage

WIDE = NETWORKS["padded widths"][1]


def reference(trunk, image):
    tensors = dict(trunk.named_parameters()) | dict(trunk.named_buffers())
    maps = evaluate(trunk.spec, tensors, image, training=False)
    return {name: maps[name].detach() for name in trunk.out_channels}


@torch.no_grad()
@pytest.mark.parametrize("network", NETWORKS)
def test_the_copy_is_the_same_function_and_the_trunk_is_left_alone(network):
    batch, spec = NETWORKS[network]
    trunk = build(spec, training=True, out_features=EVERY_STAGE)
    state = {name: each.clone() for name, each in trunk.state_dict().items()}
    image = random_image(batch)
    fused = trunk.fuse()
    assert all(type(stage) is not RandomStage for stage in fused.children())
    assert_close(fused(image), reference(trunk, image))
    assert trunk.training
    assert trunk.state_dict().keys() == state.keys()
    assert all(torch.equal(each, state[name]) for name, each in trunk.state_dict().items())


def test_later_changes_of_the_trunk_do_not_reach_the_copy():
    trunk, image = build(WIDE, training=False), random_image()
    fused = trunk.fuse()
    frozen = {name: each.detach() for name, each in fused(image).items()}

    def step():
        sum(each.square().mean() for each in trunk(image).values()).backward()
        torch.optim.SGD(trunk.parameters(), 1e-3).step()

    def in_place():
        trunk.conv4.nodes[1].norm.running_mean.add_(1)

    def load_one_node():
        other = build(WIDE)
        trunk.conv5.nodes[2].load_state_dict(other.conv5.nodes[2].state_dict())

    for change in (step, in_place, load_one_node):
        before = trunk(image)["conv5"].detach()
        change()
        changed = {name: each.detach() for name, each in trunk(image).items()}
        assert not torch.allclose(changed["conv5"], before)
        assert_close(changed, reference(trunk, image))  # nothing stale in the trunk
        assert_close(fused(image), frozen)
    tensors = {name: each * 1.5 for name, each in trunk.named_parameters()}
    called = torch.func.functional_call(trunk, tensors, (image,))
    expected = evaluate(trunk.spec, tensors | dict(trunk.named_buffers()), image, training=False)
    assert_close(called, {name: expected[name] for name in called})


@torch.no_grad()
def test_the_copy_can_be_copied_saved_and_trained_no_more(tmp_path):
    trunk, image = build(WIDE, training=False), random_image()
    fused, expected = trunk.fuse(), reference(trunk, image)
    assert not any(each.requires_grad for each in fused.parameters())
    assert_close(copy.deepcopy(fused)(image), expected)
    assert_close(fused.train()(image), expected)  # it has no other mode
    torch.save(fused.state_dict(), tmp_path / "fused.pth")
    other = build(WIDE, training=False).fuse()
    other.load_state_dict(torch.load(tmp_path / "fused.pth"))
    assert_close(other(image), expected)
    with pytest.raises(RuntimeError, match=r"Missing key.*pointwise"):
        trunk.load_state_dict(fused.state_dict())
    with pytest.raises(UserError, match="belong to another network"):
        build(tiny_spec(seed=2), training=False).fuse().load_state_dict(fused.state_dict())


def test_the_copy_has_gradients_of_its_input():
    trunk, image = build(WIDE, training=False), random_image()
    ours, expected = trunk.fuse()(image), trunk(image)
    assert_close(gradients(ours, {"image": image}), gradients(expected, {"image": image}))


@torch.no_grad()
def test_a_fused_classifier():
    classifier, image = RandWireClassifier(WIDE, 5, head_channels=16), torch.randn(4, 3, 64, 64)
    classifier(image)  # statistics of a batch
    fused, expected = classifier.fuse(), classifier.eval()(image)
    assert isinstance(fused.head.norm, nn.Identity)
    torch.testing.assert_close(fused(image), expected, rtol=1e-3, atol=1e-3)
    half = classifier.fuse(torch.bfloat16)(image)
    assert half.dtype == torch.float32
    assert (half - expected).norm() < 0.1 * expected.norm()
    dropping = RandWireClassifier(WIDE, 5, head_channels=16, dropout=0.9).fuse().train()
    assert torch.equal(dropping(image), dropping(image))


@torch.no_grad()
def test_a_trunk_anywhere_in_a_model_is_fused():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.ModuleDict({"bottom_up": build(WIDE, training=False)})
            self.head = nn.Conv2d(WIDE.stages[-1].channels, 2, 1).double()

        def forward(self, x):
            return self.head(self.backbone["bottom_up"](x)["conv5"])

    model, image = Detector(), random_image()
    fused = fuse(model)
    assert isinstance(fused.backbone["bottom_up"].conv5, FoldedStage)
    torch.testing.assert_close(fused(image), model(image))


@torch.no_grad()
def test_a_norm_that_cannot_be_folded_is_copied():
    trunk = build(tiny_spec(), norm=lambda channels: nn.GroupNorm(1, channels), training=False)
    image = random_image()
    fused = trunk.fuse()
    assert fused is not trunk
    assert_close(fused(image), trunk(image))


@torch.no_grad()
def test_a_dropped_edge_is_not_left_out_of_the_copy():
    trunk, image = build(tiny_spec(), training=True), random_image()
    trunk.drop_edge(trunk.droppable_edges()[0])
    assert_close(trunk.fuse()(image), reference(trunk, image))


@torch.no_grad()
@pytest.mark.parametrize("wanted", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_bfloat16_maps_come_from_bfloat16_arithmetic(wanted, autocast):
    trunk = build(WIDE, torch.float32, training=False)
    image = random_image(dtype=torch.float32)
    fused = trunk.fuse(wanted)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        maps = fused(image)
    half = wanted is not None or autocast
    assert {each.dtype for each in maps.values()} == {torch.bfloat16 if half else torch.float32}
    assert far(maps, trunk(image)) < (0.05 if half else 1e-5)


@torch.no_grad()
def test_the_copy_of_half_weights_with_full_norms_puts_out_half():
    trunk = build(WIDE, torch.float32, training=False)
    image = random_image(dtype=torch.float32)
    exact = trunk(image)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            module.bfloat16()
    maps = trunk.fuse()(image.bfloat16())
    assert {each.dtype for each in maps.values()} == {torch.bfloat16}
    assert far(maps, exact) < 0.05


def test_only_floats_are_computed_in():
    with pytest.raises(UserError, match=r"fuse\(torch.int8\): expected a floating dtype"):
        RandWire(tiny_spec()).fuse(torch.int8)


def test_a_cuda_graph_of_tensors_on_a_cpu_is_refused():
    with pytest.raises(UsageError, match="an input on cpu; expected one on a CUDA device"):
        graphed(torch.relu, torch.ones(2))
