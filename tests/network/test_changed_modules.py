"""A trunk whose modules were changed computes what its modules compute, and so does its copy."""

import copy

import pytest
import torch
from conftest import tiny_spec
from detectron2.layers import FrozenBatchNorm2d
from module_changes import CHANGES, GLOBAL_CHANGES, OUTER_CHANGES, STAGE_CHANGES
from network_helpers import assert_close, build, gradients, random_image
from reference import by_modules
from torch import nn
from torch.nn.utils import parametrizations

from randwire_det.network import RandWireClassifier
from randwire_det.network.stages import RandomStage

SPEC = tiny_spec("ws", nodes=5, k=2, channels=3)
IMAGE = (2, 40, 33)


def check(trunk, image, before):
    """Output and gradients, then a fused copy: as the modules, and not as they were before."""
    of = {name: each for name, each in trunk.named_parameters() if each.requires_grad}
    of["image"] = image
    ours = trunk(image)
    expected = by_modules(trunk, image)
    assert_close(ours, expected)
    assert_close(gradients(ours, of, True), gradients(expected, of, True))
    with torch.no_grad():
        trunk.eval()
        changed = trunk(image)["conv5"]
        # Or the test would show nothing.
        assert changed.shape != before.shape or not torch.allclose(changed, before)
        assert_close(trunk(image), by_modules(trunk, image))
        assert_close(trunk.fuse()(image), by_modules(trunk, image))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_node_counts(name, training):
    trunk, image = build(SPEC, training=False), random_image(*IMAGE)
    before = trunk(image)["conv5"]
    for node in (trunk.conv4.nodes[0], trunk.conv5.nodes[3]):  # one reads the stage's input
        CHANGES[name](node)
    trunk.train(training)
    for module in trunk.modules():
        if isinstance(module, parametrizations._SpectralNorm):
            module.eval()  # else each forward has other weights
    check(trunk, image, before)


@pytest.mark.parametrize("name", STAGE_CHANGES)
def test_a_changed_stage_counts(name):
    trunk, image = build(SPEC, training=False), random_image(*IMAGE)
    before = trunk(image)["conv5"]
    STAGE_CHANGES[name](trunk.conv4)
    check(trunk, image, before)


@pytest.mark.parametrize("name", GLOBAL_CHANGES)
def test_a_change_of_all_modules_counts(name):
    trunk, image = build(SPEC, training=False), random_image(*IMAGE)
    before = trunk(image)["conv5"]
    undo = GLOBAL_CHANGES[name]()
    try:
        check(trunk, image, before)
    finally:
        undo()
    assert torch.equal(trunk(image)["conv5"], before)


@pytest.mark.parametrize("part", ["conv1", "conv2"])
@pytest.mark.parametrize("name", ["own_epsilon", "hooked_conv", "dilated"])
def test_a_changed_single_convolution_counts(name, part):
    trunk, image = build(SPEC, training=False), random_image(*IMAGE)
    before, stage = trunk(image)["conv5"], getattr(trunk, part)
    if name == "own_epsilon":
        stage.norm.eps = 0.5
    elif name == "dilated":
        stage.conv.dilation, stage.conv.padding = (2, 2), (2, 2)
    else:
        stage.conv.register_forward_hook(lambda module, inputs, output: 2 * output)
    check(trunk, image, before)


@torch.no_grad()
@pytest.mark.parametrize("part", ["conv1", "conv4", "head"])
@pytest.mark.parametrize("name", OUTER_CHANGES)
def test_a_change_around_a_stage_counts_in_the_copy(name, part):
    model, image = RandWireClassifier(SPEC, 3, head_channels=4).eval(), torch.randn(2, 3, 40, 33)
    nn.init.normal_(model.head.fc.weight)
    before = model(image)
    OUTER_CHANGES[name](model.head if part == "head" else getattr(model.trunk, part))
    assert not torch.allclose(model(image), before)
    torch.testing.assert_close(model.fuse()(image), model(image), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_change_of_a_stage_class_counts_in_the_copy(monkeypatch):
    trunk, image = build(SPEC, training=False), random_image(*IMAGE)
    before = RandomStage.forward
    monkeypatch.setattr(RandomStage, "forward", lambda *args: 2 * before(*args))
    assert_close(trunk.fuse()(image), trunk(image))


@torch.no_grad()
@pytest.mark.parametrize("change", ["hook", "module"])
def test_what_stands_in_the_dropouts_place_counts_in_the_copy(change):
    model, image = RandWireClassifier(SPEC, 3, head_channels=4).eval(), torch.randn(2, 3, 40, 33)
    nn.init.normal_(model.head.fc.weight)
    before = model(image)
    if change == "hook":
        model.head.dropout.register_forward_hook(lambda module, inputs, output: 3 * output)
    else:
        model.head.dropout = nn.Sequential(nn.LayerNorm(4), nn.Dropout(0.5)).eval()
    assert not torch.allclose(model(image), before)
    torch.testing.assert_close(model.fuse()(image), model(image), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_patched_class_of_frozen_norms_counts(monkeypatch):
    trunk, image = build(SPEC, norm=FrozenBatchNorm2d, training=False), random_image(*IMAGE)
    before = FrozenBatchNorm2d.forward
    monkeypatch.setattr(FrozenBatchNorm2d, "forward", lambda self, x: 2 * before(self, x))
    expected = by_modules(trunk, image)
    assert_close(trunk(image), expected)
    assert_close(trunk.fuse()(image), expected)


def test_a_norm_that_counts_no_batches_trains():
    trunk, image = build(SPEC), random_image(*IMAGE)
    trunk.conv4.nodes[1].norm.num_batches_tracked = None  # torch allows it
    expected = by_modules(copy.deepcopy(trunk), image)
    assert_close(trunk(image), expected)


def as_attributes(module):
    """A replica as DataParallel's: its parameters are plain attributes, computed from the real."""
    replica = module._replicate_for_data_parallel()
    for name, child in module.named_children():
        setattr(replica, name, as_attributes(child))
    replica._buffers = dict(module._buffers)
    replica._parameters = dict.fromkeys(module._parameters)
    for name, parameter in module.named_parameters(recurse=False):
        del replica._parameters[name]
        setattr(replica, name, 1 * parameter)
    return replica


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_replica_learns_behind_a_frozen_stage(training):
    trunk, image = build(SPEC, training=training), random_image(*IMAGE).detach()
    trunk.conv1.requires_grad_(False)
    trunk.conv2.requires_grad_(False)
    of = {name: each for name, each in trunk.named_parameters() if each.requires_grad}
    ours = gradients(as_attributes(trunk)(image), of)
    assert_close(ours, gradients(by_modules(trunk, image), of))
