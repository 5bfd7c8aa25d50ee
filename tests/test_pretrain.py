"""The ImageNet training: what it learns, leaves on disk, goes on from, and refuses."""

import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pretrain import commands, data, recipe
from pretrain.config import check, get_cfg
from randwire_det.checkpoint import load_checkpoint
from randwire_det.complexity import complexity
from randwire_det.config_files import merge_config
from randwire_det.errors import UsageError, UserError
from randwire_det.network import RandWireClassifier
from randwire_det.spec_config import spec_from_config

ROOT = Path(__file__).resolve().parents[1]
COLOURS = {"blue": (30, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}
TINY = """
MODEL: {REGIME: small, CHANNELS: 8, NODES: 5, K: 2, P: 0.5, HEAD_CHANNELS: 16, DROPOUT: 0.2}
INPUT: {SIZE: 32, TEST_RESIZE: 36, MEAN: [90, 100.5, 110], STD: [60.0, 65, 70]}
DATA: {ROOT: %s, NUM_WORKERS: 0}
SOLVER: {EPOCHS: 10, BATCH_SIZE: 8, BASE_LR: 1.6, WARMUP_EPOCHS: 2}
LOG_PERIOD: 1
DEVICE: cpu
OUTPUT_DIR: %s
"""
EPOCH_LENGTH, WARMUP, TOTAL, PEAK = 9, 18, 90, 0.05  # of TINY and the folders below


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the subprocesses: so small a network gains nothing from two, and sums stay equal."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_folders(root, classes=("blue", "green", "red"), train=24, val=8):
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = rng.normal(0, 40, (40, 48, 3))
                pixels = (noise + COLOURS.get(name, (128, 128, 128))).clip(0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.jpg")
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def unbroken(folders, tmp_path_factory):
    """The OUTPUT_DIR of a finished run of TINY."""
    output = tmp_path_factory.mktemp("unbroken") / "run"
    commands.train(tiny(folders, output))
    return output


def tiny_file(root, output):
    path = output.with_name(f"{output.name}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TINY % (root, output))
    return str(path)


def tiny(root, output, *overrides):
    cfg = get_cfg()
    merge_config(cfg, tiny_file(root, output), [str(value) for value in overrides])
    return cfg


def start(*args, stdout=subprocess.PIPE):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "pretrain_imagenet.py"), *map(str, args)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def tool(*args):
    process = start(*args)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def metrics(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def message_of(call, *args, **kwargs):
    """The message of the UserError that the call must end with: one line."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- recipe ---------------------------------------------------------------------------------------


def test_learning_rate_of_the_running_optimizer(unbroken):
    used = {line["iteration"] - 1: line["lr"] for line in metrics(unbroken) if "lr" in line}
    assert sorted(used) == list(range(TOTAL))
    landmarks = {
        0: 0.0,
        WARMUP // 2: PEAK / 2,
        WARMUP: PEAK,
        (WARMUP + TOTAL) // 2: PEAK / 2,
        WARMUP + (TOTAL - WARMUP) // 4: PEAK * (0.5 + 0.5**1.5),
    }
    for iteration, expected in landmarks.items():
        assert used[iteration] == pytest.approx(expected, abs=1e-12), iteration
    assert 0 < used[TOTAL - 1] < 0.01 * PEAK


def test_parameter_groups_leave_norms_and_edges_without_decay(folders, tmp_path):
    cfg = tiny(folders, tmp_path / "run", "SOLVER.WEIGHT_DECAY", 0.01)
    model = recipe.build_model(cfg, spec_from_config(cfg.MODEL), 3)
    decay_of = {}
    for group in recipe.build_optimizer(cfg, model).param_groups:
        assert (group["momentum"], group["nesterov"]) == (0.9, True)
        for parameter in group["params"]:
            assert parameter not in decay_of
            decay_of[parameter] = group["weight_decay"]
    names = dict(model.named_parameters())
    assert set(decay_of) == set(names.values())
    without = {name for name, parameter in names.items() if decay_of[parameter] == 0}
    assert without == {name for name in names if ".norm." in name or "edge_logits" in name}
    assert any("edge_logits" in name for name in without)
    assert {decay_of[names[name]] for name in names.keys() - without} == {0.01}


def test_label_smoothing_equals_the_formula():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 6, 3, 3, 1])
    target = 0.9 * torch.nn.functional.one_hot(labels, 7) + 0.1 / 7
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(recipe.classification_loss(logits, labels, 0.1), expected)


def test_a_plain_problem_is_learnt(folders, unbroken):
    losses = [line["loss"] for line in metrics(unbroken) if "loss" in line]
    assert losses[0] == pytest.approx(np.log(3), abs=0.2)  # chance
    assert np.mean(losses[-EPOCH_LENGTH:]) < 0.6  # the least possible with smoothing 0.1 is 0.29
    progress = load_checkpoint(unbroken / "model_final.pth")["progress"]
    assert progress["top1"] > 85 and progress["best_top1"] >= progress["top1"]


# --- shipped configs ------------------------------------------------------------------------------

PAPERS = {
    "base": ("regular", 109, 0.0, 5e-5, 100),
    "randwire_ws_c109": ("regular", 109, 0.2, 1e-5, 100),
    "randwire_ws_c154": ("regular", 154, 0.2, 1e-5, 100),
    "randwire_ws_c78": ("small", 78, 0.0, 5e-5, 250),
}


SHIPPED_FILES = sorted(path.name for path in (ROOT / "configs" / "pretrain").glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED_FILES)
def test_shipped_config_builds_what_complexity_counts(name):
    cfg = get_cfg()
    merge_config(cfg, f"pretrain/{name}", [])
    check(cfg)
    spec = spec_from_config(cfg.MODEL)
    with torch.device("meta"):
        model = recipe.build_model(cfg, spec, 1000)
    count = complexity(spec, cfg.INPUT.SIZE, 1000, cfg.MODEL.HEAD_CHANNELS)
    assert count.params == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PAPERS)
def test_shipped_config_is_the_papers(name):
    cfg = get_cfg()
    merge_config(cfg, f"pretrain/{name}.yaml", [])
    solver = cfg.SOLVER
    got = (cfg.MODEL.REGIME, cfg.MODEL.CHANNELS, cfg.MODEL.DROPOUT)
    assert (*got, solver.WEIGHT_DECAY, solver.EPOCHS) == PAPERS[name]
    assert (solver.BASE_LR, solver.BATCH_SIZE, solver.LABEL_SMOOTHING) == (0.1, 256, 0.1)


# --- data -----------------------------------------------------------------------------------------


def test_batches_depend_on_seed_and_epoch_alone(folders, tmp_path):
    cfg = tiny(folders, tmp_path / "run")
    train_data = data.train_set(cfg)

    def epoch(number, workers):
        torch.rand(1)  # the state of the global generator must not matter
        plan = data.epoch_plan(len(train_data), cfg.SEED, number)
        loaded = data.batches(train_data, plan, batch_size=8, workers=workers, drop_last=True)
        return list(loaded)

    first, again, later = epoch(3, 0), epoch(3, 2), epoch(4, 0)
    assert len(first) == EPOCH_LENGTH
    for (images, labels), (same_images, same_labels) in zip(first, again, strict=True):
        assert torch.equal(images, same_images) and torch.equal(labels, same_labels)
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(first, later, strict=True))
    in_plan = data.epoch_plan(len(train_data), cfg.SEED, 3)[:, 0]
    assert sorted(in_plan) == list(range(len(train_data)))


def test_random_crop_keeps_to_share_ratio_and_flip():
    # Every pixel says where it is, so the crop can be read off its corners.
    rows, columns = np.mgrid[0:200, 0:240]
    image = Image.fromarray(np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8))
    mirrored, shares = 0, []
    for seed in range(300):
        rng = random.Random(seed)
        crop = data.random_crop(image, rng, size=32, min_scale=0.25, flip=True)
        crop = np.asarray(crop).astype(float)
        width = (crop[0, -1, 0] - crop[0, 0, 0]) * 32 / 31
        height = (crop[-1, 0, 1] - crop[0, 0, 1]) * 32 / 31
        mirrored += width < 0
        shares.append(abs(width) * height / (200 * 240))
        assert 3 / 4 - 0.05 < abs(width) / height < 4 / 3 + 0.05
    assert 110 < mirrored < 190
    assert 0.22 < min(shares) < 0.3 and max(shares) > 0.8
    upright = [
        np.asarray(data.random_crop(image, random.Random(seed), size=8, min_scale=1, flip=False))
        for seed in range(20)
    ]
    assert all(crop[0, 0, 0] < crop[0, -1, 0] for crop in upright)


def test_test_images_are_resized_then_cropped(tmp_path):
    pixels = np.zeros((80, 160, 3), np.uint8)
    pixels[:, 40:120] = 255  # the middle square
    middle = data.centre_crop(Image.fromarray(pixels), None, resize=40, size=40)
    assert middle.size == (40, 40) and np.asarray(middle)[:, 2:-2].min() > 250
    assert data.centre_crop(Image.fromarray(pixels), None, resize=40, size=32).size == (32, 32)


# --- what is on disk ------------------------------------------------------------------------------


def test_final_file_says_all_that_using_it_takes(folders, unbroken):
    plain = torch.load(unbroken / "model_final.pth", weights_only=True)
    assert "optimizer" not in plain
    saved = load_checkpoint(unbroken / "model_final.pth")
    assert saved["kind"] == "classifier" and saved["classes"] == ["blue", "green", "red"]
    assert saved["progress"]["epoch"] == 10 and saved["progress"]["iteration"] == TOTAL
    cfg = tiny(folders, unbroken)
    assert saved["spec"] == spec_from_config(cfg.MODEL)

    model = RandWireClassifier(saved["spec"], 3, head_channels=16).eval()
    model.load_state_dict(saved["model"])
    preprocessing = saved["preprocessing"]
    assert (preprocessing.channel_order, preprocessing.input_size) == ("RGB", 32)
    assert preprocessing.mean == (90, 100.5, 110) and preprocessing.std == (60, 65, 70)
    right = 0
    val_data = data.val_set(cfg)
    normalise = data.Normalise(preprocessing)
    plan = data.in_order(len(val_data))
    loaded = data.batches(val_data, plan, batch_size=7, workers=0, drop_last=False)
    ours = torch.cat([normalise(images) for images, _ in loaded])
    for (path, label), our in zip(val_data.samples, ours, strict=True):
        # By hand: 40 x 48 pixels resized to 36 x 43, the middle 32 x 32, (value - mean) / std.
        image = Image.open(path).resize((43, 36), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, np.float64)[2:34, 6:38]
        by_hand = (pixels - preprocessing.mean) / preprocessing.std
        by_hand = torch.from_numpy(by_hand).permute(2, 0, 1).float()
        torch.testing.assert_close(our, by_hand)
        right += int(model(by_hand[None]).argmax()) == label
    assert 100 * right / len(val_data) == pytest.approx(saved["progress"]["top1"])


def test_resume_after_sigkill_ends_with_the_same_weights(folders, unbroken, tmp_path):
    output = tmp_path / "run"
    config = tiny_file(folders, output)
    process = start("--config-file", config, "--resume")
    deadline = time.monotonic() + 100
    while not (output / "checkpoint_last.pth").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    out, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL and not (output / "model_final.pth").exists()
    assert "starting from scratch" in out
    reached = load_checkpoint(output / "checkpoint_last.pth")["progress"]["epoch"]
    assert 1 <= reached < 10
    with (output / "metrics.jsonl").open("a") as file:  # as if the kill had come a little later
        file.write('{"epoch": 10, "iteration": 90, "loss": 7.0, "lr": 0.1}\n{"epoch": 10, "iter')

    status, out, err = tool("--config-file", config, "--resume")
    assert status == 0, err
    assert f"after epoch {reached}" in out and f"MODEL.WEIGHTS {output / 'model_final.pth'}" in out
    resumed = load_checkpoint(output / "model_final.pth")
    whole = load_checkpoint(unbroken / "model_final.pth")
    assert resumed["progress"] == whole["progress"]
    for name, value in whole["model"].items():
        assert torch.equal(resumed["model"][name], value), name

    def told(folder):
        return [line | {"images_per_second": 0} for line in metrics(folder)]

    assert told(output) == told(unbroken)


def test_a_terminal_of_unknown_size_gets_one_updating_line(folders, tmp_path):
    master, slave = pty.openpty()
    config = tiny_file(folders, tmp_path / "run")
    args = ["--config-file", config, "SOLVER.EPOCHS", 3]
    process = start(*args, stdout=slave)
    os.close(slave)
    shown = b""
    with open(master, "rb", buffering=0) as terminal:
        try:
            while part := terminal.read(4096):
                shown += part
        except OSError:  # how Linux says that the other end is closed
            pass
    assert process.wait(timeout=100) == 0, process.communicate()
    lines = shown.decode().split("\r\n")
    assert any(line.count("\r") > EPOCH_LENGTH and "images/s" in line for line in lines)
    assert not any(line.startswith("epoch 1/3, iteration") for line in lines)
    assert "epoch 1/3, iteration 9/27" in (tmp_path / "run" / "log.txt").read_text()


def test_eval_only_repeats_the_final_accuracy(folders, unbroken, tmp_path, capsys):
    progress = load_checkpoint(unbroken / "model_final.pth")["progress"]
    expected = {"top1": progress["top1"], "top5": progress["top5"]}
    output = tmp_path / "untouched"
    cfg = tiny(folders, output, "MODEL.WEIGHTS", unbroken / "model_final.pth")
    assert commands.evaluate_only(cfg) == expected
    assert f"top-1 {expected['top1']:.2f} %, top-5 100.00 %" in capsys.readouterr().out
    assert not output.exists()
    assert commands.evaluate_only(tiny(folders, unbroken), resuming=True) == expected


# --- refusals -------------------------------------------------------------------------------------


def test_used_output_dir_is_refused_and_left_alone(folders, unbroken):
    before = (unbroken / "checkpoint_last.pth").read_bytes()
    message = message_of(commands.train, tiny(folders, unbroken))
    assert "--resume" in message and "OUTPUT_DIR" in message
    assert (unbroken / "checkpoint_last.pth").read_bytes() == before


def test_finished_weights_are_not_trained_over(folders, unbroken, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    (output / "model_final.pth").write_bytes((unbroken / "model_final.pth").read_bytes())
    message = message_of(commands.train, tiny(folders, output), resuming=True)
    assert "model_final.pth" in message and "OUTPUT_DIR" in message


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["MODEL.K", 4], ["WS(K=2", "WS(K=4", "MODEL.K 2"]),
        (["SOLVER.BASE_LR", 0.2], ["SOLVER.BASE_LR 1.6", "0.2"]),
        (["SOLVER.EPOCHS", 11], ["SOLVER.EPOCHS 10", "11"]),
        (["INPUT.STD", "[1.0,1.0,1.0]"], ["INPUT.STD", "[60.0, 65, 70]"]),
        (["MODEL.HEAD_CHANNELS", 17], ["MODEL.HEAD_CHANNELS 16", "17"]),
    ],
)
def test_resume_refuses_another_recipe(folders, unbroken, overrides, named):
    message = message_of(commands.train, tiny(folders, unbroken, *overrides), resuming=True)
    for part in [*named, "checkpoint_last.pth"]:
        assert part in message


def test_resume_refuses_other_data(unbroken, tmp_path):
    more = make_folders(tmp_path / "more", classes=("blue", "green", "grey"))
    message = message_of(commands.train, tiny(more, unbroken), resuming=True)
    assert "1 only in" in message and "red" in message and "grey" in message
    fewer = make_folders(tmp_path / "fewer", train=20)
    message = message_of(commands.train, tiny(fewer, unbroken), resuming=True)
    assert "72 images" in message and "60" in message


def test_eval_only_refuses_what_does_not_fit(folders, unbroken, tmp_path):
    weights = ["MODEL.WEIGHTS", unbroken / "model_final.pth"]

    def message(*overrides, root=folders):
        cfg = tiny(root, tmp_path / "run", *weights, *overrides)
        return message_of(commands.evaluate_only, cfg)

    assert "MODEL.NODES 5 MODEL.SEED 1" in message("MODEL.SEED", 3, "MODEL.NODES", 6)
    assert "head.conv.weight" in message("MODEL.HEAD_CHANNELS", 17)
    assert "mean (90.0, 100.5, 110.0)" in message("INPUT.MEAN", "[1.0,2.0,3.0]")
    assert "grey" in message(root=make_folders(tmp_path / "x", classes=("blue", "green", "grey")))
    message = message_of(commands.evaluate_only, tiny(folders, tmp_path / "run"))
    assert "MODEL.WEIGHTS" in message and "--resume" in message


def test_broken_folders_are_named(tmp_path):
    output = tmp_path / "run"

    def message(root):
        return message_of(commands.train, tiny(root, output))

    assert str(tmp_path / "none" / "train") in message(tmp_path / "none")
    bare = tmp_path / "bare"
    (bare / "train").mkdir(parents=True)
    assert "no class folder" in message(bare)
    odd = make_folders(tmp_path / "odd", train=4, val=1)
    (odd / "val" / "red").rename(odd / "val" / "rot")
    assert "red" in message(odd) and "rot" in message(odd)
    (odd / "val" / "rot").rename(odd / "val" / "red")
    (odd / "val" / "red" / "0.jpg").rename(odd / "val" / "red" / "0.txt")
    assert str(odd / "val" / "red") in message(odd)
    (odd / "val" / "red" / "0.txt").rename(odd / "val" / "red" / "0.jpg")
    message = message_of(commands.train, tiny(odd, output, "SOLVER.BATCH_SIZE", 16))
    assert "SOLVER.BATCH_SIZE 16" in message and "12 images" in message
    assert not output.exists()


def test_a_corrupt_image_is_named_in_one_line(tmp_path):
    root = make_folders(tmp_path / "images", train=4, val=1)
    corrupt = root / "train" / "green" / "2.jpg"
    corrupt.write_bytes(corrupt.read_bytes()[:300])
    assert str(corrupt) in message_of(commands.train, tiny(root, tmp_path / "run"))
    config = tiny_file(root, tmp_path / "workers")
    status, _, err = tool("--config-file", config, "DATA.NUM_WORKERS", 2)
    assert status == 1
    assert len(err.splitlines()) == 1 and err.startswith("error: ") and str(corrupt) in err


def test_divergence_stops_with_the_iteration(folders, tmp_path):
    output = tmp_path / "run"
    config = tiny_file(folders, output)
    status, _, err = tool("--config-file", config, "SOLVER.BASE_LR", "1e38", "LOG_PERIOD", 50)
    assert status == 1 and len(err.splitlines()) == 1
    assert "at iteration 3, in epoch 1" in err or "at iteration 4, in epoch 1" in err
    assert not list(output.glob("*.pth"))


def test_divergence_leaves_the_last_checkpoint(folders, unbroken, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    spoilt = torch.load(unbroken / "checkpoint_last.pth", weights_only=True)
    spoilt["progress"] |= {"epoch": 9, "iteration": 9 * EPOCH_LENGTH}
    spoilt["model"]["head.fc.bias"][0] = float("nan")
    torch.save(spoilt, output / "checkpoint_last.pth")
    before = (output / "checkpoint_last.pth").read_bytes()
    message = message_of(commands.train, tiny(folders, output), resuming=True)
    assert "nan at iteration 82, in epoch 10" in message and "checkpoint_last.pth" in message
    assert (output / "checkpoint_last.pth").read_bytes() == before
    assert not (output / "model_final.pth").exists()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["SOLVER.WARMUP_EPOCHS", 10], "SOLVER.EPOCHS 10"),
        (["SOLVER.BATCH_SIZE", 1], ">= 2"),
        (["MODEL.DROPOUT", 1.5], "MODEL.DROPOUT 1.5"),
        (["INPUT.TEST_RESIZE", 31], "INPUT.TEST_RESIZE 31"),
        (["INPUT.STD", "[1.0, 0.0, 1.0]"], "INPUT.STD"),
        (["MODEL.K", 3], "conv3: WS(K=3)"),
        (["MODEL.WEIGHTS", "x.pth"], "--eval-only"),
        (["DEVICE", "gpu"], "DEVICE 'gpu'"),
    ],
)
def test_bad_values_are_usage_errors(folders, tmp_path, overrides, named):
    with pytest.raises(UsageError) as caught:
        commands.train(tiny(folders, tmp_path / "run", *overrides))
    assert named in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_tool_tells_the_nearest_key_and_how_it_is_used(folders, tmp_path):
    config = tiny_file(folders, tmp_path / "run")
    status, out, err = tool("--config-file", config, "SOLVER.BATCHSIZE", 8)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert "did you mean SOLVER.BATCH_SIZE?" in err
    status, out, _ = tool("--help")
    assert status == 0 and "pretrain/randwire_ws_c109.yaml" in out
