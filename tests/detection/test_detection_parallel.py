"""Detection in two processes on gloo, from the command line, by both launchers; and stopping it."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
from conftest import REPO, run_python
from detection_helpers import as_overrides
from test_parallel import free_port
from test_train_net import CONFIG, RUN, refused, shapes  # noqa: F401

from randwire_det.errors import EXIT_STOPPED, UserError
from randwire_det.run.checkpoint import load_checkpoint
from randwire_det.run.folder import locked

TOOL = str(REPO / "tools" / "train_net.py")
LAUNCHERS = {
    "--num-gpus": [TOOL, "--num-gpus", "2"],
    "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node", "2", TOOL],
}


def in_two(launcher, root, *options, **changes):
    keys = as_overrides(RUN | {"SOLVER.IMS_PER_BATCH": 4} | changes)
    command = [*LAUNCHERS[launcher], "--config-file", CONFIG, *options, *keys]
    return run_python(*command, env={"DETECTRON2_DATASETS": str(root)}, timeout=300)


def ap(output):
    rows = [json.loads(line) for line in (output / "metrics.json").open()]
    return {key: value for key, value in rows[-1].items() if key.startswith("bbox/")}


@pytest.fixture(scope="module")
def two(shapes, tmp_path_factory):  # noqa: F811
    output = tmp_path_factory.mktemp("two") / "run"
    changes = {"OUTPUT_DIR": output, "SOLVER.MAX_ITER": 3}
    done = in_two("--num-gpus", shapes, **changes)
    assert done.returncode == 0, done.stderr
    return output


def test_both_launchers_train_the_same(shapes, two, tmp_path):  # noqa: F811
    changes = {"OUTPUT_DIR": tmp_path, "SOLVER.MAX_ITER": 3}
    done = in_two("torchrun", shapes, **changes)
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_checkpoint(each / "model_final.pth") for each in (tmp_path, two))
    for name, value in theirs.model.items():
        assert ours.model[name].equal(value), name


def test_machines_started_with_other_keys_are_told_apart(shapes, tmp_path):  # noqa: F811
    """Two machines on this one; their weights would drift apart without a word."""
    url = f"tcp://127.0.0.1:{free_port()}"
    processes = []
    for machine, rate in enumerate([0.001, 0.002]):
        keys = as_overrides(RUN | {"SOLVER.BASE_LR": rate, "OUTPUT_DIR": tmp_path})
        command = [TOOL, "--num-machines", "2", "--machine-rank", str(machine), "--dist-url", url]
        processes.append(
            subprocess.Popen(
                [sys.executable, *command, "--config-file", CONFIG, *keys],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"DETECTRON2_DATASETS": str(shapes), "OMP_NUM_THREADS": "1"},
            )
        )
    told = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    errors = "".join(err for _, err in told)
    assert errors.count("error: ") == 1
    assert "SOLVER.BASE_LR (0.001 and 0.002)" in errors
    assert f"waiting for the others at {url}" in told[0][0]


def test_two_processes_evaluate_as_one(shapes, two, tmp_path):  # noqa: F811
    """The same detections, each image once, so the same AP to the last digit."""
    found = {}
    for number, options in (("one", []), ("two", LAUNCHERS["--num-gpus"][1:])):
        keys = {"MODEL.WEIGHTS": two / "model_final.pth", "OUTPUT_DIR": tmp_path / number}
        command = [TOOL, *options, "--config-file", CONFIG, "--eval-only"]
        done = run_python(
            *[*command, *as_overrides(RUN | keys | {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0})],
            env={"DETECTRON2_DATASETS": str(shapes)},
        )
        assert done.returncode == 0, done.stderr
        path = tmp_path / number / "inference" / "coco_instances_results.json"
        rows = json.loads(path.read_text())
        found[number] = sorted(rows, key=lambda row: (row["image_id"], -row["score"], row["bbox"]))
    assert {row["image_id"] for row in found["one"]} == {1, 2, 3, 4}
    assert found["two"] == found["one"]


def test_a_full_disk_ends_both_processes_with_one_line(shapes, tmp_path):  # noqa: F811
    keys = RUN | {"SOLVER.IMS_PER_BATCH": 4, "OUTPUT_DIR": tmp_path, "SOLVER.MAX_ITER": 30}
    keys |= {"SOLVER.CHECKPOINT_PERIOD": 2}
    done = run_python(
        *[*LAUNCHERS["--num-gpus"], "--config-file", CONFIG, *as_overrides(keys)],
        env={"DETECTRON2_DATASETS": str(shapes)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
        timeout=100,
    )
    refused(done, 1, tmp_path / "model_0000001.pth", "could not be written")


def test_sigterm_writes_a_checkpoint_and_the_run_goes_on(shapes, tmp_path):  # noqa: F811
    keys = as_overrides(RUN | {"OUTPUT_DIR": tmp_path, "SOLVER.MAX_ITER": 500})
    process = subprocess.Popen(
        [sys.executable, TOOL, "--config-file", CONFIG, *keys],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"DETECTRON2_DATASETS": str(shapes), "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 100
    metrics = tmp_path / "metrics.json"
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
    with pytest.raises(UserError, match="another process is writing"), locked(tmp_path):
        pass
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    assert process.returncode == EXIT_STOPPED, err
    (newest,) = tmp_path.glob("model_*.pth")
    stopped = load_checkpoint(newest).rest["iteration"]
    assert f"Stopped by SIGTERM; {newest.name}" in out and newest.name in f"model_{stopped:07d}.pth"
    with metrics.open("a") as file:  # as a run leaves them that was killed after its checkpoint
        file.write(f'{{"iteration": {stopped + 19}, "lr": 7.0}}\n{{"iteration": {stopped + 39}, "l')
    half = tmp_path / "inference" / ".results.json.abc.tmp"
    half.parent.mkdir()
    half.write_text("{")
    done = run_python(
        *[TOOL, "--config-file", CONFIG, "--resume", *keys, "SOLVER.MAX_ITER", stopped + 3],
        env={"DETECTRON2_DATASETS": str(shapes)},
    )
    assert done.returncode == 0, done.stderr
    assert f"Starting training from iteration {stopped + 1}" in done.stdout
    rows = [json.loads(line) for line in metrics.open()]
    assert [row["iteration"] for row in rows] == sorted({row["iteration"] for row in rows})
    assert 7.0 not in [row.get("lr") for row in rows] and "bbox/AP" in rows[-1]
    assert not half.exists()
