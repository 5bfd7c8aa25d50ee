"""What a detector takes as weights, and what it refuses: by our checkpointer and detectron2's."""

import copy
import re
import zipfile

import pytest
import torch
import yaml
from conftest import tiny_spec
from detection_helpers import resnet, save_baseline, save_classifier, tiny_config, tiny_detector
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_backbone
from torchvision.models.feature_extraction import create_feature_extractor

from randwire_det import UserError
from randwire_det.detection.stored import load_detector
from randwire_det.detection.trainer import build_checkpointer
from randwire_det.run.average import WeightAverage
from randwire_det.run.checkpoint import load_checkpoint


def checkpointer_of(directory, model=None, **changes):
    cfg = tiny_config(**changes, **{"OUTPUT_DIR": directory})
    return build_checkpointer(cfg, model or tiny_detector(**changes))


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "SyncBN"])
def test_a_classifier_gives_the_detector_all_of_its_trunk(tmp_path, caplog, norm):
    classifier = save_classifier(tmp_path / "c.pth")
    model = tiny_detector(**{"MODEL.RANDWIRE.NORM": norm})
    box_head = model.roi_heads.box_head.fc1.weight.clone()
    with caplog.at_level("INFO"):
        checkpointer_of(tmp_path, model).resume_or_load(str(tmp_path / "c.pth"), resume=True)
    theirs, ours = classifier.trunk.state_dict(), model.backbone.bottom_up.trunk.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert torch.equal(model.roi_heads.box_head.fc1.weight, box_head)
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Loaded")]
    assert f"{len(ours)} of {len(ours)} trunk tensors" in line
    assert "8 of the classifier's head" in line


def test_detectron2s_own_checkpointer_finds_the_trunk_too(tmp_path):
    classifier = save_classifier(tmp_path / "c.pth")
    model = tiny_detector(**{"MODEL.RANDWIRE.NORM": "FrozenBN"})
    DetectionCheckpointer(model).load(str(tmp_path / "c.pth"))
    theirs, ours = classifier.trunk.state_dict(), model.backbone.bottom_up.trunk.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_detectors_record_that_one_bit_makes_a_folder_is_refused(tmp_path):
    """torch skips its bytes, and loads the file with another tensor."""
    checkpointer_of(tmp_path).save("model_final")
    path = tmp_path / "model_final.pth"
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entry, names = archive.start_dir, archive.namelist()
    for number, name in enumerate(names):
        if number % 5 == 0:
            path.write_bytes(whole[: entry + 38] + b"\x10" + whole[entry + 39 :])
            with pytest.raises(UserError, match=f"{name}.* is marked as a folder"):
                load_checkpoint(path)
        entry += 46 + len(name)
    assert len(names) > 100


def test_complex_weights_are_not_cut_to_their_real_part(tmp_path):
    checkpointer_of(tmp_path).save("model_final")
    path = tmp_path / "model_final.pth"
    data = torch.load(path, weights_only=True)
    name = "roi_heads.box_head.fc1.weight"
    data["model"][name] = data["model"][name].to(torch.complex64)
    torch.save(data, path)
    with pytest.raises(UserError, match=f"of another shape or number type, such as {name}"):
        checkpointer_of(tmp_path).load(str(path))
    with pytest.raises(UserError, match=f"of another shape or number type.* {name}"):
        load_detector(path, "cpu")


def other_spec(**changes):
    return tiny_spec("ws", **{"channels": 6, "nodes": 6} | changes)


@pytest.mark.parametrize("load", ["ours", "detectron2's"])
def test_weights_of_another_wiring_are_refused_and_change_nothing(tmp_path, load):
    save_classifier(tmp_path / "c.pth", other_spec(seed=2))
    model = tiny_detector()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    checkpointer = (
        checkpointer_of(tmp_path, model) if load == "ours" else DetectionCheckpointer(model)
    )
    with pytest.raises(UserError) as caught:
        checkpointer.resume_or_load(str(tmp_path / "c.pth"), resume=False)
    assert other_spec(seed=2).digest[:12] in str(caught.value)
    assert other_spec(seed=1).digest[:12] in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        (other_spec(seed=2), "MODEL.RANDWIRE.SEED 2"),
        (other_spec(channels=8), "MODEL.RANDWIRE.CHANNELS 8"),
        (other_spec(nodes=7), "MODEL.RANDWIRE.NODES 7"),
        (other_spec(p=0.5), "MODEL.RANDWIRE.P 0.5"),
        (other_spec(regime="regular", nodes=10), "MODEL.RANDWIRE.REGIME regular"),
        (tiny_spec("ba", channels=6, nodes=6), "MODEL.RANDWIRE.GENERATOR ba"),
    ],
)
def test_the_refusal_names_the_key_to_change_and_it_helps(tmp_path, spec, key):
    path = tmp_path / "c.pth"
    save_classifier(path, spec)
    with pytest.raises(UserError) as caught:
        checkpointer_of(tmp_path).load(str(path), checkpointables=[])
    message = str(caught.value)
    assert key in message
    words = message.partition("To use these weights set ")[2].split()
    advised = dict(zip(words[::2], words[1::2], strict=True))
    checkpointer_of(tmp_path, **advised).load(str(path), checkpointables=[])


def test_a_spec_without_provenance_is_taken_from_the_file(tmp_path):
    path = tmp_path / "c.pth"
    spec = type(other_spec())(other_spec(seed=3).stages)
    save_classifier(path, spec)
    with pytest.raises(UserError, match=f"MODEL.RANDWIRE.SPEC {path}"):
        checkpointer_of(tmp_path).load(str(path), checkpointables=[])
    checkpointer_of(tmp_path, **{"MODEL.RANDWIRE.SPEC": path}).load(str(path), checkpointables=[])


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"INPUT.FORMAT": "BGR"}, ["RGB", "BGR", "INPUT.FORMAT"]),
        ({"MODEL.PIXEL_MEAN": "[0.0, 0.0, 0.0]"}, ["123.675", "0.0", "MODEL.PIXEL_MEAN"]),
        ({"MODEL.PIXEL_STD": "[1.0, 1.0, 1.0]"}, ["58.395", "1.0", "MODEL.PIXEL_STD"]),
        ({"MODEL.RANDWIRE.NORM": "GN"}, ["BN", "MODEL.RANDWIRE.NORM"]),
    ],
)
def test_another_preprocessing_or_norm_is_refused(tmp_path, changes, fragments):
    save_classifier(tmp_path / "c.pth")
    with pytest.raises(UserError) as caught:
        checkpointer_of(tmp_path, **changes).load(str(tmp_path / "c.pth"), checkpointables=[])
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_a_trunk_with_a_tensor_missing_is_refused(tmp_path):
    gone = "trunk.conv4.nodes.3.pointwise.weight"
    save_classifier(tmp_path / "c.pth", drop=[gone])
    with pytest.raises(UserError, match=r"conv4\.nodes\.3\.pointwise\.weight"):
        checkpointer_of(tmp_path).load(str(tmp_path / "c.pth"), checkpointables=[])


def test_a_classifier_fills_a_detector_that_stops_early(tmp_path):
    save_classifier(tmp_path / "c.pth")
    features = "['conv2', 'conv3', 'conv4']"
    changes = {
        "MODEL.RANDWIRE.OUT_FEATURES": features,
        "MODEL.FPN.IN_FEATURES": features,
        "MODEL.RPN.IN_FEATURES": "['p2', 'p3', 'p4', 'p5']",
        "MODEL.ANCHOR_GENERATOR.SIZES": "[[32], [64], [128], [256]]",
        "MODEL.ROI_HEADS.IN_FEATURES": "['p2', 'p3', 'p4']",
    }
    checkpointer_of(tmp_path, **changes).load(str(tmp_path / "c.pth"), checkpointables=[])


def test_a_detector_survives_its_own_file_and_carries_its_spec(tmp_path):
    saved = checkpointer_of(tmp_path)
    saved.save("model_final", iteration=7)
    content = load_checkpoint(tmp_path / "model_final.pth")
    assert content.kind == "detector"
    assert content.spec == saved.trunk.spec
    loaded = checkpointer_of(tmp_path)
    assert loaded.get_checkpoint_file() == str(tmp_path / "model_final.pth")
    rest = loaded.resume_or_load("", resume=True)
    assert rest["iteration"] == 7
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, saved.model.state_dict()[name]), name


def test_a_detectors_file_is_checked_on_resume(tmp_path):
    checkpointer_of(tmp_path).save("model_final")
    with pytest.raises(UserError, match=r"MODEL.RANDWIRE.SEED 1"):
        checkpointer_of(tmp_path, **{"MODEL.RANDWIRE.SEED": 2}).resume_or_load("", resume=True)


RELU = "MODEL.RANDWIRE.RELU_OUTPUTS"


@pytest.mark.parametrize("trained_with", [True, False, None])
def test_a_detector_keeps_its_relu_whatever_the_config_says(tmp_path, trained_with):
    """No weight shows it. None is a file from before the key, which had none."""
    checkpointer_of(tmp_path, **{RELU: bool(trained_with)}).save("model_final")
    path = tmp_path / "model_final.pth"
    if trained_with is None:
        data = torch.load(path, weights_only=True)
        config = yaml.safe_load(data["config"])
        del config["MODEL"]["RANDWIRE"]["RELU_OUTPUTS"]
        torch.save(data | {"config": yaml.safe_dump(config)}, path)
    same, other = ({RELU: value} for value in (bool(trained_with), not trained_with))
    checkpointer_of(tmp_path, **same).load(str(path))
    with pytest.raises(UserError, match=rf"{RELU} {bool(trained_with)}.*set {RELU}"):
        checkpointer_of(tmp_path, **other).load(str(path))
    model, cfg, _ = load_detector(path, "cpu")
    assert model.backbone.bottom_up.relu_outputs is cfg.MODEL.RANDWIRE.RELU_OUTPUTS
    assert cfg.MODEL.RANDWIRE.RELU_OUTPUTS is bool(trained_with)


def test_a_classifier_fits_with_and_without_a_relu(tmp_path):
    save_classifier(tmp_path / "c.pth")
    for relu in (True, False):
        checkpointer_of(tmp_path, **{RELU: relu}).resume_or_load(str(tmp_path / "c.pth"))


def test_other_classes_may_start_from_a_detector_but_not_resume_it(tmp_path):
    checkpointer_of(tmp_path).save("model_final")
    path = str(tmp_path / "model_final.pth")
    more = {"MODEL.ROI_HEADS.NUM_CLASSES": 9}
    checkpointer_of(tmp_path, **more).load(path, checkpointables=[])
    with pytest.raises(UserError, match="roi_heads"):
        checkpointer_of(tmp_path, **more).load(path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    """They detect nothing, in silence, and as a start the training is what diverges."""
    broken = checkpointer_of(tmp_path)
    name, tensor = next(iter(broken.model.backbone.named_parameters(prefix="backbone")))
    with torch.no_grad():
        tensor.view(-1)[0] = float("-inf")
    broken.save("model_final")
    loading = checkpointer_of(tmp_path)
    before = copy.deepcopy(loading.model.state_dict())
    for checkpointables in (None, []):
        with pytest.raises(UserError, match=f"NaN or infinity in 1 of .* {re.escape(name)}"):
            loading.load(str(tmp_path / "model_final.pth"), checkpointables=checkpointables)
    for key, value in loading.model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_classifier_is_no_detector_to_evaluate(tmp_path):
    save_classifier(tmp_path / "c.pth")
    with pytest.raises(UserError, match="is a classifier"):
        checkpointer_of(tmp_path).load(str(tmp_path / "c.pth"))


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_a_baseline_gives_the_detector_all_of_its_resnet(tmp_path, norm):
    """With no conversion between, the very features that the conversion gives."""
    classifier = save_baseline(tmp_path / "r.pth")
    changes = resnet(**{"MODEL.RESNETS.NORM": norm})
    model = tiny_detector(**changes)
    checkpointer_of(tmp_path, model, **changes).load(str(tmp_path / "r.pth"), checkpointables=[])
    image = torch.randn(2, 3, 64, 64)
    features = create_feature_extractor(classifier.eval(), ["layer4"])(image)
    torch.testing.assert_close(
        model.eval().backbone.bottom_up(image)["res5"], features["layer4"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "width", "fragment"),
    [
        ("resnet50", 0.5, "stem.conv1.weight"),
        ("resnet101", 0.25, "larger network"),
        ("resnext50_32x4d", 0.25, "missing or of another shape"),
    ],
)
def test_another_resnet_is_refused(tmp_path, name, width, fragment):
    save_baseline(tmp_path / "r.pth", name, width)
    with pytest.raises(UserError, match=fragment):
        checkpointer_of(tmp_path, **resnet()).load(str(tmp_path / "r.pth"), checkpointables=[])


def test_a_resnet_detector_survives_its_own_file(tmp_path):
    saved = checkpointer_of(tmp_path, **resnet())
    saved.save("model_final", iteration=3)
    loaded = checkpointer_of(tmp_path, **resnet())
    assert loaded.resume_or_load("", resume=True)["iteration"] == 3
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, saved.model.state_dict()[name]), name


def test_a_randwire_and_a_resnet_do_not_take_each_others_files(tmp_path):
    save_baseline(tmp_path / "r.pth")
    save_classifier(tmp_path / "c.pth")
    for weights, changes in (("r.pth", {}), ("c.pth", resnet())):
        with pytest.raises(UserError, match=r"RandWire, but .*MODEL\.BACKBONE\.NAME"):
            checkpointer_of(tmp_path, **changes).load(str(tmp_path / weights), checkpointables=[])


def test_a_baseline_has_no_wiring_to_take(tmp_path):
    save_baseline(tmp_path / "r.pth")
    with pytest.raises(UserError, match=r"is a resnet50 classifier.*tools/convert_baseline\.py"):
        tiny_detector(**{"MODEL.RANDWIRE.SPEC": tmp_path / "r.pth"})


class Counter:
    """Stands for a trainer, whose state a checkpointer keeps."""

    def state_dict(self):
        return {"count": 1}

    def load_state_dict(self, state):
        self.state = state


def averaged(directory):
    """A checkpointer of a model and its average, which are not alike."""
    model = tiny_detector()
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        for parameter in average.model.parameters():
            parameter.add_(1)
    cfg = tiny_config(OUTPUT_DIR=directory)
    return build_checkpointer(cfg, model, average=average, trainer=Counter())


def test_a_resumed_training_takes_weights_and_average_and_all_others_the_average(tmp_path):
    saved = averaged(tmp_path)
    saved.save("model_final")
    path = str(tmp_path / "model_final.pth")
    name = "roi_heads.box_head.fc1.weight"
    ours = saved.model.state_dict()[name]

    resumed = averaged(tmp_path)
    resumed.resume_or_load("", resume=True)
    assert resumed.model.state_dict()[name].equal(ours)
    assert resumed.average.model.state_dict()[name].equal(ours + 1)

    tested = checkpointer_of(tmp_path)
    tested.load(path)
    assert tested.model.state_dict()[name].equal(ours + 1)

    other = averaged(tmp_path)
    other.load(path, checkpointables=[])
    for model in (other.model, other.average.model):
        assert model.state_dict()[name].equal(ours + 1)


def test_the_file_carries_the_config_it_was_built_from(tmp_path):
    checkpointer_of(tmp_path).save("model_final")
    text = load_checkpoint(tmp_path / "model_final.pth").config
    assert yaml.safe_load(text)["MODEL"]["FPN"]["OUT_CHANNELS"] == 8


def test_a_save_that_fails_leaves_the_older_file_and_its_tag(tmp_path):
    checkpointer = checkpointer_of(tmp_path)
    checkpointer.save("model_final", iteration=1)
    with pytest.raises(AttributeError):  # a generator has no plain data
        checkpointer.save("model_final", iteration=lambda: 2)
    assert load_checkpoint(tmp_path / "model_final.pth").rest["iteration"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_final.pth",
    ]


def test_a_model_without_randwire_or_resnet_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"0 RandWires and ResNets.*MODEL\.BACKBONE\.NAME"):
        checkpointer_of(tmp_path, torch.nn.Conv2d(3, 3, 1))


def test_a_detector_keeps_its_output_stride(tmp_path):
    key = "MODEL.RANDWIRE.OUTPUT_STRIDE"
    features = {
        "MODEL.RANDWIRE.OUT_FEATURES": "['conv2', 'conv3', 'conv4']",
        "MODEL.FPN.IN_FEATURES": "['conv2', 'conv3', 'conv4']",
        "MODEL.RPN.IN_FEATURES": "['p2', 'p3', 'p4', 'p5']",
        "MODEL.ROI_HEADS.IN_FEATURES": "['p2', 'p3', 'p4']",
        "MODEL.ANCHOR_GENERATOR.SIZES": "[[32], [64], [128], [256]]",
    }
    checkpointer_of(tmp_path, **features, **{key: 16}).save("model_final")
    path = str(tmp_path / "model_final.pth")
    checkpointer_of(tmp_path, **features, **{key: 16}).load(path)
    with pytest.raises(UserError, match=rf"{key} 16.*has 32; set {key} 16"):
        checkpointer_of(tmp_path, **features).load(path)
    model, _, _ = load_detector(path, "cpu")
    assert model.backbone.bottom_up.trunk.output_stride == 16


@pytest.mark.parametrize("value", ["4", "64", "16.0"])
def test_an_unknown_output_stride_is_refused(value):
    with pytest.raises(UserError, match=r"(?i)output.stride"):
        build_backbone(tiny_config(**{"MODEL.RANDWIRE.OUTPUT_STRIDE": value}))
