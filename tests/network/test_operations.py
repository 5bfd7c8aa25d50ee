"""A node's operation: `StageSpec.op` is what is built, counted and run."""

import pytest
import torch
from conftest import tiny_spec
from network_helpers import assert_close, build, gradients, random_image, run_both
from reference import by_modules
from torch import nn

from randwire_det.network import operations
from randwire_det.network.nodes import Node
from randwire_det.spec import NetworkSpec, complexity, generator, spec


def test_every_operation_is_built_and_counted():
    names = set(spec.NODE_OPS)
    assert {"sep_conv3x3", "conv3x3", "max_pool3x3", "avg_pool3x3"} <= names
    assert names == operations.OPERATIONS.keys() == complexity.OPERATIONS.keys()


@pytest.mark.parametrize("op", spec.NODE_OPS)
@pytest.mark.parametrize("stride", [1, 2])
def test_the_count_is_that_of_the_layers(op, stride):
    node = Node(op, 5, 7, 1, stride, nn.BatchNorm2d)
    counted = complexity.OPERATIONS[op](5, 7, 4)
    assert counted.params + 2 * 7 == sum(each.numel() for each in node.parameters())
    macs = 0

    def count(layer, inputs, output):
        nonlocal macs
        macs += output.numel() * layer.weight[0].numel()

    for layer in node.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    assert node([torch.randn(1, 5, 4 * stride, 4 * stride)]).shape == (1, 7, 4, 4)
    assert counted.macs == macs


@pytest.mark.parametrize("op", spec.NODE_OPS)
@pytest.mark.parametrize("model", ["ws", "er"])
@pytest.mark.parametrize("training", [True, False])
def test_every_operation_equals_the_reference(op, model, training):
    """Maps, gradients and running statistics, on maps of odd sizes."""
    network = tiny_spec(model, op=op)
    assert {stage.op for stage in network.stages if stage.dag} == {op}
    trunk = build(network, training=training, out_features=network.stage_names)
    image = random_image()
    ours, expected, statistics = run_both(trunk, image)
    assert_close(ours, expected)
    of = {"image": image, **dict(trunk.named_parameters())}
    assert_close(gradients(ours, of), gradients(expected, of))
    floats = {name: each for name, each in trunk.named_buffers() if each.is_floating_point()}
    assert_close(floats, {name: statistics[name] for name in floats})


@pytest.mark.parametrize("op", spec.NODE_OPS)
def test_a_fused_network_of_any_operation(op):
    trunk, image = build(tiny_spec(op=op)).eval(), random_image()
    with torch.no_grad():
        assert_close(trunk.fuse()(image), trunk(image))


def test_a_new_operation_is_one_entry_in_each_table(monkeypatch):
    def conv1x1(in_channels, channels, stride, dilation):
        return {"conv": nn.Conv2d(in_channels, channels, 1, stride, bias=False)}

    def counted(in_channels, channels, size):
        weights = in_channels * channels
        return complexity.Complexity(weights, weights * size**2, channels * size**2)

    monkeypatch.setattr(spec, "NODE_OPS", (*spec.NODE_OPS, "conv1x1"))
    monkeypatch.setattr(generator, "NODE_OPS", spec.NODE_OPS)
    monkeypatch.setitem(operations.OPERATIONS, "conv1x1", conv1x1)
    monkeypatch.setitem(complexity.OPERATIONS, "conv1x1", counted)
    network = tiny_spec(op="conv1x1")
    assert NetworkSpec.from_json(network.to_json()) == network != tiny_spec()
    trunk, image = build(network), random_image()
    ours, expected = trunk(image), by_modules(trunk, image)
    assert_close(ours, expected)
    of = dict(trunk.named_parameters())
    assert_close(gradients(ours, of), gradients(expected, of))
    assert complexity.complexity(network, num_classes=None).params == params_of(trunk)


def params_of(trunk):
    return sum(each.numel() for each in trunk.parameters())
