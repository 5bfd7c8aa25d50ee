"""Every shipped config builds what it says, trains a step, and reads no key that is not there."""

import pytest
import torch
from conftest import REPO
from counting import aggregation_macs, count
from detection_helpers import one_input, parameters_without_gradient
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

import pretrain.config
from pretrain import recipe
from pretrain.baselines import baseline_complexity, build_baseline
from randwire_det.complexity import complexity
from randwire_det.config_files import SHIPPED, config_path, merge_config
from randwire_det.detection import add_randwire_config
from randwire_det.detection.checkpointer import preprocessing_from_config
from randwire_det.detection.datasets import add_coco_datasets_config
from randwire_det.spec_config import spec_from_config

DETECTION = sorted(path.name for path in SHIPPED.glob("*.yaml"))
PRETRAINING = sorted(path.name for path in (SHIPPED / "pretrain").glob("*.yaml"))


def detection_config(name):
    cfg = get_cfg()
    add_randwire_config(cfg)
    add_coco_datasets_config(cfg)
    merge_config(cfg, name, ["MODEL.DEVICE", "cpu"])
    return cfg


def pretraining_config(name):
    cfg = pretrain.config.get_cfg()
    merge_config(cfg, f"pretrain/{name}", [])
    return cfg


RANDWIRE, BASELINE = (
    [
        name
        for name in PRETRAINING
        if name != "base.yaml"
        and (pretraining_config(name).MODEL.NAME == "randwire") is is_randwire
    ]
    for is_randwire in (True, False)
)
# Table 3: multiply-adds in G, parameters in M.
COMPETITORS = {
    "resnet50.yaml": (4.1, 25.6),
    "resnext50_32x4d.yaml": (4.2, 25.0),
    "resnet101.yaml": (7.8, 44.6),
    "resnext101_32x4d.yaml": (8.0, 44.2),
}


def test_the_issue_of_the_paper_is_shipped():
    assert {"faster_rcnn_randwire_c109.yaml", "faster_rcnn_randwire_c154.yaml"} <= set(DETECTION)
    assert {f"randwire_ws_c{c}.yaml" for c in (78, 109, 154)} <= set(RANDWIRE)
    assert set(COMPETITORS) <= set(BASELINE)


@pytest.mark.parametrize("name", DETECTION)
def test_detector_trains_every_parameter_and_detects(name):
    cfg = detection_config(name)
    torch.set_flush_denormal(True)  # untrained maps vanish: slow, and not what is asked here
    model = build_model(cfg)
    image = one_input(160, 192, num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    assert parameters_without_gradient(model, [image]) == []
    with torch.no_grad():
        assert "instances" in model.eval()([image])[0]


@pytest.mark.parametrize("name", DETECTION)
def test_detector_and_its_pretraining_agree(name):
    """The wiring and the preprocessing, so that MODEL.WEIGHTS takes the pretraining's file."""
    partner = {
        "faster_rcnn_randwire_c154.yaml": "randwire_ws_c154.yaml",
        "faster_rcnn_randwire_digits.yaml": "randwire_digits.yaml",
    }.get(name, "randwire_ws_c109.yaml")
    detection, classification = detection_config(name), pretraining_config(partner)
    spec = spec_from_config(detection.MODEL.RANDWIRE)
    assert spec == spec_from_config(classification.MODEL)
    ours = preprocessing_from_config(detection)
    theirs = recipe.preprocessing_from_cfg(classification)
    for field in ("channel_order", "mean", "std"):
        assert getattr(ours, field) == getattr(theirs, field)


def test_the_1x_schedule_is_detectron2s():
    """A copy of detectron2's own config lies in its model zoo: nothing but the backbone differs."""
    zoo = pytest.importorskip("detectron2.model_zoo")
    theirs = get_cfg()
    theirs.merge_from_file(zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"))
    ours = detection_config("faster_rcnn_randwire_c109.yaml")
    differ = {
        section
        for section in ("SOLVER", "DATALOADER", "TEST", "INPUT", "DATASETS")
        if {k: v for k, v in ours[section].items() if k != "COCO"} != dict(theirs[section])
    }
    assert differ == {"INPUT"}
    assert dict(ours.INPUT) == dict(theirs.INPUT) | {"FORMAT": "RGB"}
    same = ("RPN", "ROI_HEADS", "ROI_BOX_HEAD", "ANCHOR_GENERATOR", "PROPOSAL_GENERATOR")
    for section in same:
        assert ours.MODEL[section] == theirs.MODEL[section], section
    assert ours.MODEL.BACKBONE.FREEZE_AT == theirs.MODEL.BACKBONE.FREEZE_AT


@pytest.mark.parametrize("name", RANDWIRE)
def test_classifier_is_the_one_that_is_counted(name):
    """Parameters by the module, multiply-adds and activations by fvcore, on smaller images."""
    cfg = pretraining_config(name)
    pretrain.config.check(cfg)
    spec, image = spec_from_config(cfg.MODEL), torch.randn(1, 3, 64, 64)
    model = recipe.build_model(cfg, spec, 1000).eval()
    counted = complexity(spec, 64, 1000, cfg.MODEL.HEAD_CHANNELS)
    assert counted.params == sum(parameter.numel() for parameter in model.parameters())
    conv_and_fc = count(FlopCountAnalysis, model, image)
    assert counted.macs == conv_and_fc + aggregation_macs(spec, image)
    assert counted.activations == count(ActivationCountAnalysis, model, image)


@pytest.mark.parametrize("name", BASELINE)
def test_baseline_trains_every_parameter(name):
    cfg = pretraining_config(name)
    pretrain.config.check(cfg)
    model = build_baseline(cfg.MODEL.NAME, 10, cfg.MODEL.WIDTH)
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", COMPETITORS)
def test_competitor_is_that_of_table_3_trained_as_in_11(name):
    cfg = pretraining_config(name)
    counted = baseline_complexity(cfg.MODEL.NAME, cfg.MODEL.WIDTH, cfg.INPUT.SIZE)
    # ResNet-101 has 44.549 M parameters, which the table rounds up.
    assert (counted.macs / 1e9, counted.params / 1e6) == pytest.approx(COMPETITORS[name], abs=0.051)
    assert (cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.NESTEROV) == (1e-4, True)
    assert (cfg.MODEL.DROPOUT, cfg.MODEL.EDGE_DROP) == (0, 0)


@pytest.mark.parametrize("name", COMPETITORS)
def test_competitor_and_randwire_differ_in_nothing_else(name):
    """So that a table of both compares networks."""
    ours, theirs = pretraining_config(name), pretraining_config("randwire_ws_c109.yaml")
    for section in ("INPUT", "DATA", "SOLVER", "TEST"):
        differ = {key for key in ours[section] if ours[section][key] != theirs[section][key]}
        assert differ <= {"WEIGHT_DECAY"}, section


def test_a_config_of_ones_own_builds_on_a_shipped_one(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text('_BASE_: "faster_rcnn_randwire_c154.yaml"\nMODEL: {RANDWIRE: {SEED: 4}}\n')
    node = detection_config(str(mine)).MODEL.RANDWIRE
    assert (node.CHANNELS, node.SEED) == (154, 4)


@pytest.mark.parametrize("name", [*DETECTION, *(f"pretrain/{name}" for name in PRETRAINING)])
def test_header_states_what_it_is(name):
    first = (REPO / "configs" / name).read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and len(first) > 20
    assert config_path(name) == str(SHIPPED / name)
