"""A detector from nothing but its checkpoint, or one line that says why not."""

import math
import re

import pytest
import torch
import yaml
from detection_helpers import save_baseline, save_classifier, tiny_config, tiny_detector
from predict_helpers import NAMES, SMALL, store

from randwire_det import UserError
from randwire_det.config.network_keys import spec_from_config
from randwire_det.detection.stored import load_detector
from randwire_det.run.average import WeightAverage


def edited(path, target, **changes):
    """A checkpoint with other content, or with keys of its config (with dots) changed."""
    data = torch.load(path, weights_only=True)
    config = yaml.safe_load(data["config"])
    for key, value in changes.items():
        *sections, name = key.split(".")
        node = config
        for section in sections:
            node = node.setdefault(section, {})
        if sections:
            node[name] = value
    data["config"] = yaml.safe_dump(config)
    torch.save(data | {key: value for key, value in changes.items() if "." not in key}, target)
    return target


def test_a_checkpoint_outlives_the_wiring_that_its_seed_would_sample_now(a_detector, tmp_path):
    model, _, path = a_detector
    other = edited(path, tmp_path / "other.pth", **{"MODEL.RANDWIRE.SEED": 2})
    sampled = tiny_config(**{"MODEL.RANDWIRE.SEED": 2}).MODEL.RANDWIRE
    loaded, cfg, names = load_detector(other, "cpu")
    assert loaded.backbone.bottom_up.trunk.spec == model.backbone.bottom_up.trunk.spec
    assert spec_from_config(cfg.MODEL.RANDWIRE) != spec_from_config(sampled)
    assert names == NAMES
    assert not loaded.training


def test_averaged_weights_are_used_where_there_are_some(pictures, tmp_path):
    average = WeightAverage(tiny_detector(**SMALL), 0.9)  # random weights of its own
    model, _, path = store(tmp_path, average)
    ours = load_detector(path, "cpu")[0].state_dict()
    name = "roi_heads.box_head.fc1.weight"
    assert not torch.equal(ours[name], model.state_dict()[name])
    assert all(torch.equal(ours[key], value) for key, value in average.model.state_dict().items())


def test_keys_of_another_version_are_left_out_and_named(a_detector, tmp_path, caplog):
    keys = {"MODEL.RPN.FROM_MAIN": 1, "FLOATS.OF.THE.FUTURE": 0.5}
    model = load_detector(edited(a_detector[2], tmp_path / "m.pth", **keys), "cpu")[0]
    assert "MODEL.RPN.FROM_MAIN" in caplog.text
    assert "FLOATS" in caplog.text
    assert model.state_dict().keys() == a_detector[0].state_dict().keys()


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"config": None}, ["does not hold its config", "--resume"]),
        ({"config": "MODEL: [unclosed"}, ["config cannot be read"]),
        ({"config": "!!python/object/apply:os.getcwd []"}, ["config cannot be read"]),
        ({"config": "just words"}, ["config cannot be read", "KEY: VALUE"]),
        ({"config": "MODEL: &a {MASK_ON: *a}"}, ["config cannot be read", "*a"]),
        ({"MODEL.ROI_BOX_HEAD.FC_DIM": 10**9}, ["cannot be built here", "GB of memory"]),
        ({"MODEL.RPN.NMS_THRESH": "much"}, ["config cannot be read", "NMS_THRESH"]),
        ({"MODEL.ROI_HEADS.NAME": "MyOwnHeads"}, ["cannot be built here", "MyOwnHeads"]),
        ({"MODEL.ROI_HEADS.NUM_CLASSES": 5}, ["does not hold the detector", "roi_heads"]),
        ({"MODEL.MASK_ON": False}, ["does not hold the detector", "mask_head"]),
    ],
)
def test_a_file_that_cannot_be_rebuilt_says_why(a_detector, tmp_path, changes, fragments):
    path = edited(a_detector[2], tmp_path / "m.pth", **changes)
    with pytest.raises(UserError) as caught:
        load_detector(path, "cpu")
    for fragment in [str(path), *fragments]:
        assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_detect_nothing_and_are_refused(a_detector, tmp_path):
    weights = torch.load(a_detector[2], weights_only=True)["model"]
    name = next(name for name in weights if name.endswith("pointwise.weight"))
    weights[name].view(-1)[3] = math.nan
    path = edited(a_detector[2], tmp_path / "m.pth", model=weights)
    with pytest.raises(UserError, match=f"NaN or infinity in 1 of .* {re.escape(name)}"):
        load_detector(path, "cpu")


def test_lost_statistics_of_a_frozen_bn_are_not_made_up(pictures, tmp_path):
    model, _, path = store(tmp_path, **{"MODEL.RANDWIRE.NORM": "FrozenBN"})
    weights = model.state_dict()
    lost = next(name for name in weights if name.endswith("running_mean"))
    del weights[lost]
    with pytest.raises(UserError, match=lost):
        load_detector(edited(path, tmp_path / "m.pth", model=dict(weights)), "cpu")


def test_a_classifier_is_no_detector(tmp_path):
    for save in (save_classifier, save_baseline):
        save(tmp_path / "c.pth")
        with pytest.raises(UserError, match=r"is a classifier.*tools/train_net\.py"):
            load_detector(tmp_path / "c.pth", "cpu")
