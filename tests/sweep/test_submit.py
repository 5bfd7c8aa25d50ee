"""--slurm of both trainings: the command as a job, which goes on where it was preempted."""

import os
import signal
from pathlib import Path

import pytest
from conftest import REPO, assert_refused, run_tool, start_python
from detection_helpers import CONFIG, RUN, as_overrides
from pretrain_helpers import tiny_file
from process_helpers import wait_until

from randwire_det.run.checkpoint import load_checkpoint
from randwire_det.sweep.jobs import LOG

pytestmark = pytest.mark.slow_suite


def test_a_detector_is_trained_as_a_job(shapes, tmp_path):
    changes = RUN | {"SOLVER.MAX_ITER": 2, "TEST.REPORT": False, "OUTPUT_DIR": tmp_path / "run"}
    words = ["--config-file", CONFIG, "--slurm", "local", *as_overrides(changes)]
    env = {"DETECTRON2_DATASETS": str(shapes)}
    done = run_tool("train_net.py", *words, env=env)
    assert done.returncode == 0, done.stderr
    assert "submitted job" in done.stdout
    assert load_checkpoint(tmp_path / "run/model_final.pth").rest["iteration"] == 1
    assert "Starting training" in (tmp_path / "run" / LOG).read_text()
    done = run_tool("train_net.py", *words, env=env)  # a used OUTPUT_DIR, without --resume
    assert_refused(done, "--resume")


def test_a_preempted_pretraining_goes_on(colours, tmp_path):
    """The command is asked to stop, as before the end of a job's time."""
    output = tmp_path / "run"
    config = tiny_file(colours, output)
    tool = REPO / "tools/pretrain_imagenet.py"
    process = start_python(tool, "--config-file", config, "--slurm", "local")
    metrics = output / "metrics.jsonl"
    wait_until(process, lambda: metrics.exists() and metrics.stat().st_size > 0)
    os.kill(_process_with("--resume", config), signal.SIGTERM)
    assert process.wait(timeout=200) == 0
    process.communicate()
    text = (output / LOG).read_text()
    assert text.count("stopped  by SIGTERM") == 1 and text.count("resume   ") >= 1
    assert load_checkpoint(output / "model_final.pth").progress["top1"] is not None


def _process_with(*words):
    """The id of the process whose command line has all of these words."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        if set(words) <= set(found):
            return int(path.parent.name)
    raise AssertionError(words)


@pytest.mark.parametrize("option", ["gpu", "=1", "timeout_min"])
def test_a_malformed_option_is_named(option, tmp_path):
    config = "pretrain/randwire_ws_c78.yaml"
    words = ["--config-file", config, "--slurm", option, "OUTPUT_DIR", tmp_path / "run"]
    assert_refused(run_tool("pretrain_imagenet.py", *words), f"--slurm {option}", "KEY=VALUE")
    assert not (tmp_path / "run").exists()


def test_where_there_is_no_slurm_it_says_so(tmp_path):
    config = "pretrain/randwire_ws_c78.yaml"
    words = ["--config-file", config, "--slurm", "timeout_min=5", "OUTPUT_DIR", tmp_path / "run"]
    assert_refused(run_tool("pretrain_imagenet.py", *words), "--slurm timeout_min=5")
