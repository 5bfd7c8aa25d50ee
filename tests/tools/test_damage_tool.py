"""tools/damage.py end to end, on a classifier that was trained, and what it refuses."""

import json

import pytest
import torch
from conftest import run_tool
from detection_helpers import refused, save_baseline
from pretrain_helpers import tiny
from reference import evaluate

from pretrain import data, recipe
from randwire_det.network import RandWireClassifier
from randwire_det.network.damage import Removal, removals
from randwire_det.run.checkpoint import load_checkpoint


@torch.no_grad()
def top1_without(checkpoint, cfg, removal):
    """By the reference evaluator, on all test images at once."""
    val = data.open_val(cfg)
    (batch,) = data.Loader(val, workers=0, prefetch=1)([data.in_order(len(val))])
    images = data.Normalise(recipe.preprocessing_from_cfg(cfg))(batch.images)
    weights, spec = checkpoint.weights_to_use, checkpoint.spec
    trunk = {
        name.removeprefix("trunk."): each
        for name, each in weights.items()
        if name.startswith("trunk.")
    }
    part = (removal.part,) if removal.kind == "node" else tuple(removal.part)
    maps = evaluate(spec, trunk, images, False, without=(removal.stage, *part))
    model = RandWireClassifier(spec, len(val.classes), head_channels=cfg.MODEL.HEAD_CHANNELS)
    model.load_state_dict(weights)
    logits = model.eval().head(maps[spec.stage_names[-1]])
    return 100 * (logits.argmax(1) == batch.labels).double().mean().item()


def test_a_classifier(unbroken, colours, tmp_path):
    weights, output = unbroken / "model_final.pth", tmp_path / "damage"
    done = run_tool("damage.py", weights, "--output", output, "SOLVER.BATCH_SIZE", 7)
    assert done.returncode == 0, done.stderr
    record = json.loads((output / "damage.json").read_text())
    checkpoint = load_checkpoint(weights)
    assert len(record["removals"]) == len(removals(checkpoint.spec))
    cfg = tiny(colours, tmp_path / "run")
    for row in record["removals"]:
        removal = Removal(row["stage"], row["part"], row["degree"])
        assert row["value"] == pytest.approx(top1_without(checkpoint, cfg, removal))
        assert row["loss"] == pytest.approx(record["intact"] - row["value"])
    assert max(row["loss"] for row in record["removals"]) > 5
    assert f"top-1 of the intact network: {record['intact']:.2f}" in done.stdout
    assert (output / "damage.png").stat().st_size > 0

    again = run_tool("damage.py", weights, "--output", output, "SOLVER.BATCH_SIZE", 7)
    assert again.returncode == 0 and "0 are left" in again.stderr
    figure = tmp_path / "figure"
    together = run_tool("damage.py", "--gather", output / "damage.json", "--output", figure)
    assert together.returncode == 0 and (figure / "damage.png").exists()


def test_part_of_the_removals_and_images(unbroken, tmp_path):
    options = ["--kinds", "edge", "--stages", "conv3", "--images", 5, "--sample", 2]
    done = run_tool(
        "damage.py", unbroken / "model_final.pth", "--output", tmp_path / "damage", *options
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "damage" / "damage.json").read_text())
    found = [(row["kind"], row["stage"]) for row in record["removals"]]
    assert found == [("edge", "conv3")] * 2 and record["images"] == 5
    # The same folder, but another crop or more images: other figures.
    crop = run_tool(
        *("damage.py", unbroken / "model_final.pth", "--output", tmp_path / "damage", *options),
        *("INPUT.TEST_RESIZE", 33),
    )
    refused(crop, 1, "of another measurement: config", "--output")
    other = run_tool("damage.py", unbroken / "model_final.pth", "--output", tmp_path / "damage")
    refused(other, 1, "images 5, now 24", "--output")


@pytest.mark.parametrize(
    ("arguments", "status", "fragments"),
    [
        ([], 2, ["checkpoint", "--gather"]),
        (["no_such.pth"], 1, ["no_such.pth"]),
        (["{weights}", "--stages", "conv1"], 2, ["stage conv1", "conv3"]),
        (["{weights}", "--images", "0"], 2, ["--images 0", "1 to 24"]),
        (["{weights}", "--sample", "0"], 2, ["sample of 0"]),
        (["{weights}", "--stages", "conv3,conv9", "SOLVER.BATCH_SIZE", "4"], 2, ["stage conv9"]),
        (["{weights}", "SOLVER.BATCHSIZE", "4"], 2, ["SOLVER.BATCH_SIZE"]),
        (["{weights}", "DATA.ROOT", "nowhere"], 1, ["nowhere/val"]),
        (["--gather", "nothing.json"], 1, ["nothing.json"]),
    ],
)
def test_bad_input_is_one_line(unbroken, tmp_path, arguments, status, fragments):
    arguments = [each.format(weights=unbroken / "model_final.pth") for each in arguments]
    done = run_tool("damage.py", *arguments, "--output", tmp_path / "damage")
    refused(done, status, *fragments)
    assert not (tmp_path / "damage").exists()


def test_a_baseline_has_no_wiring(tmp_path):
    save_baseline(tmp_path / "resnet.pth")
    done = run_tool("damage.py", tmp_path / "resnet.pth", "--output", tmp_path / "damage")
    refused(done, 1, "RandWire")
