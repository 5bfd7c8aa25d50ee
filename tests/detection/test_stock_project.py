"""A detectron2 project that uses the backbone with detectron2's own trainer and checkpointer."""

import logging
import os
import pickle

import pytest
import torch
from conftest import tiny_spec
from detection_helpers import TINY, as_overrides, tiny_config, tiny_detector
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg, instantiate
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_backbone, build_model

from randwire_det import UsageError, UserError
from randwire_det.config.files import flat
from randwire_det.detection import add_randwire_config, build_optimizer
from randwire_det.detection.checkpointer import OUTPUT_KEYS, check_fits
from randwire_det.detection.preprocessing import preprocessing_from_config
from randwire_det.detection.trainer import RandWireTrainer
from randwire_det.network import RandWireClassifier
from randwire_det.run.checkpoint import Preprocessing, load_checkpoint, save_checkpoint

BUILDERS = (
    "build_randwire_backbone",
    "build_randwire_fpn_backbone",
    "build_retinanet_randwire_fpn_backbone",
)
EXPECTED = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}


def stock_config(builder: str = BUILDERS[1], **changes):
    """detectron2's defaults, and of this package what chooses a tiny network alone."""
    cfg = get_cfg()
    add_randwire_config(cfg)
    names = {key: value for key, value in TINY.items() if key not in EXPECTED}
    features = [f"conv{stage}" for stage in (2, 3, 4, 5)]
    ours = {"MODEL.BACKBONE.NAME": builder, "MODEL.FPN.IN_FEATURES": features}
    cfg.merge_from_list(as_overrides(names | ours | changes))
    return cfg


@pytest.fixture
def warnings(caplog):
    """A function: what detectron2's logger was given as warnings since the last call."""
    detectron2 = logging.getLogger("detectron2")  # it does not propagate once it has been set up
    detectron2.addHandler(caplog.handler)

    def taken() -> list[str]:
        messages = {record.getMessage() for record in caplog.records if record.levelno >= 30}
        caplog.clear()
        return sorted(messages)

    yield taken
    detectron2.removeHandler(caplog.handler)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A classifier's checkpoint of the tiny network, as a pretraining writes it."""
    path = tmp_path_factory.mktemp("pretrained") / "model_final.pth"
    spec = stock_spec()
    save_checkpoint(
        path,
        kind="classifier",
        model=RandWireClassifier(spec, num_classes=3).state_dict(),
        spec=spec,
        preprocessing=Preprocessing(),
        classes=["a", "b", "c"],
    )
    return path


def stock_spec():
    channels, nodes = (TINY[f"MODEL.RANDWIRE.{key}"] for key in ("CHANNELS", "NODES"))
    return tiny_spec(channels=channels, nodes=nodes)


@pytest.mark.parametrize("builder", BUILDERS)
def test_detectron2s_preprocessing_with_our_weights_is_warned_of(builder, pretrained, warnings):
    """It halves the accuracy without an error (BGR, std 1)."""
    weights = {"MODEL.WEIGHTS": pretrained}
    build_backbone(stock_config(builder, **weights))
    (warning,) = warnings()
    assert str(pretrained) in warning
    for key, value in EXPECTED.items():
        given = flat(get_cfg())[key]
        assert f'{key} "{value if isinstance(value, str) else tuple(value)}"' in warning
        assert f"{key} {given if isinstance(given, str) else tuple(given)}" in warning
    build_backbone(stock_config(builder, **weights | EXPECTED))
    assert warnings() == []


def test_what_it_advises_is_a_config(pretrained, warnings):
    build_backbone(stock_config(**{"MODEL.WEIGHTS": pretrained}))
    advice = warnings()[0].partition("; set ")[2]
    words = [word.strip() for word in advice.split('"') if word.strip()]
    cfg = stock_config(**{"MODEL.WEIGHTS": pretrained})
    cfg.merge_from_list(words)
    build_backbone(cfg)
    assert warnings() == []


def test_a_detectors_checkpoint_is_compared_too(tmp_path, warnings):
    save_checkpoint(
        tmp_path / "detector.pth",
        kind="detector",
        model=tiny_detector().state_dict(),
        spec=stock_spec(),
        preprocessing=Preprocessing("BGR", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
    )
    build_backbone(tiny_config(**{"MODEL.WEIGHTS": tmp_path / "detector.pth"}))
    (warning,) = warnings()
    assert 'INPUT.FORMAT "BGR"' in warning and 'MODEL.PIXEL_STD "(4.0, 5.0, 6.0)"' in warning


def test_our_own_tools_refuse_it_in_the_same_words(pretrained, warnings):
    cfg = stock_config(**{"MODEL.WEIGHTS": pretrained})
    build_backbone(cfg)
    (warning,) = warnings()
    data = load_checkpoint(pretrained)
    with pytest.raises(UserError) as caught:
        check_fits(data, data.spec, preprocessing_from_config(cfg), OUTPUT_KEYS)
    assert str(caught.value) in warning


def test_other_weights_are_left_to_their_loader(tmp_path, pretrained, warnings):
    whole = pretrained.read_bytes()
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "foreign.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": {}, "__author__": "Caffe2"}))
    (tmp_path / "short.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "hostile.pth").write_bytes(whole.replace(b"channel_order", b"channel_ordre"))
    os.mkfifo(tmp_path / "pipe.pth")
    weights = [str(path) for path in sorted(tmp_path.iterdir())]
    weights += ["", str(tmp_path), str(tmp_path / "missing.pth"), "http://127.0.0.1:9/model.pth"]
    weights += ["detectron2://ImageNetPretrained/MSRA/R-50.pkl", "catalog://x", "\0"]
    for path in weights:
        cfg = stock_config(BUILDERS[0])
        cfg.MODEL.WEIGHTS = path
        build_backbone(cfg)
        assert warnings() == [], path


def test_a_config_without_our_keys_names_what_to_call(tmp_path):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = BUILDERS[1]
    for build in (build_backbone, build_model, RandWireTrainer):
        with pytest.raises(UsageError, match=r"MODEL\.RANDWIRE.*add_randwire_config\(cfg\)"):
            build(cfg)


def test_our_keys_leave_a_projects_own_as_they_are():
    cfg = get_cfg()
    cfg.SOLVER.EMA_DECAY = 0.5
    add_randwire_config(cfg)
    cfg.MODEL.RANDWIRE.SEED = 7
    add_randwire_config(cfg)
    assert (cfg.SOLVER.EMA_DECAY, cfg.MODEL.RANDWIRE.SEED, cfg.TEST.REPORT) == (0.5, 7, True)


# --- weight decay


def decays(optimizer, model) -> dict[str, float]:
    by_parameter = {
        parameter: group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    return {name: by_parameter[parameter] for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("clip", [False, True])
def test_aggregation_weights_have_no_decay_and_the_others_have_detectron2s(clip):
    cfg = tiny_config(**{"SOLVER.CLIP_GRADIENTS.ENABLED": clip, "SOLVER.BIAS_LR_FACTOR": 2.0})
    model = build_model(cfg)
    theirs = DefaultTrainer.build_optimizer(cfg, model)
    before = decays(theirs, model)
    for build in (RandWireTrainer.build_optimizer, build_optimizer):
        optimizer = build(cfg, model)
        after = decays(optimizer, model)
        free = {name for name in after if name.endswith("edge_logits")}
        assert free and all(after[name] == 0 for name in free)
        assert {after[name] for name in after if name.endswith("pointwise.weight")} == {1e-4}
        for name in after.keys() - free:
            assert after[name] == before[name], name
        rates = [sorted(group["lr"] for group in each.param_groups) for each in (optimizer, theirs)]
        assert set(rates[0]) == set(rates[1])
        assert type(optimizer).__name__ == type(theirs).__name__
        assert sum(len(group["params"]) for group in optimizer.param_groups) == len(after)


def test_the_readmes_line_for_a_lazy_config_leaves_them_out():
    optimizer = model_zoo.get_config("common/optim.py").SGD
    optimizer.params.overrides = {"edge_logits": {"weight_decay": 0.0}}
    optimizer.params.model = model = tiny_detector()
    found = decays(instantiate(optimizer), model)
    assert {found[name] for name in found if name.endswith("edge_logits")} == {0.0}
    assert {found[name] for name in found if name.endswith("pointwise.weight")} == {1e-4}


def test_a_step_without_gradient_leaves_aggregation_weights_alone():
    """Decay alone moves a weight that gets a gradient of nought."""
    cfg = tiny_config(**{"SOLVER.WEIGHT_DECAY": 0.5, "SOLVER.BASE_LR": 0.5})
    model = build_model(cfg)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        for value in model.parameters():
            value.add_(1.0)
            value.grad = torch.zeros_like(value)
    RandWireTrainer.build_optimizer(cfg, model).step()
    for name, value in model.named_parameters():
        if name.endswith("edge_logits"):
            torch.testing.assert_close(value.detach(), before[name] + 1)
        elif name.endswith("pointwise.weight"):
            torch.testing.assert_close(value.detach(), (before[name] + 1) * 0.75)


def test_a_teacher_averaged_as_unbiased_teacher_does(tmp_path):
    """Its state dict is averaged by name at every step, loaded, and saved by detectron2."""
    student, teacher = tiny_detector(), tiny_detector()
    for _ in range(3):
        ours, theirs = teacher.state_dict(), student.state_dict()
        averaged = {name: theirs[name] * 0.0004 + ours[name] * 0.9996 for name in ours}
        teacher.load_state_dict(averaged)
    DetectionCheckpointer(teacher, str(tmp_path)).save("teacher")
    again = tiny_detector()
    DetectionCheckpointer(again).load(str(tmp_path / "teacher.pth"))
    for name, tensor in teacher.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
    other = tiny_detector(**{"MODEL.RANDWIRE.SEED": 2})
    with pytest.raises(UserError, match="belong to another network"):
        DetectionCheckpointer(other).load(str(tmp_path / "teacher.pth"))
