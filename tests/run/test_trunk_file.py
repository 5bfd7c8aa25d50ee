"""The trunk in safetensors, written from any checkpoint and read wherever a checkpoint is."""

import json

import pytest
import torch
from conftest import REPO, assert_refused, run_tool, tiny_spec
from detection_helpers import save_baseline, save_classifier, tiny_config, tiny_detector
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from randwire_det import NetworkSpec, UsageError, UserError
from randwire_det.config.network_keys import read_spec
from randwire_det.detection.trainer import build_checkpointer
from randwire_det.run.checkpoint import load_checkpoint
from randwire_det.run.trunk_file import load_trunk, save_trunk


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A classifier's file, its module, and its trunk's file."""
    folder = tmp_path_factory.mktemp("trunk")
    module = save_classifier(folder / "c.pth").eval()
    save_trunk(folder / "t.safetensors", load_checkpoint(folder / "c.pth"))
    return folder / "c.pth", module, folder / "t.safetensors"


def test_the_file_holds_the_trunk_and_what_it_takes(classifier):
    source, module, path = classifier
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["randwire_det"])
        names = set(file.keys())
    assert NetworkSpec.from_dict(about["spec"]) == load_checkpoint(source).spec
    assert about["preprocessing"]["channel_order"] == "RGB"
    assert names == module.trunk.state_dict().keys()
    assert read_spec(str(path)) == module.trunk.spec


def test_it_is_read_back_whole_or_in_part(classifier):
    _, module, path = classifier
    image = torch.randn(2, 3, 64, 64)
    expected = module.trunk(image)["conv5"]
    assert torch.equal(load_trunk(path).eval()(image)["conv5"], expected)
    assert torch.equal(load_trunk(classifier[0]).eval()(image)["conv5"], expected)
    early = load_trunk(path, out_features=["conv3"], memory="lean")
    assert list(early.eval()(image)) == ["conv3"]
    finer = load_trunk(path, output_stride=16).eval()(image)["conv5"]
    torch.testing.assert_close(finer[..., ::2, ::2], expected)


def test_a_detector_starts_from_it_and_gives_it_back(classifier, tmp_path):
    cfg, model = tiny_config(OUTPUT_DIR=tmp_path), tiny_detector()
    checkpointer = build_checkpointer(cfg, model)
    checkpointer.load(str(classifier[2]), checkpointables=[])
    expected = classifier[1].trunk.state_dict()
    ours = model.backbone.bottom_up.trunk.state_dict()
    assert all(torch.equal(ours[name], each) for name, each in expected.items() if name in ours)
    with pytest.raises(UserError, match="is a trunk, not a detector"):
        checkpointer.load(str(classifier[2]))
    checkpointer.save("model_final")
    save_trunk(tmp_path / "again.safetensors", load_checkpoint(tmp_path / "model_final.pth"))
    again = load_trunk(tmp_path / "again.safetensors").state_dict()
    assert all(torch.equal(again[name], each) for name, each in expected.items())


def test_the_command(classifier, tmp_path):
    done = run_tool(
        *["export.py", classifier[0], "--to", "safetensors", "--output", tmp_path / "t.safetensors"]
    )
    assert done.returncode == 0, done.stderr
    ours, expected = (load_file(each) for each in (tmp_path / "t.safetensors", classifier[2]))
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], each) for name, each in expected.items())
    assert_refused(run_tool("export.py", classifier[2], "--to", "onnx"), "a trunk alone")
    assert_refused(run_tool("damage.py", classifier[2], "--output", tmp_path / "d"), "trunk")
    done = run_tool("inspect_checkpoint.py", classifier[2])
    assert "kind           trunk" in done.stdout


def test_what_is_no_trunk_is_refused(classifier, tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(classifier[2].read_bytes()[:-9])
    with pytest.raises(UserError, match="no safetensors file"):
        load_checkpoint(tmp_path / "broken.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no trunk of randwire_det"):
        load_checkpoint(tmp_path / "other.safetensors")
    for text in ("{", "[]", "{}", '{"version": 1}'):
        save_file({"a": torch.zeros(2)}, tmp_path / "bad.safetensors", {"randwire_det": text})
        with pytest.raises(UserError, match="metadata cannot be read"):
            load_checkpoint(tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match=r"ends in \.safetensors"):
        save_trunk(tmp_path / "t.pth", load_checkpoint(classifier[0]))
    save_baseline(tmp_path / "b.pth")
    with pytest.raises(UserError, match="no RandWire"):
        save_trunk(
            tmp_path / "t.safetensors", load_checkpoint(tmp_path / "b.pth", kinds=["baseline"])
        )
    with safe_open(classifier[2], framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()["randwire_det"])
    about["spec"] = tiny_spec(seed=9).to_dict()
    save_file(tensors, tmp_path / "t.safetensors", {"randwire_det": json.dumps(about)})
    with pytest.raises(UserError, match=r"another network|does not hold all"):
        load_trunk(tmp_path / "t.safetensors")


@pytest.mark.slow_suite
@pytest.mark.parametrize("name", ["randwire_c78", "randwire_c109", "randwire_c154"])
def test_torch_hub_builds_the_papers_networks(name):
    with torch.device("meta"):
        model = torch.hub.load(str(REPO), name, source="local", seed=2, num_classes=7)
        trunk = torch.hub.load(str(REPO), "randwire_trunk", name[9:], source="local")
    assert model.trunk.spec.provenance["channels"] == int(name[10:])
    assert model.trunk.spec.provenance["seed"] == 2 and model.head.fc.out_features == 7
    assert trunk.spec.provenance["channels"] == int(name[10:])
