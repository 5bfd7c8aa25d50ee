"""The training engine: what it learns, leaves on disk and shows, its options, what it refuses."""

import os
import pty

import numpy as np
import pytest
import torch
from PIL import Image
from pretrain_helpers import (
    EPOCH_LENGTH,
    PEAK,
    TOTAL,
    WARMUP,
    make_folders,
    message_of,
    metrics,
    start,
    tiny,
    tiny_file,
    tool,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretrain import commands, data, recipe
from pretrain.engine import Trainer
from randwire_det.config.network_keys import spec_from_config
from randwire_det.errors import UsageError
from randwire_det.network import RandWireClassifier
from randwire_det.run.checkpoint import load_checkpoint
from randwire_det.run.parallel import World
from randwire_det.run.stopping import Stopping

KINDS = ("classifier", "baseline")


# --- what a run does


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


def test_a_plain_problem_is_learnt(unbroken):
    losses = [line["loss"] for line in metrics(unbroken) if "loss" in line]
    assert losses[0] == pytest.approx(np.log(3), abs=0.2)  # chance
    # The least possible with smoothing 0.1 is 0.29; how near it comes, is up to rounding.
    assert np.mean(losses[-EPOCH_LENGTH:]) < 0.75
    progress = load_checkpoint(unbroken / "model_final.pth").progress
    assert progress["top1"] > 85 and progress["best_top1"] >= progress["top1"]


def test_final_file_says_all_that_using_it_takes(colours, unbroken):
    plain = torch.load(unbroken / "model_final.pth", weights_only=True)
    assert "optimizer" not in plain
    saved = load_checkpoint(unbroken / "model_final.pth")
    assert saved.kind == "classifier" and saved.classes == ["blue", "green", "red"]
    assert saved.progress["epoch"] == 10 and saved.progress["iteration"] == TOTAL
    assert saved.spec == spec_from_config(tiny(colours, unbroken).MODEL.RANDWIRE)

    model = RandWireClassifier(saved.spec, 3, head_channels=16).eval()
    model.load_state_dict(saved.model)
    preprocessing = saved.preprocessing
    assert (preprocessing.channel_order, preprocessing.input_size) == ("RGB", 32)
    assert preprocessing.mean == (90, 100.5, 110) and preprocessing.std == (60, 65, 70)
    right = count = 0
    for label, name in enumerate(saved.classes):
        for path in sorted((colours / "val" / name).iterdir()):
            # By hand: 40 x 48 pixels resized to 36 x 43, the middle 32 x 32, (value - mean) / std.
            image = Image.open(path).resize((43, 36), Image.Resampling.BILINEAR)
            pixels = np.asarray(image, np.float64)[2:34, 6:38]
            pixels = torch.from_numpy((pixels - preprocessing.mean) / preprocessing.std)
            right += int(model(pixels.permute(2, 0, 1)[None].float()).argmax()) == label
            count += 1
    assert 100 * right / count == pytest.approx(saved.progress["top1"])


def test_the_newest_checkpoints_and_the_best_weights_stay(unbroken):
    names = sorted(path.name for path in unbroken.glob("*.pth"))
    assert names == [
        f"checkpoint_{TOTAL - EPOCH_LENGTH:08d}.pth",
        f"checkpoint_{TOTAL:08d}.pth",
        "model_best.pth",
        "model_final.pth",
    ]
    best = load_checkpoint(unbroken / "model_best.pth").progress
    tests = [line for line in metrics(unbroken) if "top1" in line]
    top = max(line["top1"] for line in tests)
    first = next(line["epoch"] for line in tests if line["top1"] == top)
    assert (best["best_top1"], best["best_epoch"], best["epoch"]) == (top, first, first)


def test_the_card_tells_what_was_trained_and_how_well(unbroken):
    card = (unbroken / "model_card.md").read_text(encoding="utf-8")
    saved = load_checkpoint(unbroken / "model_final.pth")
    accuracies = f"{saved.progress['top1']:.2f} | {saved.progress['top5']:.2f}"
    for expected in (saved.spec.digest[:12], "3: blue, green, red", accuracies, "images a step"):
        assert expected in card
    assert not any(line.startswith("|") and "None" in line for line in card.splitlines())


def test_curves_and_tensorboard_tell_what_metrics_tell(unbroken):
    with Image.open(unbroken / "curves.png") as picture:
        assert min(picture.size) > 200
    events = EventAccumulator(str(unbroken))
    events.Reload()
    for name in ("loss", "lr", "top1"):
        lines = [(line["iteration"], line[name]) for line in metrics(unbroken) if name in line]
        scalars = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in scalars] == [step for step, _ in lines]
        np.testing.assert_allclose([v for _, v in scalars], [v for _, v in lines], rtol=1e-6)


@pytest.mark.slow_suite
def test_a_terminal_of_unknown_size_gets_one_updating_line(colours, tmp_path):
    master, slave = pty.openpty()
    config = tiny_file(colours, tmp_path / "run")
    process = start("--config-file", config, "SOLVER.EPOCHS", 3, stdout=slave)
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


def test_eval_only_repeats_the_final_accuracy_and_notes_it(colours, unbroken, tmp_path, capsys):
    progress = load_checkpoint(unbroken / "model_final.pth").progress
    output = tmp_path / "evaluation"
    cfg = tiny(colours, output, "MODEL.WEIGHTS", unbroken / "model_final.pth")
    result = commands.evaluate_only(cfg)
    assert [result[key] for key in ("top1", "top5")] == [progress["top1"], progress["top5"]]
    assert result["images"] == 24
    assert f"top-1 {progress['top1']:.2f} %, top-5 100.00 %" in capsys.readouterr().out
    (noted,) = metrics(output, "evaluations.jsonl")
    assert noted == result | {
        "weights": str(unbroken / "model_final.pth"),
        "size": 32,
        "resize": 36,
    }
    larger = tiny(colours, output, *["INPUT.TEST_SIZE", 40], "INPUT.TEST_RESIZE", 40)
    larger.MODEL.WEIGHTS = str(unbroken / "model_final.pth")
    commands.evaluate_only(larger)
    assert [line["size"] for line in metrics(output, "evaluations.jsonl")] == [32, 40]


def test_a_finished_run_is_left_as_it_is(colours, unbroken, capsys):
    before = {path: path.read_bytes() for path in unbroken.iterdir() if path.is_file()}
    assert commands.train(tiny(colours, unbroken), resuming=True) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in unbroken.iterdir() if path.is_file()} == before


# --- options


def train(colours, output, *overrides):
    cfg = tiny(colours, output, "SOLVER.EPOCHS", 3, "SOLVER.WARMUP_EPOCHS", 1, *overrides)
    assert commands.train(cfg) == 0
    last = load_checkpoint(output / "checkpoint_00000027.pth", kinds=KINDS)
    return last, load_checkpoint(output / "model_final.pth", kinds=KINDS)


def trainer_of(cfg):
    return Trainer(cfg, recipe.network_of(cfg), *data.open_data(cfg), "cpu", World(), Stopping())


def test_the_average_is_tested_and_put_out(colours, tmp_path):
    last, final = train(colours, tmp_path / "run", "SOLVER.EMA_DECAY", 0.9)
    for name, value in final.model.items():
        assert torch.equal(value, last.ema[name]), name
    assert not torch.equal(final.model["head.fc.weight"], last.model["head.fc.weight"])
    weights = ["MODEL.WEIGHTS", tmp_path / "run" / "model_final.pth"]
    again = commands.evaluate_only(tiny(colours, tmp_path / "again", *weights))
    assert again["top1"] == final.progress["top1"]


@pytest.mark.parametrize(
    ("amp", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("none", torch.float32)]
)
def test_amp_computes_in_its_type_and_keeps_the_weights_in_fp32(colours, tmp_path, amp, dtype):
    trainer = trainer_of(tiny(colours, tmp_path / "run", "SOLVER.AMP", amp))
    seen = set()
    for module in trainer.learner.model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    trainer.learner.model.train()
    for batch in trainer.train_loader(trainer.shares(0)[:3]):
        trainer.step([batch])
    trainer.collect()
    assert seen == {dtype}
    assert all(np.isfinite(trainer.progress.losses))
    assert {parameter.dtype for parameter in trainer.learner.model.parameters()} == {torch.float32}
    assert bool(trainer.learner.scaler.state_dict()) == (amp == "fp16")


def test_maps_are_channels_last_all_the_way(colours, tmp_path):
    trainer = trainer_of(tiny(colours, tmp_path / "run"))
    contiguous = []

    def look(module, args, output):
        contiguous.append(output.is_contiguous(memory_format=torch.channels_last))

    for module in trainer.learner.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(look)
    (batch,) = trainer.train_loader(trainer.shares(0)[:1])
    trainer.learner.loss(batch)
    assert contiguous and all(contiguous)


def test_accumulation_gives_the_gradient_of_the_whole_batch(colours, tmp_path):
    """With BN in eval mode: in training its statistics are those of a part."""

    def gradients(parts):
        cfg = tiny(colours, tmp_path / f"run{parts}", "SOLVER.ACCUMULATE", parts)
        trainer = trainer_of(cfg)
        trainer.learner.model.eval()
        trainer.step(list(trainer.train_loader(trainer.shares(0)[:parts])))
        return {name: each.grad for name, each in trainer.learner.model.named_parameters()}

    whole, halves = gradients(1), gradients(2)
    for name, gradient in whole.items():
        torch.testing.assert_close(halves[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.slow_suite
def test_compiled_and_eager_training_agree(colours, tmp_path):
    # The least network, since compiling takes seconds a node; dropout draws other lots there.
    least = ["MODEL.RANDWIRE.GENERATOR", "er", "MODEL.RANDWIRE.NODES", 2]
    least += ["MODEL.RANDWIRE.P", 1.0, "MODEL.DROPOUT", 0.0]

    def one(*overrides):
        trainer = trainer_of(tiny(colours, tmp_path / "run", *least, *overrides))
        trainer.learner.model.train()
        trainer.step(list(trainer.train_loader(trainer.shares(0)[:1])))
        trainer.collect()
        return trainer

    eager, compiled = one(), one("COMPILE", True)
    assert compiled.progress.losses == pytest.approx(eager.progress.losses, rel=1e-4)
    assert list(compiled.learner.model.state_dict()) == list(eager.learner.model.state_dict())
    gradients = {name: each.grad for name, each in compiled.learner.model.named_parameters()}
    for name, parameter in eager.learner.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-4)


def test_unreadable_images_are_counted_in_the_log(tmp_path, capsys):
    root = make_folders(tmp_path / "images", train=4, val=2)
    corrupt = root / "train" / "green" / "2.jpg"
    corrupt.write_bytes(corrupt.read_bytes()[:300])
    empty = root / "val" / "red" / "1.jpg"
    empty.write_bytes(b"")
    skip = ["DATA.ON_BAD_IMAGE", "skip", "SOLVER.BATCH_SIZE", 12]
    cfg = tiny(root, tmp_path / "run", *skip, "SOLVER.EPOCHS", 3)
    assert commands.train(cfg) == 0
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count(f"skipped  {corrupt}") == 3
    assert "unreadable images left out: 1" in log and f"left out {empty}" in log
    progress = load_checkpoint(tmp_path / "run" / "model_final.pth").progress
    assert progress["bad_images"] == 3
    assert progress["top1"] * 5 / 100 == pytest.approx(round(progress["top1"] * 5 / 100))


def test_a_test_without_a_readable_image_is_no_accuracy(tmp_path):
    root = make_folders(tmp_path / "images", train=4, val=1)
    for path in (root / "val").rglob("*.jpg"):
        path.write_bytes(b"")
    cfg = tiny(root, tmp_path / "run", "DATA.ON_BAD_IMAGE", "skip", "SOLVER.EPOCHS", 3)
    assert "all other test images" in message_of(commands.train, cfg)


def test_a_baseline_trains_by_the_same_engine(colours, tmp_path):
    overrides = ["MODEL.NAME", "resnet18", "MODEL.WIDTH", 0.125, "MODEL.DROPOUT", 0.0]
    _, final = train(colours, tmp_path / "run", *overrides)
    assert final.kind == "baseline" and final.spec is None
    assert final.architecture == {"name": "resnet18", "width": 0.125}
    weights = ["MODEL.WEIGHTS", tmp_path / "run" / "model_final.pth"]
    again = commands.evaluate_only(tiny(colours, tmp_path / "again", *overrides, *weights))
    assert again["top1"] == final.progress["top1"]
    randwire = tiny(colours, tmp_path / "again", *weights)
    assert "set MODEL.NAME resnet18" in message_of(commands.evaluate_only, randwire)


# --- refusals


def test_eval_only_refuses_what_does_not_fit(colours, unbroken, tmp_path):
    weights = ["MODEL.WEIGHTS", unbroken / "model_final.pth"]

    def message(*overrides, root=colours):
        cfg = tiny(root, tmp_path / "run", *weights, *overrides)
        return message_of(commands.evaluate_only, cfg)

    other = message("MODEL.RANDWIRE.SEED", 3, "MODEL.RANDWIRE.NODES", 6)
    assert "MODEL.RANDWIRE.NODES 5 MODEL.RANDWIRE.SEED 1" in other
    assert "head.conv.weight" in message("MODEL.HEAD_CHANNELS", 17)
    assert "mean (90.0, 100.5, 110.0)" in message("INPUT.MEAN", "[1.0,2.0,3.0]")
    assert "grey" in message(root=make_folders(tmp_path / "x", classes=("blue", "green", "grey")))
    message = message_of(commands.evaluate_only, tiny(colours, tmp_path / "run"))
    assert "MODEL.WEIGHTS" in message and "--resume" in message
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_finite_have_no_accuracy(colours, unbroken, tmp_path, capsys):
    """All NaN, they would be a third right: topk takes any three."""
    content = torch.load(unbroken / "model_final.pth", weights_only=True)
    path = tmp_path / "broken.pth"
    cfg = tiny(colours, tmp_path / "run", "MODEL.WEIGHTS", path)
    for value in (float("nan"), 3e38):
        weights = {
            name: torch.full_like(tensor, value) if name.startswith("head.fc") else tensor
            for name, tensor in content["model"].items()
        }
        torch.save(content | {"model": weights}, path)
        if value == 3e38:  # finite weights, and outputs that are not
            assert commands.evaluate_only(cfg)["top1"] == 0
            assert "NaN or infinity as output for 24 of 24 images" in capsys.readouterr().out
        else:
            message = message_of(commands.evaluate_only, cfg)
            assert str(path) in message and "NaN or infinity in 2 of" in message
            assert not (tmp_path / "run").exists()


def test_too_few_images_for_a_batch(tmp_path):
    root = make_folders(tmp_path / "few", train=4, val=1)
    message = message_of(commands.train, tiny(root, tmp_path / "run", "SOLVER.BATCH_SIZE", 16))
    assert "SOLVER.BATCH_SIZE 16" in message and "12 images" in message
    assert not (tmp_path / "run").exists()


def test_divergence_stops_with_the_iteration(colours, tmp_path):
    output = tmp_path / "run"
    config = tiny_file(colours, output)
    status, _, err = tool("--config-file", config, "SOLVER.BASE_LR", "1e38", "LOG_PERIOD", 50)
    assert status == 1 and len(err.splitlines()) == 1
    assert "at iteration 3, in epoch 1" in err or "at iteration 4, in epoch 1" in err
    assert not list(output.glob("*.pth"))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["SOLVER.WARMUP_EPOCHS", 10], "SOLVER.EPOCHS 10"),
        (["SOLVER.BATCH_SIZE", 1], "2 or more"),
        (["SOLVER.ACCUMULATE", 3], "SOLVER.ACCUMULATE 3"),
        (["SOLVER.AMP", "bf8"], "none or bf16 or fp16"),
        (["SOLVER.BASE_LR", "1e400"], "SOLVER.BASE_LR inf"),
        (["SOLVER.WEIGHT_DECAY", "1e300"], "SOLVER.WEIGHT_DECAY 1e+300"),
        (["DATA.ON_BAD_IMAGE", "ignore"], "raise or skip"),
        (["MODEL.NAME", "resnet18"], "MODEL.DROPOUT 0.2"),
        (["MODEL.NAME", "resnet19", "MODEL.DROPOUT", 0.0], "did you mean resnet18"),
        (["MODEL.SYNC_BN", True], "needs CUDA"),
        (["MODEL.DROPOUT", 1.5], "MODEL.DROPOUT 1.5"),
        (["MODEL.EDGE_DROP", -0.1], "MODEL.EDGE_DROP -0.1"),
        (["INPUT.TEST_RESIZE", 31], "INPUT.TEST_RESIZE 31"),
        (["INPUT.STD", "[1.0, 0.0, 1.0]"], "INPUT.STD"),
        (["INPUT.MEAN", "[1.0, 1e999, 1.0]"], "INPUT.MEAN"),
        (["INPUT.SIZE", 10**9], "INPUT.SIZE"),
        (["DATA.NUM_WORKERS", 10**9], "DATA.NUM_WORKERS"),
        (["MODEL.HEAD_CHANNELS", 10**9], "MODEL.HEAD_CHANNELS"),
        (["MODEL.RANDWIRE.CHANNELS", 10**9], "CHANNELS 1000000000"),
        (["MODEL.RANDWIRE.NODES", 10**9], "at most 2048"),
        (["MODEL.NAME", "resnet152", "MODEL.DROPOUT", 0.0, "MODEL.WIDTH", 64.0], "MODEL.WIDTH 64"),
        (["MODEL.RANDWIRE.K", 3], "conv3: WS(K=3)"),
        (["MODEL.WEIGHTS", "x.pth"], "--eval-only"),
        (["DEVICE", "gpu"], "DEVICE 'gpu'"),
    ],
)
def test_bad_values_are_usage_errors(colours, tmp_path, overrides, named):
    with pytest.raises(UsageError) as caught:
        commands.train(tiny(colours, tmp_path / "run", *overrides))
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_empty_output_dir_is_not_the_current_folder(colours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = tiny(colours, tmp_path / "run")
    cfg.OUTPUT_DIR = ""
    with pytest.raises(UsageError, match="OUTPUT_DIR"):
        commands.train(cfg)
    assert not (tmp_path / "config.yaml").exists()


@pytest.mark.slow_suite
def test_tool_tells_the_nearest_key_and_how_it_is_used(colours, tmp_path):
    config = tiny_file(colours, tmp_path / "run")
    status, out, err = tool("--config-file", config, "SOLVER.BATCHSIZE", 8)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert "did you mean SOLVER.BATCH_SIZE?" in err
    message = message_of(tiny, colours, tmp_path / "run", "MODEL.K", 4)  # as it was called before
    assert message.endswith("MODEL.K; did you mean MODEL.RANDWIRE.K?")
    status, out, _ = tool("--help")
    assert status == 0 and "pretrain/randwire_ws_c109.yaml" in out
