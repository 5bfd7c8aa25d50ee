"""Several processes on gloo: the same gradients and counts as one, by both launchers, one voice."""

import os
import signal
import socket
import time

import pytest
import torch
import torch.multiprocessing
from conftest import REPO, run_python, run_tool, start_python
from pretrain_helpers import (
    assert_same_run,
    make_folders,
    metric_lines,
    metrics,
    start,
    tiny,
    tiny_file,
    tool,
)
from process_helpers import assert_same, child_of, free_port, wait_until

from pretrain import data, recipe, resume
from pretrain.engine import Trainer
from pretrain.evaluation import evaluate
from randwire_det.detection.checkpointer import RandWireCheckpointer
from randwire_det.errors import EXIT_STOPPED, UsageError
from randwire_det.run import parallel
from randwire_det.run.checkpoint import load_checkpoint
from randwire_det.run.launch import meeting_point
from randwire_det.run.stopping import Stopping

pytestmark = pytest.mark.slow_suite

TOOL = str(REPO / "tools" / "pretrain_imagenet.py")


def one_step(world, cfg):
    """Gradients of a step with BN in eval mode, whose statistics would be those of a share."""
    train_data, val_data = data.open_data(cfg)
    trainer = Trainer(cfg, recipe.network_of(cfg), train_data, val_data, "cpu", world, Stopping())
    trainer.learner.model.eval()
    parts = cfg.SOLVER.ACCUMULATE
    trainer.step(list(trainer.train_loader(trainer.shares(0)[:parts])))
    trainer.collect()
    gradients = {name: each.grad.clone() for name, each in trainer.learner.model.named_parameters()}
    result = evaluate(
        trainer.learner.model,
        trainer.learner.normalise,
        trainer.val_loader,
        batch_size=4,
        world=world,
    )
    return gradients, trainer.progress.losses, result


def in_process(rank, size, port, cfg, output):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with parallel.joined() as world:
        torch.save(one_step(world, cfg), output / f"{rank}.pth")


@pytest.mark.parametrize("parts", [1, 2])
def test_two_processes_have_the_gradients_and_counts_of_one(colours, tmp_path, parts):
    root = make_folders(tmp_path / "images", train=8, val=3)
    for path in [root / "val" / "red" / "0.jpg", root / "val" / "green" / "1.jpg"]:
        path.unlink()  # seven images: they do not divide
    cfg = tiny(root, tmp_path / "run", "MODEL.EDGE_DROP", 1.0)
    gradients, losses, result = one_step(parallel.World(), cfg)
    assert result["images"] == 7
    cfg.SOLVER.ACCUMULATE = parts
    arguments = (2, free_port(), cfg, tmp_path)
    torch.multiprocessing.start_processes(in_process, arguments, 2, start_method="spawn")
    for rank in range(2):
        theirs = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        for name, gradient in gradients.items():
            torch.testing.assert_close(theirs[0][name], gradient, rtol=1e-4, atol=1e-6)
        assert theirs[1] == pytest.approx(losses, rel=1e-5)
        assert theirs[2] == result


def launch(launcher, *args):
    if launcher == "--num-gpus":
        return run_tool("pretrain_imagenet.py", *args, "--num-gpus", 2, timeout=200)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", 2]
    return run_python(*torchrun, TOOL, *args, timeout=200)


@pytest.fixture(scope="module")
def two(colours, tmp_path_factory):
    """The OUTPUT_DIR of an unbroken run in two processes."""
    output = tmp_path_factory.mktemp("two") / "run"
    done = launch("torchrun", "--config-file", tiny_file(colours, output), *SHORT)
    assert done.returncode == 0, done.stderr
    return output


SHORT = ["SOLVER.EPOCHS", 3, "SOLVER.WARMUP_EPOCHS", 1, "MODEL.EDGE_DROP", 0.5]


def test_both_launchers_train_the_same(colours, two, tmp_path):
    output = tmp_path / "run"
    done = launch("--num-gpus", "--config-file", tiny_file(colours, output), *SHORT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("epoch 3/3, top-1") == 1  # one process speaks
    assert_same_run(output, two)


def test_evaluation_in_two_processes_repeats_the_one_in_the_training(colours, two, tmp_path):
    weights = ["MODEL.WEIGHTS", two / "model_final.pth"]
    config = tiny_file(colours, tmp_path / "run")
    done = launch("--num-gpus", "--config-file", config, "--eval-only", *weights)
    assert done.returncode == 0, done.stderr
    (noted,) = metrics(tmp_path / "run", "evaluations.jsonl")
    assert noted["top1"] == load_checkpoint(two / "model_final.pth").progress["top1"]
    assert noted["images"] == 24


def test_the_checkpoint_loads_in_the_detector_with_no_step_between(two):
    from detection_helpers import tiny_config
    from detectron2.modeling import build_model

    from randwire_det.detection.preprocessing import preprocessing_from_config

    spec = load_checkpoint(two / "model_final.pth")
    cfg = tiny_config()
    cfg.MODEL.RANDWIRE.SPEC = str(two / "model_final.pth")
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = map(
        list, (spec.preprocessing.mean, spec.preprocessing.std)
    )
    model = build_model(cfg)
    checkpointer = RandWireCheckpointer(model, preprocessing=preprocessing_from_config(cfg))
    checkpointer.load(str(two / "model_final.pth"), checkpointables=[])
    trunk = checkpointer.trunk.state_dict()
    ours = {name[6:]: each for name, each in spec.model.items() if name.startswith("trunk.")}
    for name, value in trunk.items():
        assert torch.equal(value, ours[name]), name


def test_torchrun_restarts_a_killed_run_and_it_goes_on_by_itself(colours, two, tmp_path):
    output = tmp_path / "run"
    process = start_python(
        *["-m", "torch.distributed.run", "--nproc-per-node", 2, "--max-restarts", 1, TOOL],
        *["--config-file", tiny_file(colours, output), *SHORT],
    )
    wait_until(process, lambda: len(resume.checkpoints(output)) >= 1 and metric_lines(output) >= 12)
    os.kill(child_of(process.pid), signal.SIGKILL)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert out.count("resume   ") == 1
    assert_same_run(output, two)


def test_sigterm_to_the_launcher_stops_all_processes_at_one_step(colours, two, tmp_path):
    output = tmp_path / "run"
    config = tiny_file(colours, output)
    process = start("--config-file", config, "--num-gpus", 2, *SHORT)
    wait_until(process, lambda: metric_lines(output) >= 5)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (EXIT_STOPPED, "")
    assert out.count("stopped  by ") == 1
    done = launch("--num-gpus", "--config-file", config, "--resume", *SHORT)
    assert done.returncode == 0, done.stderr
    assert_same_run(output, two)


def test_the_reason_is_that_of_whichever_process_was_asked_to_stop(colours, tmp_path):
    config = tiny_file(colours, tmp_path / "run")
    process = start("--config-file", config, "--num-gpus", 2, "SOLVER.EPOCHS", 500)
    wait_until(process, lambda: metric_lines(tmp_path / "run") >= 1)
    os.kill(child_of(process.pid), signal.SIGTERM)  # not the first, which is the one that speaks
    out, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (EXIT_STOPPED, "")
    assert "stopped  by SIGTERM" in out


def test_processes_whose_launcher_was_killed_stop_too(colours, tmp_path):
    output = tmp_path / "run"
    config = tiny_file(colours, output)
    process = start("--config-file", config, "--num-gpus", 2, "SOLVER.EPOCHS", 500)
    wait_until(process, lambda: metric_lines(output) >= 1)
    process.kill()
    out, _ = process.communicate(timeout=100)  # ends when the last of them has closed its stdout
    assert "stopped  by the end of its launcher" in out
    assert resume.checkpoints(output)


def test_a_mistake_is_reported_once(colours, tmp_path):
    """By whichever process meets it: each reads other images."""
    root = make_folders(tmp_path / "images", train=8, val=1)
    corrupt = root / "train" / "red" / "3.jpg"
    corrupt.write_bytes(b"")
    config = tiny_file(root, tmp_path / "run")
    for args, status, word in [
        (["SOLVER.BATCH_SIZE", 9], 2, "SOLVER.BATCH_SIZE 9"),
        (["DATA.ROOT", tmp_path / "none"], 1, "no such folder"),
        (["SOLVER.EPOCHS", 3], 1, str(corrupt)),
    ]:
        done = launch("--num-gpus", "--config-file", config, *args)
        assert done.returncode == status
        assert len(done.stderr.splitlines()) == 1 and word in done.stderr
    errors = launch("torchrun", "--config-file", config, "SOLVER.BATCHSIZE", 8).stderr
    assert errors.count("error: ") == 1 and "did you mean SOLVER.BATCH_SIZE" in errors


def test_a_run_goes_on_with_another_number_of_processes(colours, two, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    older = resume.checkpoints(two)[1]
    (output / older.name).write_bytes(older.read_bytes())
    status, out, err = tool("--config-file", tiny_file(colours, output), "--resume", *SHORT)
    assert status == 0, err
    assert "that was with 2 processes" in out
    assert load_checkpoint(output / "model_final.pth").progress["iteration"] == 27


def test_a_killed_process_is_reported_by_the_launcher(colours, tmp_path):
    output = tmp_path / "run"
    config = tiny_file(colours, output)
    process = start("--config-file", config, "--num-gpus", 2, "SOLVER.EPOCHS", 500)
    wait_until(process, lambda: metric_lines(output) >= 1)
    os.kill(child_of(process.pid), signal.SIGKILL)
    _, err = process.communicate(timeout=100)
    assert process.returncode != 0
    assert "process 1 was killed by SIGKILL" in err
    assert "Traceback" not in err and len(err.splitlines()) == 2  # the other: a lost connection


def test_what_was_refused_is_refused_when_torchrun_starts_it_again(monkeypatch):
    """A start again resumes: in a used OUTPUT_DIR, it would train over the earlier run."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    variables = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}
    variables |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RUN_ID": "none"}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UsageError), parallel.joined():
        raise UsageError("used already")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    entered = False
    with pytest.raises(UsageError, match="used already"), parallel.joined():
        entered = True
    assert not entered


def launcher_waits(port):
    meeting_point(f"tcp://127.0.0.1:{port}", host_it=False)


def process_waits(port):
    os.environ |= {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with parallel.joined():
        pass


@pytest.mark.parametrize("wait", [launcher_waits, process_waits])
def test_ctrl_c_ends_a_wait_for_another_machine(wait):
    """Which accepts the connection, and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as first_machine:
        first_machine.settimeout(60)
        if (pid := os.fork()) == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            wait(first_machine.getsockname()[1])
            os._exit(0)
        connection, _ = first_machine.accept()
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + 60
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
        connection.close()
    assert os.WTERMSIG(ended[1]) == signal.SIGINT


def test_together_gives_the_result_of_a_process_alone():
    world = parallel.World()
    assert world.together(lambda: 3) == 3
    assert world.gather([1, 2]) == [1, 2]
    assert world.any(True) and not world.any(False)
    assert_same(world.sum(torch.tensor([1, 2])), torch.tensor([1, 2]))
