"""The backbone in detectron2's contract: shapes, freezing, norms, gradients, the FPN builders."""

import itertools
import os

import pytest
import torch
from conftest import tiny_spec
from detection_helpers import one_input, parameters_without_gradient, tiny_config, tiny_detector
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone, build_model
from torch import nn

from randwire_det import UserError
from randwire_det.detection import RandWireBackbone
from randwire_det.network import RandWireClassifier

STAGES = ("conv1", "conv2", "conv3", "conv4", "conv5")
SUBSETS = [subset for size in range(1, 6) for subset in itertools.combinations(STAGES, size)]


@pytest.mark.parametrize("regime", ["small", "regular"])
@pytest.mark.parametrize("features", SUBSETS, ids="-".join)
def test_output_shape_is_what_forward_puts_out(features, regime):
    backbone = RandWireBackbone(
        spec=tiny_spec(regime=regime), out_features=features, norm="BN"
    ).eval()
    outputs = backbone(torch.randn(1, 3, 64, 96))
    shapes = backbone.output_shape()
    assert list(outputs) == list(shapes) == list(features)
    for name, output in outputs.items():
        stride = shapes[name].stride
        assert output.shape == (1, shapes[name].channels, 64 // stride, 96 // stride)
        assert stride == 2 ** int(name[-1])


@pytest.mark.parametrize("training", [True, False])
def test_outputs_with_a_relu_are_the_trunks_without_their_negative_part(training):
    """The same module with and without; the gradient stops at what the ReLU clips."""
    backbone = RandWireBackbone(spec=tiny_spec(), norm="BN", relu_outputs=True).train(training)
    image = torch.randn(2, 3, 64, 64, requires_grad=True)
    outputs = backbone(image)
    backbone.relu_outputs = False
    plain = backbone(image)
    for name, output in outputs.items():
        assert torch.equal(output, plain[name].clamp(min=0)) and (plain[name] < 0).any()
    sum(output.sum() for output in outputs.values()).backward()
    ours = image.grad.clone()
    image.grad = None
    sum((each * (each > 0)).sum() for each in plain.values()).backward()
    torch.testing.assert_close(ours, image.grad)
    assert RandWireBackbone(spec=tiny_spec()).relu_outputs is False


@pytest.mark.parametrize("relu", [True, False])
def test_the_key_reaches_the_backbone(relu):
    cfg = tiny_config(**{"MODEL.RANDWIRE.RELU_OUTPUTS": relu})
    assert build_backbone(cfg).bottom_up.relu_outputs is relu


def test_stages_past_the_last_feature_are_not_built():
    names = [
        n for n, _ in RandWireBackbone(spec=tiny_spec(), out_features=["conv3"]).named_modules()
    ]
    assert "trunk.conv3" in names
    assert not any(name.startswith(("trunk.conv4", "trunk.conv5")) for name in names)


@pytest.mark.parametrize("freeze_at", range(6))
@pytest.mark.parametrize("norm", ["BN", "SyncBN", "GN"])
def test_freeze_at_freezes_exactly_the_stages_it_says(freeze_at, norm):
    backbone = RandWireBackbone(spec=tiny_spec(), norm=norm, freeze_at=freeze_at)
    frozen = {f"trunk.{stage}" for stage in STAGES[:freeze_at]}
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (".".join(name.split(".")[:2]) not in frozen), name
    for name, module in backbone.named_modules():
        if name.endswith(".norm") and norm != "GN":
            inside = ".".join(name.split(".")[:2]) in frozen
            assert isinstance(module, FrozenBatchNorm2d) == inside, name


def test_a_training_step_moves_neither_weights_nor_statistics_of_frozen_stages():
    backbone = RandWireBackbone(spec=tiny_spec(), norm="BN", freeze_at=3).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1, weight_decay=0.1)
    sum(output.sum() for output in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    optimizer.step()
    for name, value in backbone.state_dict().items():
        moves = name.startswith(("trunk.conv4", "trunk.conv5"))
        changed = not torch.equal(before[name], value)
        assert changed <= moves, name
        if name.endswith((".running_mean", "pointwise.weight")):
            assert changed == moves, name


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        ("FrozenBN", FrozenBatchNorm2d),
        ("BN", nn.BatchNorm2d),
        ("SyncBN", nn.SyncBatchNorm),
        ("GN", nn.GroupNorm),
    ],
)
def test_norm_is_the_one_asked_for_in_every_node(norm, kind):
    backbone = RandWireBackbone(spec=tiny_spec(), norm=norm)
    norms = [module for name, module in backbone.named_modules() if name.endswith(".norm")]
    assert len(norms) > 30
    # BN subclasses differ per detectron2 release, but none of the four is another's subclass.
    assert all(isinstance(module, kind) for module in norms)


def test_group_norm_takes_any_width():
    backbone = RandWireBackbone(spec=tiny_spec(channels=109, nodes=5), norm="GN")
    groups = {m.num_channels: m.num_groups for m in backbone.modules() if hasattr(m, "num_groups")}
    assert groups[109] == 1  # a prime
    assert groups[436] == 4


def test_features_are_those_of_the_classifier():
    """One trunk: what the classifier learnt is what the detector sees."""
    classifier = RandWireClassifier(tiny_spec(), num_classes=3)
    classifier(torch.randn(4, 3, 64, 64))  # gives BN statistics of its own
    backbone = RandWireBackbone(spec=tiny_spec(), norm="FrozenBN")
    weights = {
        name: value for name, value in classifier.state_dict().items() if name.startswith("trunk.")
    }
    assert not backbone.load_state_dict(weights, strict=False).missing_keys
    x = torch.randn(2, 3, 48, 80)
    expected = classifier.eval().trunk(x)["conv5"]
    torch.testing.assert_close(backbone(x)["conv5"], expected)


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"norm": "LN"}, ["LN", "FrozenBN, BN, SyncBN, GN"]),
        ({"freeze_at": 6}, ["6", "0 (freeze nothing) to 5"]),
        ({"freeze_at": -1}, ["-1", "0 (freeze nothing) to 5"]),
        ({"out_features": ["res6"]}, ["res6", "conv1, conv2"]),
        ({"out_features": []}, ["[]", "conv1, conv2"]),
    ],
)
def test_bad_arguments_are_named(changes, fragments):
    with pytest.raises(UserError) as caught:
        RandWireBackbone(spec=tiny_spec(), **changes)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN"])
@pytest.mark.parametrize("freeze_at", [0, 2, 5])
def test_faster_rcnn_trains_every_parameter(norm, freeze_at):
    model = tiny_detector(**{"MODEL.RANDWIRE.NORM": norm, "MODEL.BACKBONE.FREEZE_AT": freeze_at})
    assert parameters_without_gradient(model, [one_input(), one_input(90, 70)]) == []


def test_retinanet_trains_every_parameter():
    model = tiny_detector(
        **{
            "MODEL.META_ARCHITECTURE": "RetinaNet",
            "MODEL.BACKBONE.NAME": "build_retinanet_randwire_fpn_backbone",
            "MODEL.FPN.IN_FEATURES": "['conv3', 'conv4', 'conv5']",
            "MODEL.ANCHOR_GENERATOR.SIZES": "[[32], [64], [128], [256], [512]]",
            "MODEL.RETINANET.IN_FEATURES": "['p3', 'p4', 'p5', 'p6', 'p7']",
            "MODEL.RETINANET.NUM_CLASSES": 3,
        }
    )
    strides = {name: shape.stride for name, shape in model.backbone.output_shape().items()}
    assert strides == {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}
    assert parameters_without_gradient(model, [one_input()]) == []


def test_backbone_without_fpn_and_detection_of_an_image():
    cfg = tiny_config(**{"MODEL.BACKBONE.NAME": "build_randwire_backbone"})
    assert isinstance(build_backbone(cfg), RandWireBackbone)
    model = tiny_detector().eval()
    assert len(model([one_input(75, 101)])[0]["instances"]) <= 100


@pytest.mark.parametrize(
    ("put_out", "read"),
    [
        ("['conv2', 'conv3', 'conv4', 'conv5']", "['conv2', 'conv3', 'conv4']"),
        ("['conv3', 'conv4']", "['conv3', 'conv4', 'conv5']"),
        ("['conv3', 'conv4']", "[]"),
        ("['conv2', 'conv3', 'conv4']", "['conv2', 'conv4']"),
        ("['conv2', 'conv3']", "['conv3', 'conv2']"),
    ],
    ids=["conv5 gets no gradient", "conv5 is not there", "nothing is read", "a gap", "reversed"],
)
def test_fpn_features_that_do_not_fit_are_refused(put_out, read):
    cfg = tiny_config(**{"MODEL.RANDWIRE.OUT_FEATURES": put_out, "MODEL.FPN.IN_FEATURES": read})
    with pytest.raises(UserError, match=r"MODEL\.FPN\.IN_FEATURES"):
        build_model(cfg)


def test_spec_file_takes_the_place_of_the_generator(tmp_path):
    spec = tiny_spec("ba")
    path = tmp_path / "spec.json"
    path.write_text(spec.to_json())
    backbone = build_backbone(tiny_config(**{"MODEL.RANDWIRE.SPEC": path}))
    assert backbone.bottom_up.trunk.spec == spec


def test_a_spec_that_is_no_file_or_too_large_for_the_machine_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "large.json").write_text(tiny_spec(channels=10**6).to_json())
    for name, fragment in (("pipe.json", "a pipe or a device"), ("large.json", "GB of memory")):
        path = tmp_path / name
        with pytest.raises(UserError, match=f"{path}.*{fragment}"):
            build_backbone(tiny_config(**{"MODEL.RANDWIRE.SPEC": path}))


LEVELS = {
    "": ["p2", "p3", "p4", "p5", "p6"],
    "maxpool": ["p2", "p3", "p4", "p5", "p6"],
    "p6p7": ["p2", "p3", "p4", "p5", "p6", "p7"],
    "p6p7_from_fpn": ["p2", "p3", "p4", "p5", "p6", "p7"],
    "p6_from_fpn": ["p2", "p3", "p4", "p5", "p6"],
    "none": ["p2", "p3", "p4", "p5"],
}


@pytest.mark.parametrize("top", LEVELS)
def test_the_levels_above_an_fpn_are_those_of_its_top_block(top):
    fpn = build_backbone(tiny_config(**{"MODEL.RANDWIRE.TOP_BLOCK": top})).eval()
    image = torch.randn(1, 3, 128, 192)
    levels = fpn(image)
    assert list(levels) == list(fpn.output_shape()) == LEVELS[top]
    for name, level in levels.items():
        stride = 2 ** int(name[1])
        assert fpn.output_shape()[name].stride == stride
        assert level.shape[2:] == (-(-128 // stride), -(-192 // stride))
    if top.startswith("p6"):
        source = levels["p5"] if "from_fpn" in top else fpn.bottom_up(image)["conv5"]
        assert torch.equal(levels["p6"], fpn.top_block.p6(source))


@pytest.mark.parametrize("top", ["maxpool", "p6_from_fpn"])
def test_a_top_block_reads_the_last_level_where_that_is_not_p5(top):
    features = ["conv2", "conv3", "conv4"]
    keys = {"MODEL.RANDWIRE.OUT_FEATURES": features, "MODEL.FPN.IN_FEATURES": features}
    fpn = build_backbone(tiny_config(**keys, **{"MODEL.RANDWIRE.TOP_BLOCK": top}))
    assert list(fpn(torch.randn(1, 3, 64, 64))) == ["p2", "p3", "p4", "p5"]


def test_an_unknown_top_block_is_refused():
    with pytest.raises(UserError, match=r"TOP_BLOCK 'p8'.*maxpool"):
        build_backbone(tiny_config(**{"MODEL.RANDWIRE.TOP_BLOCK": "p8"}))
