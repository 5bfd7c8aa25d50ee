"""A node's operation: `StageSpec.op` is what is built, counted and run."""

import pytest
import torch
from conftest import tiny_spec
from network_helpers import assert_close, build, gradients, random_image
from reference import by_modules
from torch import nn

from randwire_det.network import RandWire, operations
from randwire_det.network.nodes import Node
from randwire_det.spec import NetworkSpec, StageSpec, complexity, spec


def test_every_operation_is_built_and_counted():
    names = set(spec.NODE_OPS)
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


def test_a_new_operation_is_one_entry_in_each_table(monkeypatch):
    def max_pool(in_channels, channels, stride):
        pool = nn.MaxPool2d(3, stride, padding=1)
        return {"pool": pool, "pointwise": nn.Conv2d(in_channels, channels, 1, bias=False)}

    def counted(in_channels, channels, size):
        weights = in_channels * channels
        return complexity.Complexity(weights, weights * size**2, channels * size**2)

    monkeypatch.setattr(spec, "NODE_OPS", (*spec.NODE_OPS, "max_pool"))
    monkeypatch.setitem(operations.OPERATIONS, "max_pool", max_pool)
    monkeypatch.setitem(complexity.OPERATIONS, "max_pool", counted)
    first, second, wired, *rest = tiny_spec().stages
    pooled = StageSpec("conv3", wired.channels, wired.dag, "max_pool")
    network = NetworkSpec((first, second, pooled, *rest))
    assert NetworkSpec.from_json(network.to_json()) == network != tiny_spec()
    trunk, image = build(network), random_image()
    assert any(isinstance(each, nn.MaxPool2d) for each in trunk.conv3.modules())
    ours, expected = trunk(image), by_modules(trunk, image)
    assert_close(ours, expected)
    of = dict(trunk.named_parameters())
    assert_close(gradients(ours, of), gradients(expected, of))
    with torch.no_grad():
        trunk.eval()
        assert_close(trunk.fuse()(image), by_modules(trunk, image))
    params = complexity.complexity(network, num_classes=None).params
    assert params == params_of(trunk)
    assert params_of(RandWire(tiny_spec())) > params_of(trunk)


def params_of(trunk):
    return sum(each.numel() for each in trunk.parameters())
