"""RandWire in other people's configs: a ResNet's names, and builders that need no key of ours."""

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import run_python, tiny_spec
from detection_helpers import (
    as_overrides,
    one_input,
    parameters_without_gradient,
    refused,
    tiny_config,
    train_net,
)
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling import build_backbone, build_model

from randwire_det import UserError
from randwire_det.detection import RandWireBackbone, add_randwire_config
from randwire_det.detection.presets import NETWORKS, PRESETS
from randwire_det.spec.generator import generate

FASTER, RETINANET = (
    "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
)


def project_config(zoo: str, builder: str, *overrides):
    """A detectron2 project's config: no key of this package but the builder's name."""
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(zoo))
    cfg.merge_from_list(["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", *overrides])
    cfg.MODEL.BACKBONE.NAME = builder
    return cfg


def test_a_resnets_names_are_put_out_as_asked_for():
    plain = RandWireBackbone(spec=tiny_spec(), freeze_at=3).eval()
    asked = ["res3", "conv4", "res5"]
    renamed = RandWireBackbone(spec=tiny_spec(), out_features=asked, freeze_at=3).eval()
    renamed.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 64)
    outputs, expected = renamed(image), plain(image)
    assert list(outputs) == list(renamed.output_shape()) == asked
    for name in asked:
        stage = name.replace("res", "conv")
        assert torch.equal(outputs[name], expected[stage])
        assert renamed.output_shape()[name] == plain.output_shape()[stage]
    frozen = {name for name, each in plain.named_parameters() if not each.requires_grad}
    assert frozen == {name for name, each in renamed.named_parameters() if not each.requires_grad}


@pytest.mark.parametrize("features", [["res2", "conv2"], ["res1"], ["res6"], []])
def test_names_without_a_stage_of_their_own_are_refused(features):
    with pytest.raises(UserError, match="features"):
        RandWireBackbone(spec=tiny_spec(), out_features=features)


@pytest.mark.parametrize("ours", ["conv", "res"])
@pytest.mark.parametrize("theirs", ["conv", "res"])
def test_an_fpn_reads_either_name(ours, theirs):
    names = {kind: [f"{kind}{stage}" for stage in (2, 3, 4, 5)] for kind in ("conv", "res")}
    keys = {"MODEL.RANDWIRE.OUT_FEATURES": names[ours], "MODEL.FPN.IN_FEATURES": names[theirs]}
    fpn = build_backbone(tiny_config(**keys))
    assert list(fpn.bottom_up.output_shape()) == names[theirs]
    image = torch.randn(1, 3, 64, 64)
    expected = build_backbone(tiny_config())
    expected.load_state_dict(fpn.state_dict())
    found = fpn.eval()(image)
    for name, each in expected.eval()(image).items():
        assert torch.equal(each, found[name])


@pytest.mark.slow_suite
@pytest.mark.parametrize(
    ("zoo", "builder"),
    [
        (FASTER, "build_randwire_c78_fpn_backbone"),
        (RETINANET, "build_retinanet_randwire_c78_fpn_backbone"),
    ],
)
def test_a_name_is_enough_in_a_project(zoo, builder):
    cfg = project_config(zoo, builder)
    before = cfg.dump()
    cfg.freeze()
    model = build_model(cfg)
    assert cfg.dump() == before
    assert parameters_without_gradient(model, [one_input()]) == []
    bottom_up = model.backbone.bottom_up
    assert bottom_up.relu_outputs
    expected = generate("ws", seed=1, regime="small", channels=78, k=4, p=0.75)
    assert bottom_up.trunk.spec == expected


@pytest.mark.parametrize("builder", PRESETS)
def test_a_preset_is_what_its_name_says(builder):
    (network,) = (each for each in NETWORKS if each in builder)
    features = [f"res{stage}" for stage in (2, 3, 4, 5)]
    with torch.device("meta"):
        cfg = project_config(FASTER, builder, "MODEL.FPN.IN_FEATURES", features)
        ours = build_backbone(cfg)
        add_randwire_config(cfg)
        cfg.merge_from_list(["MODEL.RANDWIRE.SEED", 2, "MODEL.RANDWIRE.NORM", "BN"])
        other = build_backbone(cfg)
        spec = getattr(ours, "bottom_up", ours).trunk.spec
        assert spec.provenance["channels"] == NETWORKS[network]["CHANNELS"]
        assert spec.provenance["regime"] == NETWORKS[network]["REGIME"]
    trunk = getattr(other, "bottom_up", other).trunk
    assert trunk.spec.provenance["seed"] == 2
    assert type(trunk.conv3.nodes[0].norm) is torch.nn.BatchNorm2d


def test_a_preset_is_refused_where_keys_say_which_network_it_is(shapes):
    done = train_net(shapes, changes={"MODEL.BACKBONE.NAME": "build_randwire_c154_fpn_backbone"})
    refused(done, 2, "build_randwire_c154_fpn_backbone", "MODEL.RANDWIRE.CHANNELS 154")


SCRIPT = """
{first}
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.modeling import build_model
cfg = get_cfg()
cfg.merge_from_file(model_zoo.get_config_file({zoo!r}))
cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", {builder!r}])
cfg.merge_from_list(["MODEL.RANDWIRE.MEMORY", "standard"])
print(type(build_model(cfg).backbone.bottom_up).__name__)
"""


@pytest.mark.parametrize("first", ["import detectron2", "import randwire_det.detection"])
def test_an_environment_variable_brings_it_into_any_script(first):
    script = SCRIPT.format(first=first, zoo=FASTER, builder="build_randwire_c78_fpn_backbone")
    name = "randwire_det.detection.environment"
    done = run_python("-c", script, env={"DETECTRON2_ENV_MODULE": name})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "RandWireBackbone"


SCRIPTS = ("tools/train_net.py", "tools/plain_train_net.py", "projects/PointRend/train_net.py")
SOURCE = os.environ.get("DETECTRON2_SOURCE", "")  # a clone of detectron2, of v0.6 or main


@pytest.mark.slow
@pytest.mark.skipif(not SOURCE, reason="DETECTRON2_SOURCE names no clone of detectron2")
@pytest.mark.parametrize("script", SCRIPTS)
def test_detectron2s_own_scripts_train_unmodified(script, shapes, tmp_path):
    """On four pictures in the place of COCO, with all its classes."""
    folder = tmp_path / "coco/annotations"
    folder.mkdir(parents=True)
    content = json.loads((shapes / "shapes.json").read_text())
    content["categories"] = [
        {"id": each["id"], "name": each["name"]} for each in COCO_CATEGORIES if each["isthing"]
    ]
    for split in ("train2017", "val2017"):
        (tmp_path / "coco" / split).symlink_to(shapes / "images")
        (folder / f"instances_{split}.json").write_text(json.dumps(content))
    keys = {
        "MODEL.BACKBONE.NAME": "build_randwire_c78_fpn_backbone",
        "MODEL.RANDWIRE.MEMORY": "lean",
        "MODEL.WEIGHTS": "",
        "MODEL.DEVICE": "cpu",
        "SOLVER.IMS_PER_BATCH": 1,
        "SOLVER.MAX_ITER": 2,
        "INPUT.MIN_SIZE_TRAIN": "(96,)",
        "INPUT.MIN_SIZE_TEST": 96,
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": tmp_path / "run",
    }
    done = run_python(
        *[Path(SOURCE, script), "--config-file", model_zoo.get_config_file(FASTER)],
        *as_overrides(keys),
        env={
            "DETECTRON2_ENV_MODULE": "randwire_det.detection.environment",
            "DETECTRON2_DATASETS": str(tmp_path),
        },
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    (stored,) = (tmp_path / "run").glob("model_final.pth")
    names = torch.load(stored, weights_only=False)["model"]
    assert any(name.startswith("backbone.bottom_up.") and "edge_logits" in name for name in names)
