"""The competitors are torchvision's networks at width 1, start as in [11], and shrink in scale."""

import pytest
import torch
import torchvision
from counting import count
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from pretrain.baselines import (
    NAMES,
    baseline_complexity,
    build_baseline,
    detectron2_keys,
    to_detectron2,
)
from randwire_det.errors import UsageError, UserError


def shapes(model):
    return [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]


def on_meta(name, num_classes=1000, width=1.0):
    """Without memory or random numbers: for names and shapes."""
    with torch.device("meta"):
        return build_baseline(name, num_classes, width)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "resnet18_cifar"])
def test_width_1_is_torchvisions(name):
    with torch.device("meta"):
        if name == "resnext101_32x4d":  # for which torchvision has no function
            theirs = ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4)
        else:
            theirs = getattr(torchvision.models, name)()
    assert shapes(on_meta(name)) == shapes(theirs)


def test_outputs_are_torchvisions():
    ours = build_baseline("resnext50_32x4d", 7).eval()
    theirs = torchvision.models.resnext50_32x4d(num_classes=7).eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_residual_blocks_start_as_the_identity_and_fc_small(name):
    model = build_baseline(name, 1000, 0.25)
    blocks = [block for stage in range(1, 5) for block in getattr(model, f"layer{stage}")]
    image = torch.randn(2, blocks[0].conv1.in_channels, 8, 8).relu()
    for block in blocks:
        shortcut = block.downsample or nn.Identity()
        assert torch.equal(block(image), shortcut(image).relu())
        image = block(image)
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not model.fc.bias.any()


@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 0.5), ("resnet50", 0.25), ("resnext50_32x4d", 0.25)]
)
def test_width_multiplies_every_channel_count(name, width):
    wide, narrow = on_meta(name, 10), on_meta(name, 10, width)
    convolutions = 0
    for ours, theirs in zip(narrow.modules(), wide.modules(), strict=True):
        if isinstance(ours, nn.Conv2d):
            convolutions += 1
            assert ours.out_channels == theirs.out_channels * width
            assert ours.in_channels == (3 if ours is narrow.conv1 else theirs.in_channels * width)
            assert (ours.groups, ours.stride) == (theirs.groups, theirs.stride)
    assert convolutions >= 20
    model = build_baseline(name, 10, width)
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_channels_are_rounded_in_the_first_stage_and_then_double():
    model = on_meta("resnet50", 10, 0.3)  # 19.2 channels
    outputs = [getattr(model, f"layer{stage}")[-1].conv3.out_channels for stage in range(1, 5)]
    assert [model.conv1.out_channels, *outputs] == [19, 19 * 4, 19 * 8, 19 * 16, 19 * 32]


@pytest.mark.parametrize(
    ("name", "width", "fragments"),
    [
        ("resnet5", 1.0, ["'resnet5'", "did you mean resnet50?", "randwire", *NAMES]),
        ("randwires", 1.0, ["did you mean randwire?"]),
        ("", 1.0, ["''", "resnet18"]),
        ("resnet50", 0.0, ["0.0", "1/64"]),
        ("mobilenet_v2", 0.0, ["0.0", "1/64"]),
        ("resnet50", 0.001, ["0.001"]),
        ("resnet50", -1.0, ["-1.0"]),
        ("resnet50", float("nan"), ["nan"]),
        ("resnet50", float("inf"), ["inf"]),
        ("resnext50_32x4d", 0.3, ["0.3", "32 groups", "multiple of 1/4"]),
        ("resnext50_32x4d", 0.02, ["0.02", "32 groups"]),
    ],
)
def test_what_cannot_be_built_is_a_usage_error(name, width, fragments):
    for call in (build_baseline, baseline_complexity):
        with pytest.raises(UsageError) as caught:
            call(name, width=width, num_classes=3)
        for fragment in fragments:
            assert fragment in str(caught.value)


def test_mobilenet_shrinks_and_trains_every_parameter():
    model = build_baseline("mobilenet_v2", 10, 0.42)
    whole, narrow = (baseline_complexity("mobilenet_v2", width, 64, 10) for width in (1, 0.42))
    assert narrow.macs < 0.3 * whole.macs and narrow.params < 0.3 * whole.params
    assert not [layer for layer in model.modules() if isinstance(layer, nn.Dropout) and layer.p]
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18_cifar"])
def test_what_detectron2_does_not_have_is_refused(name):
    with pytest.raises(UserError, match=f"{name}: detectron2 has no such network"):
        detectron2_keys(name, 1.0)
    with pytest.raises(UserError, match=f"{name}: detectron2 has no such network"):
        to_detectron2({}, name, 1.0)


def test_the_resnet_for_cifar_keeps_small_pictures_large():
    """The stem alone differs from ResNet-18's: 3x3 and stride 1 (Kaiming He et al. 2015, 4.2)."""
    ours, other = (build_baseline(name, 10) for name in ("resnet18_cifar", "resnet18"))
    assert ours.conv1.weight.shape == (64, 3, 3, 3)
    shapes = {name: each.shape for name, each in ours.state_dict().items()}
    others = {name: each.shape for name, each in other.state_dict().items()}
    assert shapes | {"conv1.weight": others["conv1.weight"]} == others
    x = torch.randn(2, 3, 32, 32)
    assert ours.layer1(ours.maxpool(ours.conv1(x))).shape == (2, 64, 32, 32)
    assert ours(x).shape == (2, 10)


# Parameters in M and multiply-adds in G at 224 x 224, as torchvision's documentation states them.
PUBLISHED = {
    "resnet18": (11.69, 1.81),
    "resnet34": (21.80, 3.66),
    "resnet50": (25.56, 4.09),
    "resnet101": (44.55, 7.80),
    "resnet152": (60.19, 11.51),
    "resnext50_32x4d": (25.03, 4.23),
    "mobilenet_v2": (3.50, 0.30),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name):
    counted = baseline_complexity(name)
    assert (round(counted.params / 1e6, 2), round(counted.macs / 1e9, 2)) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "width"), [("resnext101_32x4d", 1.0), ("resnet18_cifar", 0.5), ("mobilenet_v2", 0.42)]
)
def test_counts_are_fvcores(name, width):
    counted = baseline_complexity(name, width, input_size=96, num_classes=10)
    model, image = build_baseline(name, 10, width).eval(), torch.randn(1, 3, 96, 96)
    assert counted.params == sum(parameter.numel() for parameter in model.parameters())
    assert counted.macs == count(FlopCountAnalysis, model, image)
    assert counted.activations == count(ActivationCountAnalysis, model, image)
