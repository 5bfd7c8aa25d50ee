"""A converted baseline gives detectron2's ResNet the very features that torchvision's has."""

import shlex

import pytest
import torch
from conftest import assert_refused, run_tool, tiny_spec
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from pretrain.baselines import build_baseline, to_detectron2
from randwire_det.errors import UserError
from randwire_det.network import RandWireClassifier
from randwire_det.run.checkpoint import Preprocessing, save_checkpoint

STAGES = {f"layer{stage}": f"res{stage + 1}" for stage in range(1, 5)}
PREPROCESSING = Preprocessing(mean=(120.0, 110.0, 100.0), std=(60.0, 50.0, 40.5))


def trained(name, width):
    """A baseline whose every parameter and BN statistic is far from where it started."""
    model = build_baseline(name, 5, width)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    for _ in range(2):
        model(torch.randn(4, 3, 64, 64))
    return model.eval()


def save_baseline(path, model, name, width):
    save_checkpoint(
        path,
        kind="baseline",
        model=model.state_dict(),
        spec=None,
        architecture={"name": name, "width": width},
        preprocessing=PREPROCESSING,
        classes=list("abcde"),
    )


def convert(tmp_path, name="resnet50", width=1 / 16, model=None):
    """The finished command on a checkpoint of `model`, or of a fresh one."""
    save_baseline(tmp_path / "b.pth", model or build_baseline(name, 5, width), name, width)
    return run_tool("convert_baseline.py", tmp_path / "b.pth", "--output", tmp_path / "d 2.pth")


@pytest.mark.parametrize(
    ("name", "width", "builder", "norm"),
    [
        ("resnet18", 1.0, "build_resnet_fpn_backbone", "FrozenBN"),
        ("resnet50", 0.25, "build_resnet_backbone", "FrozenBN"),
        ("resnext50_32x4d", 0.25, "build_resnet_fpn_backbone", "BN"),
    ],
)
def test_detectron2_computes_the_same_features(tmp_path, name, width, builder, norm):
    ours = trained(name, width)
    done = convert(tmp_path, name, width, ours)
    assert done.returncode == 0, done.stderr

    cfg = get_cfg()
    cfg.merge_from_list(shlex.split(done.stdout.replace("\\\n", "")))
    cfg.merge_from_list(["MODEL.RESNETS.NORM", norm])
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = list(STAGES.values())
    assert (
        "RGB",
        list(PREPROCESSING.mean),
        list(PREPROCESSING.std),
    ) == (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    detector = nn.Module()  # detectron2's have their backbone under this name
    detector.backbone = BACKBONE_REGISTRY.get(builder)(cfg, ShapeSpec(channels=3)).eval()
    resnet = detector.backbone.bottom_up if "fpn" in builder else detector.backbone
    with torch.no_grad():
        for tensor in resnet.state_dict().values():
            tensor.fill_(7)  # would show if nothing came to replace it
    DetectionCheckpointer(detector).resume_or_load(cfg.MODEL.WEIGHTS, resume=False)
    for key, tensor in resnet.state_dict().items():
        assert key.endswith("num_batches_tracked") or not (tensor == 7).all(), key

    image = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        theirs = resnet(image)
        expected = create_feature_extractor(ours, STAGES)(image)
    for stage in STAGES.values():
        assert expected[stage].std() > 0.1
        torch.testing.assert_close(theirs[stage], expected[stage])


def test_the_file_is_plain_and_says_how_it_was_trained(tmp_path):
    assert convert(tmp_path).returncode == 0
    data = torch.load(tmp_path / "d 2.pth", weights_only=True)
    assert data["architecture"] == {"name": "resnet50", "width": 1 / 16}
    assert Preprocessing.from_dict(data["preprocessing"]) == PREPROCESSING
    assert not any("fc" in name or "linear" in name for name in data["model"])


def test_an_older_file_is_never_overwritten(tmp_path):
    (tmp_path / "d 2.pth").write_bytes(b"mine")
    done = convert(tmp_path)
    assert_refused(done, f"{tmp_path / 'd 2.pth'} exists already")
    assert done.returncode == 2
    assert (tmp_path / "d 2.pth").read_bytes() == b"mine"


def test_a_name_that_detectron2_would_not_read_is_refused(tmp_path):
    done = run_tool("convert_baseline.py", tmp_path / "b.pth", "--output", tmp_path / "d.pkl")
    assert_refused(done, "d.pkl", ".pth")


@pytest.mark.parametrize(
    ("claimed", "built", "fragments"),
    [
        (("resnet50", 0.125), ("resnet50", 0.0625), ["resnet50 in width 0.125"]),
        (("resnet101", 0.0625), ("resnet50", 0.0625), ["resnet101", "res4.10"]),
        (("resnet50", 0.0625), ("resnet101", 0.0625), ["resnet50", "res4.10", "none"]),
    ],
)
def test_weights_of_another_network_are_refused(claimed, built, fragments):
    name, width = built
    with pytest.raises(UserError) as caught:
        to_detectron2(build_baseline(name, 5, width).state_dict(), *claimed)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_what_detectron2_cannot_build_is_refused(tmp_path):
    done = convert(tmp_path, "resnet18", 0.5)
    assert_refused(done, "b.pth", "resnet18 of width 0.5", "resnet50")
    assert not (tmp_path / "d 2.pth").exists()


def test_a_randwire_needs_no_conversion(tmp_path):
    spec = tiny_spec()
    save_checkpoint(
        tmp_path / "r.pth",
        kind="classifier",
        model=RandWireClassifier(spec, 5, head_channels=8).state_dict(),
        spec=spec,
        preprocessing=Preprocessing(),
    )
    done = run_tool("convert_baseline.py", tmp_path / "r.pth", "--output", tmp_path / "d.pth")
    assert_refused(done, "r.pth is a classifier, expected a baseline")
