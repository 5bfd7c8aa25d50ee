"""Never lose work: kills at any moment, signals, broken files, full disks, and what is refused."""

import os
import random
import resource
import signal

import pytest
import torch
from pretrain_helpers import (
    EPOCH_LENGTH,
    TOTAL,
    assert_same_run,
    make_folders,
    message_of,
    metric_lines,
    metrics,
    start,
    tiny,
    tiny_file,
    tool,
)
from process_helpers import assert_same, half_written, wait_until

from pretrain import commands, resume
from randwire_det.errors import EXIT_STOPPED, UsageError
from randwire_det.run.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow_suite

EVERYTHING = [  # that has a state or draws lots
    *["SOLVER.EMA_DECAY", 0.9, "SOLVER.AMP", "fp16", "SOLVER.MIXUP", 0.2, "SOLVER.CUTMIX", 1.0],
    *["MODEL.EDGE_DROP", 0.5, "INPUT.TRIVIAL_AUGMENT", True, "INPUT.RANDOM_ERASE", 0.5],
    *["SOLVER.EPOCHS", 6, "LOG_PERIOD", 2],
]


# --- kills


@pytest.fixture(scope="module")
def everything(colours, tmp_path_factory):
    """The OUTPUT_DIR of an unbroken run with all that has a state."""
    output = tmp_path_factory.mktemp("everything") / "run"
    status, _, err = tool("--config-file", tiny_file(colours, output), *EVERYTHING)
    assert status == 0, err
    return output


def test_a_run_killed_again_and_again_ends_as_the_one_that_was_not(colours, everything, tmp_path):
    """Half of the kills at a random moment, half while a checkpoint is being written."""
    rng, output = random.Random(1), tmp_path / "run"
    config = tiny_file(colours, output)
    reached = set()
    for number in range(6):  # each number of workers with both kinds
        # The number of workers is nothing that a result depends on.
        workers = ["DATA.NUM_WORKERS", number % 3, "CHECKPOINT_PERIOD", 1 / EPOCH_LENGTH]
        process = start("--config-file", config, "--resume", *EVERYTHING, *workers)
        if number % 2:
            # Until it has trained for a while of its own, at another point each time.
            lines = metric_lines(output) + rng.randrange(1, 5)
            wait_until(process, lambda lines=lines: metric_lines(output) >= lines)
        else:
            old = set(half_written(output))
            wait_until(process, lambda old=old: set(half_written(output, "checkpoint")) - old)
        process.send_signal(signal.SIGKILL)
        process.stdout.close(), process.stderr.close()  # which its workers keep open for seconds
        process.wait()
        assert process.returncode == -signal.SIGKILL
        newest = resume.checkpoints(output)[:1]
        reached |= {load_checkpoint(path).progress["iteration"] for path in newest}
    assert any(iteration % EPOCH_LENGTH for iteration in reached)  # in mid-epoch
    status, out, err = tool("--config-file", config, "--resume", *EVERYTHING)
    assert status == 0, err
    assert f"after iteration {max(reached)}" in out
    assert not half_written(output)
    _only_the_periods_of(output, everything)
    assert_same_run(output, everything)


def _only_the_periods_of(output, reference):
    """With another CHECKPOINT_PERIOD other checkpoints are left, besides the last."""
    kept = {path.name for path in reference.glob("*.pth")}
    for path in [*output.glob("*.pth"), *reference.glob("*.pth")]:
        if path.name.startswith("checkpoint_") and path != resume.checkpoints(path.parent)[0]:
            path.unlink()
    assert kept


def test_killed_before_the_first_checkpoint_it_starts_anew(colours, tmp_path):
    output = tmp_path / "run"
    config = tiny_file(colours, output)
    process = start("--config-file", config, "CHECKPOINT_PERIOD", 5)
    wait_until(process, lambda: metric_lines(output) >= 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    status, out, _ = tool("--config-file", config, "--resume", "SOLVER.EPOCHS", 3)
    assert status == 0 and "starting from scratch" in out
    assert [line["iteration"] for line in metrics(output) if "loss" in line] == [*range(1, 28)]


# --- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_the_run_goes_on_later(colours, unbroken, tmp_path, number):
    """To the whole group, as a terminal and a scheduler send it: the workers get it, too."""
    output = tmp_path / "run"
    config = tiny_file(colours, output)
    process = start("--config-file", config, "DATA.NUM_WORKERS", 2, start_new_session=True)
    wait_until(process, lambda: metric_lines(output) >= 12)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (EXIT_STOPPED, "")
    newest = resume.checkpoints(output)[0]
    assert f"stopped  by {signal.Signals(number).name}; {newest} is written" in out
    iteration = load_checkpoint(newest).progress["iteration"]
    assert iteration == max(line["iteration"] for line in metrics(output))
    assert not (output / "model_final.pth").exists()
    status, out, err = tool("--config-file", config, "--resume")
    assert status == 0, err
    assert f"resume   {newest}, after iteration {iteration} of {TOTAL}" in out
    assert_same_run(output, unbroken)


def test_a_signal_before_the_first_step(colours, tmp_path):
    output = tmp_path / "run"
    process = start("--config-file", tiny_file(colours, output))
    wait_until(process, lambda: (output / "config.yaml").exists())
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (EXIT_STOPPED, "")
    assert load_checkpoint(resume.checkpoints(output)[0]).progress["iteration"] <= 2


# --- broken files


@pytest.fixture
def copied(unbroken, tmp_path):
    """A copy of the unbroken run, before its last test."""
    output = tmp_path / "run"
    output.mkdir()
    for path in resume.checkpoints(unbroken):
        (output / path.name).write_bytes(path.read_bytes())
    (output / "metrics.jsonl").write_bytes((unbroken / "metrics.jsonl").read_bytes())
    return output


def flip_a_bit(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-2000], flip_a_bit, lambda data: b""], ids=["cut", "bit", "empty"]
)
def test_a_broken_newest_file_is_passed_over_and_named(colours, unbroken, copied, spoil, capsys):
    newest, older = resume.checkpoints(copied)
    newest.write_bytes(spoil(newest.read_bytes()))
    assert commands.train(tiny(colours, copied), resuming=True) == 0
    out = capsys.readouterr().out
    assert f"passed over: {newest}" in out
    assert f"resume   {older}, after iteration {TOTAL - EPOCH_LENGTH}" in out
    final = load_checkpoint(copied / "model_final.pth").model
    assert_same(final, load_checkpoint(unbroken / "model_final.pth").model)


def test_with_nothing_but_broken_files_nothing_starts(colours, copied):
    for path in resume.checkpoints(copied):
        path.write_bytes(b"nothing")
    before = {path: path.read_bytes() for path in copied.iterdir()}
    message = message_of(commands.train, tiny(colours, copied), resuming=True)
    assert "no checkpoint" in message and str(copied) in message
    assert {path: path.read_bytes() for path in copied.iterdir()} == before


def test_without_checkpoints_a_run_with_its_best_weights_starts_anew(colours, copied, capsys):
    for path in resume.checkpoints(copied):
        path.rename(copied / "model_best.pth")
    cfg = tiny(colours, copied, "SOLVER.EPOCHS", 3)
    assert "--resume" in message_of(commands.train, cfg)
    assert commands.train(cfg, resuming=True) == 0
    assert "starting from scratch" in capsys.readouterr().out


def test_a_full_disk_is_one_line_and_the_older_file_stays(colours, copied):
    newest, older = resume.checkpoints(copied)
    size = older.stat().st_size
    newest.unlink()
    before = older.read_bytes()

    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    process = start("--config-file", tiny_file(colours, copied), "--resume", preexec_fn=small_disk)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert len(err.splitlines()) == 1 and "could not be written" in err
    assert [path.name for path in resume.checkpoints(copied)] == [older.name]
    assert older.read_bytes() == before and not half_written(copied)


def test_divergence_leaves_the_last_checkpoint(colours, copied):
    newest, older = resume.checkpoints(copied)
    newest.unlink()
    spoilt = torch.load(older, weights_only=True)
    spoilt["model"]["head.fc.weight"].fill_(3e38)  # finite, and no logit of it is
    torch.save(spoilt, older)
    before = older.read_bytes()
    message = message_of(commands.train, tiny(colours, copied), resuming=True)
    assert "nan at iteration 82, in epoch 10" in message and older.name in message
    assert older.read_bytes() == before and resume.checkpoints(copied) == [older]
    assert not (copied / "model_final.pth").exists()


# --- refusals


def test_used_output_dir_is_refused_and_left_alone(colours, unbroken):
    before = {path: path.stat().st_mtime_ns for path in unbroken.iterdir()}
    message = message_of(commands.train, tiny(colours, unbroken))
    assert "--resume" in message and "OUTPUT_DIR" in message
    assert {path: path.stat().st_mtime_ns for path in unbroken.iterdir()} == before


def test_a_second_process_in_the_same_folder_is_refused(colours, tmp_path):
    output = tmp_path / "run"
    config = tiny_file(colours, output)
    process = start("--config-file", config, "SOLVER.EPOCHS", 500)
    wait_until(process, lambda: metric_lines(output) >= 1)
    message = message_of(commands.train, tiny(colours, output), resuming=True)
    assert "another process is writing into it" in message
    process.kill()
    process.communicate()


def test_finished_weights_are_not_trained_over(colours, unbroken, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    (output / "model_final.pth").write_bytes((unbroken / "model_final.pth").read_bytes())
    with pytest.raises(UsageError, match=r"model_final.pth.*OUTPUT_DIR"):
        commands.train(tiny(colours, output), resuming=True)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["MODEL.RANDWIRE.K", 4], ["WS(K=2", "WS(K=4", "MODEL.RANDWIRE.K 2"]),
        (["MODEL.NAME", "resnet18", "MODEL.DROPOUT", 0.0], ["set MODEL.NAME randwire"]),
        (["SOLVER.BASE_LR", 0.2], ["SOLVER.BASE_LR 1.6", "0.2"]),
        (["SOLVER.EPOCHS", 11], ["SOLVER.EPOCHS 10", "11"]),
        (["SOLVER.EMA_DECAY", 0.5], ["SOLVER.EMA_DECAY 0.0", "0.5"]),
        (["INPUT.STD", "[1.0,1.0,1.0]"], ["INPUT.STD", "[60.0, 65, 70]"]),
        (["MODEL.HEAD_CHANNELS", 17], ["MODEL.HEAD_CHANNELS 16", "17"]),
    ],
)
def test_resume_refuses_another_recipe(colours, unbroken, overrides, named):
    message = message_of(commands.train, tiny(colours, unbroken, *overrides), resuming=True)
    for part in [*named, f"checkpoint_{TOTAL:08d}.pth"]:
        assert part in message


def test_resume_refuses_other_data(unbroken, tmp_path):
    more = make_folders(tmp_path / "more", classes=("blue", "green", "grey"))
    message = message_of(commands.train, tiny(more, unbroken), resuming=True)
    assert "1 only in" in message and "red" in message and "grey" in message
    fewer = make_folders(tmp_path / "fewer", train=20)
    message = message_of(commands.train, tiny(fewer, unbroken), resuming=True)
    assert "72 images" in message and "60" in message
    swapped = make_folders(tmp_path / "swapped")  # as many images, one of them in another class
    (swapped / "train" / "red" / "3.jpg").rename(swapped / "train" / "blue" / "30.jpg")
    message = message_of(commands.train, tiny(swapped, unbroken), resuming=True)
    assert "other file names or classes" in message


def test_the_same_data_at_another_place_is_no_other_data(colours, copied, tmp_path):
    for path in resume.checkpoints(copied)[:1]:
        path.unlink()
    (tmp_path / "moved").symlink_to(colours)
    assert commands.train(tiny(tmp_path / "moved", copied), resuming=True) == 0
