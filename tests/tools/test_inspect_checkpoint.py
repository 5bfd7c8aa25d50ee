"""tools/inspect_checkpoint.py on what the trainings write; python -m randwire_det."""

import json
import os

import pytest
import torch
from conftest import assert_refused, run_python, run_tool
from detection_helpers import save_baseline

from pretrain.export import exportable_classifier
from randwire_det import __version__
from randwire_det.export.formats import ENDINGS, write
from randwire_det.run.checkpoint import load_checkpoint
from randwire_det.run.trunk_file import save_trunk
from randwire_det.strict import load_yaml

pytestmark = pytest.mark.slow_suite


def inspect(*args):
    done = run_tool("inspect_checkpoint.py", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_classifier_is_told(unbroken):
    path = unbroken / "model_final.pth"
    found = json.loads(inspect(path, "--json"))
    checkpoint = load_checkpoint(path)
    assert found["kind"] == "classifier" and found["spec digest"] == checkpoint.spec.digest
    assert found["classes"] == ["blue", "green", "red"]
    assert found["training"]["top1"] == checkpoint.progress["top1"]
    groups = found["tensors"]["weights"]
    elements = sum(tensor.numel() for tensor in checkpoint.model.values())
    assert sum(group["elements"] for group in groups.values()) == elements
    conv3 = [tensor for name, tensor in checkpoint.model.items() if "trunk.conv3." in name]
    assert groups["trunk.conv3"]["tensors"] == len(conv3)
    text = inspect(path)
    for part in (checkpoint.spec.describe(), "3: blue, green, red", f"{elements:,} elements"):
        assert part in text


def test_of_a_folder_it_says_what_is_in_it(unbroken, tmp_path):
    done = run_tool("inspect_checkpoint.py", unbroken)
    assert_refused(done, str(unbroken), "a folder, which holds", "model_final.pth")
    assert_refused(run_tool("inspect_checkpoint.py", tmp_path), "a folder without any")


def test_what_a_training_resumes_from_is_told(unbroken):
    (path, *_) = sorted(unbroken.glob("checkpoint_*.pth"))
    assert "optimizer" in json.loads(inspect(path, "--json"))["besides"]


def test_its_config_is_yaml(unbroken):
    config = load_yaml(inspect(unbroken / "model_final.pth", "--config"))
    assert config["MODEL"]["RANDWIRE"]["NODES"] == 5


def test_a_baseline_is_told_and_has_no_config(tmp_path):
    save_baseline(tmp_path / "resnet.pth")
    assert "resnet50" in inspect(tmp_path / "resnet.pth")
    assert_refused(
        run_tool("inspect_checkpoint.py", tmp_path / "resnet.pth", "--config"), "no config"
    )


@pytest.mark.parametrize("to", ENDINGS)
def test_what_was_exported_is_told(to, unbroken, tmp_path):
    checkpoint = load_checkpoint(unbroken / "model_final.pth")
    path = tmp_path / f"network{ENDINGS[to]}"
    write(exportable_classifier(checkpoint), to, path)
    found = json.loads(inspect(path, "--json"))
    assert found["file"] == str(path) and found["spec_digest"] == checkpoint.spec.digest
    assert found["classes"] == ["blue", "green", "red"]
    text = inspect(path)
    assert checkpoint.spec.describe() in text and "centre crop" in text


def test_several_files_are_told_in_turn(unbroken, tmp_path):
    checkpoint = load_checkpoint(unbroken / "model_final.pth")
    (tmp_path / "spec.json").write_text(checkpoint.spec.to_json())
    save_trunk(tmp_path / "trunk.safetensors", checkpoint)
    files = unbroken / "model_final.pth", tmp_path / "trunk.safetensors", tmp_path / "spec.json"
    found = json.loads(inspect(*files, "--json"))
    assert [each["file"] for each in found] == list(map(str, files))
    assert inspect(*files).count(checkpoint.spec.describe()) == 3
    done = run_tool("inspect_checkpoint.py", *files, "--config")
    assert_refused(done, "--config", "expected one file, got 3")
    assert done.returncode == 2


def test_other_files_are_refused(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pt2")
    (tmp_path / "other.ts").write_bytes((tmp_path / "other.pt2").read_bytes())
    for name in ("damaged.onnx", "damaged.pt2", "damaged.json"):
        (tmp_path / name).write_bytes(b"damaged")
    for name in (*os.listdir(tmp_path), "gone.pth", "gone.onnx", "gone.ts", "gone.json"):
        assert_refused(run_tool("inspect_checkpoint.py", tmp_path / name), name)


def test_a_bug_report_names_the_versions():
    done = run_python("-m", "randwire_det", env={"OMP_NUM_THREADS": "3"})
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert lines["randwire_det"].startswith(__version__)
    assert lines["torch"] == torch.__version__.partition("+")[0]
    assert lines["OMP_NUM_THREADS"] == "3"
