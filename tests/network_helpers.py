"""Small networks that cover every wiring, run side by side with the reference evaluator."""

import torch
from reference import evaluate
from specs import tiny_spec

from randwire_det.network import RandWire

EVERY_STAGE = ("conv1", "conv2", "conv3", "conv4", "conv5")
# Odd widths, odd maps (37 x 53), N from 1 up, isolated nodes, every in-degree; batch sizes in turn.
NETWORKS = {
    "one node": (1, tiny_spec("er", nodes=1, p=0, channels=1)),
    "isolated nodes only": (2, tiny_spec("er", nodes=3, p=0, channels=3)),
    "er regular": (1, tiny_spec("er", nodes=11, p=0.2, channels=5, regime="regular", seed=2)),
    "er complete": (3, tiny_spec("er", nodes=5, p=1, channels=2)),
    "ba of two nodes": (2, tiny_spec("ba", nodes=2, m=1, channels=7)),
    "ba regular": (1, tiny_spec("ba", nodes=9, m=2, channels=3, regime="regular")),
    "ws small": (2, tiny_spec("ws", nodes=7, k=4, p=0.5, channels=5)),
    "padded widths": (2, tiny_spec("ws", nodes=10, channels=31, regime="regular")),
    "ws regular": (1, tiny_spec("ws", nodes=12, channels=3, regime="regular", seed_per_stage=True)),
}
# Largest difference allowed, relative to the largest element of all tensors compared: behind BN
# some gradients are zero but for rounding.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-4}


def build(spec, dtype=torch.float64, training=True, **arguments):
    """A trunk whose every parameter and running statistic matters."""
    trunk = RandWire(spec, **arguments).to(dtype).train(training)
    with torch.no_grad():
        for name, tensor in trunk.state_dict().items():
            if name.endswith("edge_logits"):
                tensor.normal_(std=2)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name.endswith(("norm.weight", "norm.bias", "running_mean")):
                tensor.normal_()
    return trunk


def random_image(batch=2, height=37, width=53, dtype=torch.float64):
    return torch.randn(batch, 3, height, width, dtype=dtype, requires_grad=True)


def gradients(maps, of, unused_are_zero=False):
    """Of one scalar that hangs on every element of every map in another way."""
    fixed = torch.Generator().manual_seed(1)
    loss = sum(
        (each * torch.randn(each.shape, generator=fixed).to(each)).sum() for each in maps.values()
    )
    found = torch.autograd.grad(loss, list(of.values()), materialize_grads=unused_are_zero)
    return dict(zip(of, found, strict=True))


def assert_close(ours, expected):
    assert ours.keys() == expected.keys()
    scale = max(each.abs().max() for each in expected.values())
    for name in expected:
        worst = (ours[name] - expected[name]).abs().max() / scale
        assert worst <= TOLERANCE[expected[name].dtype], f"{name}: off by {worst:.1e}"


def run_both(trunk, image):
    """Maps and running statistics of the trunk, and those of the reference evaluator."""
    parameters = dict(trunk.named_parameters())
    statistics = {name: buffer.clone() for name, buffer in trunk.named_buffers()}
    expected = evaluate(
        trunk.spec,
        parameters | statistics,
        image,
        trunk.training,
        output_stride=trunk.output_stride,
    )
    ours = trunk(image)
    return ours, expected, statistics


def far(maps, exact):
    """Root mean square of the differences, relative to that of the exact values."""
    with torch.no_grad():
        differences = torch.cat([(maps[name].float() - exact[name]).flatten() for name in exact])
        whole = torch.cat([each.flatten() for each in exact.values()])
        return float(differences.norm() / whole.norm())
