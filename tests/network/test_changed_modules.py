"""A trunk whose modules were changed computes what its modules compute, and so does its copy."""

import pytest
import torch
from conftest import tiny_spec
from module_changes import CHANGES, GLOBAL_CHANGES, STAGE_CHANGES
from network_helpers import assert_close, build, gradients, random_image
from reference import by_modules
from torch.nn.utils import parametrizations

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
