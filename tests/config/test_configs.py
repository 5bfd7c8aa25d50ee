"""Every shipped config builds what it says, trains a step, and sets no key that nothing reads."""

import re

import pytest
import torch
import yaml
from config_reading import unread_keys
from conftest import REPO
from counting import aggregation_macs, count
from detection_helpers import one_input, parameters_without_gradient
from detectron2 import model_zoo
from detectron2.modeling import build_model
from detectron2.structures import PolygonMasks
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

import pretrain.config
from pretrain import recipe
from pretrain.baselines import baseline_complexity, build_baseline, detectron2_keys
from randwire_det.coco.classes import number_of_outputs
from randwire_det.config.files import SHIPPED, config_path, flat, merge_config
from randwire_det.config.network_keys import spec_from_config
from randwire_det.detection.checks import builds_randwire
from randwire_det.detection.config import read_config
from randwire_det.detection.preprocessing import preprocessing_from_config
from randwire_det.spec.complexity import complexity
from randwire_det.tables.paper import BASELINE_NAMES, PAPER, TABLE5

NO_DETECTOR = "base_coco_1x.yaml"
DETECTION = sorted(path.name for path in SHIPPED.glob("*.yaml") if path.name != NO_DETECTOR)
PRETRAINING = sorted(path.name for path in (SHIPPED / "pretrain").glob("*.yaml"))
# detector: the pretraining whose file it starts from
PARTNERS = {
    "faster_rcnn_randwire_c78.yaml": "randwire_ws_c78.yaml",
    "faster_rcnn_randwire_c109.yaml": "randwire_ws_c109.yaml",
    "faster_rcnn_randwire_c109_3x.yaml": "randwire_ws_c109.yaml",
    "faster_rcnn_randwire_c154.yaml": "randwire_ws_c154.yaml",
    "mask_rcnn_randwire_c109.yaml": "randwire_ws_c109.yaml",
    "retinanet_randwire_c109.yaml": "randwire_ws_c109.yaml",
    "cascade_rcnn_randwire_c109.yaml": "randwire_ws_c109.yaml",
    "faster_rcnn_resnet50.yaml": "resnet50.yaml",
    "faster_rcnn_resnext50.yaml": "resnext50_32x4d.yaml",
    "faster_rcnn_resnet101.yaml": "resnet101.yaml",
    "faster_rcnn_resnext101.yaml": "resnext101_32x4d.yaml",
    "faster_rcnn_randwire_digits.yaml": "randwire_digits.yaml",
    "faster_rcnn_resnet_digits.yaml": "resnet_digits.yaml",
}
ROWS = {
    "faster_rcnn_randwire_c109.yaml": "RandWire-WS, C=109",
    "faster_rcnn_randwire_c154.yaml": "RandWire-WS, C=154",
    "faster_rcnn_resnet50.yaml": "ResNet-50",
    "faster_rcnn_resnext50.yaml": "ResNeXt-50",
    "faster_rcnn_resnet101.yaml": "ResNet-101",
    "faster_rcnn_resnext101.yaml": "ResNeXt-101",
}
ZOO = {
    "faster_rcnn_randwire_c109.yaml": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "faster_rcnn_randwire_c109_3x.yaml": "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
    "mask_rcnn_randwire_c109.yaml": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "retinanet_randwire_c109.yaml": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "cascade_rcnn_randwire_c109.yaml": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
}
# Beginnings of keys.
OF_THE_BACKBONE = (
    *("MODEL.BACKBONE.NAME", "MODEL.FPN.IN_FEATURES"),
    *("MODEL.RESNETS.", "MODEL.RANDWIRE."),
)


def detection_config(name, *overrides):
    return read_config(name, ["MODEL.DEVICE", "cpu", *overrides])


def pretraining_config(name):
    cfg = pretrain.config.get_cfg()
    merge_config(cfg, f"pretrain/{name}", [])
    return cfg


def differing(ours, theirs):
    """The keys of `theirs` that have another value in `ours`."""
    ours, theirs = flat(ours), flat(theirs)
    return {key for key in theirs if ours[key] != theirs[key]}


def header_of(name):
    """The comment above the first key, as one line."""
    lines = (SHIPPED / name).read_text(encoding="utf-8").splitlines()
    comment = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    return " ".join(line.removeprefix("#").removesuffix("\\").strip() for line in comment)


def output_of_command(name, cfg):
    """OUTPUT_DIR of the command that a header states."""
    stated = re.search(r" OUTPUT_DIR (\S+)", header_of(name))
    return stated[1] if stated else cfg.OUTPUT_DIR


RANDWIRE, BASELINE = (
    [
        name
        for name in PRETRAINING
        if name != "base.yaml"
        and (pretraining_config(name).MODEL.NAME == "randwire") is is_randwire
    ]
    for is_randwire in (True, False)
)
COMPETITORS = [f"{name}.yaml" for name in BASELINE_NAMES]


def test_the_issue_of_the_paper_is_shipped():
    assert set(PARTNERS) <= set(DETECTION)
    assert {f"randwire_ws_c{c}.yaml" for c in (78, 109, 154)} <= set(RANDWIRE)
    assert set(COMPETITORS) <= set(BASELINE)
    assert set(ROWS.values()) == set(TABLE5)


@pytest.fixture(scope="module")
def outcomes():
    """What came of a model, by its config: some schedules share one."""
    return {}


def trained_and_tested(cfg):
    """Parameters that one step leaves without gradient, and detections in an image of 480 x 640."""
    model, (_, classes) = build_model(cfg), number_of_outputs(cfg)
    small = one_input(128, 160, num_classes=classes)
    instances = small["instances"]
    outlines = [[x0, y0, x1, y0, x1, y1, x0, y1] for x0, y0, x1, y1 in instances.gt_boxes.tensor]
    instances.gt_masks = PolygonMasks([[outline] for outline in outlines])
    lacking = parameters_without_gradient(model, [small])
    with torch.no_grad():
        (output,) = model.eval()([one_input(480, 640)])
    return lacking, output["instances"]


@pytest.mark.slow_suite
@pytest.mark.parametrize("name", DETECTION)
def test_detector_trains_every_parameter_and_detects(name, outcomes):
    cfg = detection_config(name)
    key = cfg.MODEL.dump()
    if key not in outcomes:
        outcomes[key] = trained_and_tested(cfg)
    lacking, instances = outcomes[key]
    assert lacking == []
    assert instances.image_size == (480, 640)
    fields = {"pred_boxes", "scores", "pred_classes"}
    assert set(instances.get_fields()) == fields | ({"pred_masks"} if cfg.MODEL.MASK_ON else set())


@pytest.mark.slow_suite
# The shipped number of workers, which no image is read by here.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("name", DETECTION)
def test_every_key_is_read(name, tmp_path):
    allowed = {"VERSION"}  # of the file: detectron2's own merge_from_file reads it
    own = yaml.safe_load((SHIPPED / name).read_text(encoding="utf-8")).get("SOLVER", {})
    cosine = detection_config(name).SOLVER.LR_SCHEDULER_NAME == "WarmupCosineLR"
    if cosine and "STEPS" not in own:  # a base's, for its own schedule
        allowed.add("SOLVER.STEPS")
    assert unread_keys(name, tmp_path) <= allowed


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        ("faster_rcnn_resnet_digits.yaml", "MODEL.RANDWIRE.K", 6),
        ("faster_rcnn_randwire_digits.yaml", "MODEL.RESNETS.DEPTH", 101),
        ("faster_rcnn_randwire_digits.yaml", "MODEL.ROI_MASK_HEAD.NUM_CONV", 4),
        ("faster_rcnn_randwire_digits.yaml", "SOLVER.GAMMA", 0.2),
    ],
)
def test_a_key_that_nothing_reads_is_found(base, key, value, tmp_path):
    def unread(planted):
        mine = tmp_path / "mine.yaml"
        mine.write_text(yaml.dump({"_BASE_": str(SHIPPED / base)} | planted))
        return unread_keys(str(mine), tmp_path)

    planted = value
    for part in reversed(key.split(".")):
        planted = {part: planted}
    assert unread(planted) - unread({}) == {key}


@pytest.mark.parametrize("name", DETECTION)
def test_detector_and_its_pretraining_agree(name):
    """The network and the preprocessing, so that MODEL.WEIGHTS takes the pretraining's file."""
    detection = detection_config(name)
    classification = pretraining_config(PARTNERS.get(name, "randwire_ws_c109.yaml"))
    if builds_randwire(detection):
        spec = spec_from_config(detection.MODEL.RANDWIRE)
        assert spec == spec_from_config(classification.MODEL.RANDWIRE)
    else:
        node = classification.MODEL
        assert differing(detection.MODEL.RESNETS, detectron2_keys(node.NAME, node.WIDTH)) == set()
    ours = preprocessing_from_config(detection)
    theirs = recipe.preprocessing_from_cfg(classification)
    for field in ("channel_order", "mean", "std"):
        assert getattr(ours, field) == getattr(theirs, field)


@pytest.mark.parametrize("name", [name for name in PARTNERS if "randwire" in name])
def test_fpn_reads_every_randwire_through_a_relu(name):
    assert detection_config(name).MODEL.RANDWIRE.RELU_OUTPUTS


@pytest.mark.parametrize("name", ZOO)
def test_all_but_the_backbone_is_detectron2s(name):
    """A copy of detectron2's own config lies in its model zoo."""
    ours, theirs = read_config(name, []), model_zoo.get_config(ZOO[name])
    expected = {"MODEL.BACKBONE.NAME", "MODEL.FPN.IN_FEATURES", "MODEL.RESNETS.OUT_FEATURES"}
    expected |= {"MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT", "MODEL.WEIGHTS"}
    if name.startswith("cascade"):  # there is none for boxes alone
        expected |= {"MODEL.MASK_ON"}
    unread = {"MODEL.ROI_MASK_HEAD.NUM_CONV"} if not ours.MODEL.MASK_ON else set()
    assert differing(ours, theirs) - unread == expected


@pytest.mark.parametrize("name", [name for name in ROWS if "resne" in name])
def test_baseline_and_randwire_differ_in_the_backbone_alone(name):
    """So that Table 5 compares backbones."""
    ours, theirs = detection_config(name), detection_config("faster_rcnn_randwire_c109.yaml")
    assert all(key.startswith(OF_THE_BACKBONE) for key in differing(ours, theirs))
    resnets = ours.MODEL.RESNETS
    assert (resnets.NORM, ours.MODEL.BACKBONE.FREEZE_AT) == ("FrozenBN", 2)
    assert resnets.OUT_FEATURES == ours.MODEL.FPN.IN_FEATURES == ["res2", "res3", "res4", "res5"]


def test_digits_compare_networks_of_equal_multiply_adds():
    """The ResNet, and the RandWire in the width that its header names; neither's classifier."""
    header = header_of("faster_rcnn_resnet_digits.yaml")
    node = pretraining_config("resnet_digits.yaml").MODEL
    name, width = node.NAME, node.WIDTH

    def resnet(stem):
        one, two = (baseline_complexity(name, stem / 64, 192, classes).macs for classes in (1, 2))
        return one - (two - one)  # fc alone grows with the classes

    def randwire(channels):
        overrides = ["MODEL.RANDWIRE.CHANNELS", str(channels)]
        cfg = detection_config("faster_rcnn_randwire_digits.yaml", *overrides)
        return complexity(spec_from_config(cfg.MODEL.RANDWIRE), 192, None).macs

    stem, (compared, demo) = round(64 * width), map(int, re.findall(r"C=(\d+)", header))
    assert resnet(stem) == pytest.approx(randwire(compared), rel=0.03)
    counts = [resnet(stem), randwire(compared), randwire(demo)]
    assert [float(text) for text in re.findall(r"([\d.]+) M\b", header)] == [
        round(macs / 1e6, 1) for macs in counts
    ]
    neighbours = stem - 1, stem, stem + 1
    assert min(neighbours, key=lambda other: abs(resnet(other) - randwire(demo))) == stem
    shipped = detection_config("faster_rcnn_randwire_digits.yaml").MODEL.RANDWIRE.CHANNELS
    assert demo == shipped


def test_digits_differ_in_the_network_alone():
    pairs = [
        [detection_config(f"faster_rcnn_{kind}_digits.yaml") for kind in ("resnet", "randwire")],
        [pretraining_config(f"{kind}_digits.yaml") for kind in ("resnet", "randwire")],
    ]
    for ours, theirs in pairs:
        of_the_network = (*OF_THE_BACKBONE, "MODEL.NAME", "MODEL.WIDTH", "OUTPUT_DIR")
        assert all(key.startswith(of_the_network) for key in differing(ours, theirs))


@pytest.mark.slow_suite
@pytest.mark.parametrize("name", RANDWIRE)
def test_classifier_is_the_one_that_is_counted(name):
    """Parameters by the module, multiply-adds and activations by fvcore, on smaller images."""
    cfg = pretraining_config(name)
    pretrain.config.check(cfg)
    spec, image = spec_from_config(cfg.MODEL.RANDWIRE), torch.randn(1, 3, 64, 64)
    model = recipe.build_model(cfg, spec, 1000).eval()
    counted = complexity(spec, 64, 1000, cfg.MODEL.HEAD_CHANNELS)
    assert counted.params == sum(parameter.numel() for parameter in model.parameters())
    conv_and_fc = count(FlopCountAnalysis, model, image)
    assert counted.macs == conv_and_fc + aggregation_macs(spec, image)
    assert counted.activations == count(ActivationCountAnalysis, model, image)


@pytest.mark.slow_suite
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
    paper = PAPER[BASELINE_NAMES[cfg.MODEL.NAME], cfg.INPUT.SIZE]
    figures = [(paper.macs, counted.macs / 1e9, "G"), (paper.params, counted.params / 1e6, "M")]
    for theirs, ours, unit in figures:
        # ResNet-101 has 44.549 M parameters, which the table rounds up.
        assert float(theirs.removesuffix(unit)) == pytest.approx(ours, abs=0.051)
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


@pytest.mark.parametrize("name", PARTNERS)
def test_header_states_the_papers_ap_the_schedule_and_the_command(name):
    header, solver = header_of(name), detection_config(name).SOLVER
    assert f"{solver.MAX_ITER:,} iterations of {solver.IMS_PER_BATCH} " in header
    assert f"tools/train_net.py --config-file {name} " in header
    stated = {key.upper(): float(ap) for key, ap in re.findall(r"\b(AP\w*) ([\d.]+\d)", header)}
    row = TABLE5[ROWS[name]] if name in ROWS else {}
    assert stated == {key.upper(): ap for key, ap in row.items()}
    assert ("not in the paper's table 5" in header.lower()) is (name not in ROWS)


@pytest.mark.parametrize("name", PARTNERS)
def test_commands_of_pretraining_and_detector_fit_together(name):
    """The second takes the file that the first writes, and writes where no other run does."""
    pretraining = f"pretrain/{PARTNERS[name]}"
    written = output_of_command(pretraining, pretraining_config(PARTNERS[name]))
    assert f" MODEL.WEIGHTS {written}/model_final.pth" in header_of(name)
    folders = [output_of_command(each, detection_config(each)) for each in PARTNERS]
    assert folders.count(output_of_command(name, detection_config(name))) == 1
