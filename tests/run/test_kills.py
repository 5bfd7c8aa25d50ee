"""Every rank killed at every moment, on both sides, by both launchers: all ends, one is named.

    python -m pytest -m slow -s tests/run/test_kills.py

takes a quarter of an hour and prints a row for each kill: seconds until everything had stopped,
and how many processes were left then. The suite itself runs the launcher's part of it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPO
from detection_helpers import CONFIG, RUN, as_overrides
from pretrain_helpers import make_folders, tiny_file

from randwire_det.run import launch

LIMIT = 20  # seconds


# --- the launcher, in the suite


@pytest.mark.parametrize("dead", [0, 1, 2])
@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ("os._exit(3)", "ended with status 3"),
    ],
)
def test_one_that_ended_ends_those_that_wait_for_it(monkeypatch, capfd, dead, end, reason):
    """Whichever it is: none of them can do anything about it."""
    monkeypatch.setattr(launch, "GRACE", 0.1)

    def child(code):
        return subprocess.Popen([sys.executable, "-S", "-c", f"import os, time; {code}"])

    children = {rank: child(end if rank == dead else "time.sleep(60)") for rank in range(3)}
    status = launch._wait(children)
    codes = [children[rank].returncode for rank in range(3) if rank != dead]
    assert codes == [-signal.SIGKILL] * 2
    assert status == (137 if "KILL" in reason else 3)
    assert capfd.readouterr().err == f"process {dead} {reason}, and so the run ended\n"


def test_one_that_stopped_leaves_the_others_their_time(monkeypatch, capfd):
    """Status 75 is no failure: the first process draws curves while the others have left."""
    monkeypatch.setattr(launch, "GRACE", 0.1)
    codes = ["time.sleep(1); os._exit(75)", "os._exit(75)"]
    children = {
        rank: subprocess.Popen([sys.executable, "-S", "-c", f"import os, time; {code}"])
        for rank, code in enumerate(codes)
    }
    assert launch._wait(children) == 75
    assert capfd.readouterr().err == ""


# --- all of it, by hand


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory):
    """Its options; the test set is large enough for its evaluation to be hit."""
    root = make_folders(tmp_path_factory.mktemp("colours"), val=300)
    config = tiny_file(root, root / "run")

    def options(output):
        return [
            *[REPO / "tools" / "pretrain_imagenet.py", "--config-file", config],
            *["OUTPUT_DIR", output, "SOLVER.EPOCHS", 500, "DATA.NUM_WORKERS", 1],
        ]

    return options


@pytest.fixture(scope="module")
def detection(shapes, tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    content = json.loads((shapes / "shapes.json").read_text())
    images, annotations = [], []
    for image_id in range(1, 201):
        old = content["images"][image_id % 4]
        images.append(old | {"id": image_id})
        for each in content["annotations"]:
            if each["image_id"] == old["id"]:
                annotations.append(each | {"id": len(annotations) + 1, "image_id": image_id})
    content |= {"images": images, "annotations": annotations}
    (root / "many.json").write_text(json.dumps(content))
    rows = [
        ["shapes", str(shapes / "shapes.json"), str(shapes / "images")],
        ["many", str(root / "many.json"), str(shapes / "images")],
    ]

    def options(output):
        changes = {"DATASETS.COCO": rows, "DATASETS.TEST": "('many',)", "OUTPUT_DIR": output}
        changes |= {"DATALOADER.NUM_WORKERS": 1, "SOLVER.MAX_ITER": 500}
        return [
            *[REPO / "tools" / "train_net.py", "--config-file", CONFIG],
            *as_overrides(RUN | {"MODEL.DEVICE": "cpu"} | changes),
        ]

    return options


def text_of(path):
    return path.read_text(errors="replace") if path.exists() else ""


MOMENTS = {  # of a side: what it takes to get there, and whether it is there
    "pretraining": {
        "start": ([], lambda output: True),
        "step": ([], lambda output: '"loss"' in text_of(output / "metrics.jsonl")),
        "evaluation": ([], lambda output: "iteration 9/" in text_of(output / "log.txt")),
        "save": (["CHECKPOINT_PERIOD", 1 / 9], lambda output: [*output.glob(".checkpoint*.tmp")]),
    },
    "detection": {
        "start": ([], lambda output: True),
        "step": ([], lambda output: '"total_loss"' in text_of(output / "metrics.json")),
        "evaluation": (
            ["TEST.EVAL_PERIOD", 2],
            lambda output: "Start inference on" in text_of(output / "log.txt"),
        ),
        "save": (["SOLVER.CHECKPOINT_PERIOD", 1], lambda output: [*output.glob(".model*.tmp")]),
    },
}


def processes_with(variable):
    """The processes with an environment variable, "NAME=value", and their whole environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            names = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if variable in names:
            found[int(folder.name)] = names
    return found


def rank_among(variable, rank, launcher):
    """The process of a rank, and none of its workers."""
    for pid, names in processes_with(variable).items():
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if f"RANK={rank}" in names and parent == launcher:
            return pid
    return None


def wait(process, condition):
    deadline = time.monotonic() + 200
    while not (result := condition()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("moment", ["start", "step", "evaluation", "save"])
@pytest.mark.parametrize("launcher", ["--num-gpus", "torchrun"])
@pytest.mark.parametrize("side", ["pretraining", "detection"])
def test_a_kill_ends_everything(request, tmp_path, side, launcher, moment, rank):
    output = tmp_path / "run"
    extra, reached = MOMENTS[side][moment]
    tool, *options = [*map(str, request.getfixturevalue(side)(output)), *map(str, extra)]
    command = {
        "--num-gpus": [tool, "--num-gpus", "2", *options],
        "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node", "2", tool, *options],
    }[launcher]
    variable = f"KILLED_RUN={tmp_path}"
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=out,
            stderr=err,
            env=os.environ | {"OMP_NUM_THREADS": "1", "KILLED_RUN": str(tmp_path)},
        )
    try:
        pid = wait(process, lambda: rank_among(variable, rank, process.pid))
        wait(process, lambda: reached(output))
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        while processes_with(variable) and time.monotonic() < killed + LIMIT + 10:
            process.poll()
            time.sleep(0.05)
        seconds, left = time.monotonic() - killed, list(processes_with(variable))
    finally:
        for each in processes_with(variable):
            os.kill(each, signal.SIGKILL)
        process.wait()
    print(f"\n{side} {launcher} {moment} rank {rank}: {seconds:.1f} s, {len(left)} left")
    text = text_of(tmp_path / "err")
    assert not left and seconds < LIMIT, text
    if launcher == "--num-gpus":
        lines = [line for line in text.splitlines() if line.startswith("process ")]
        assert lines == [f"process {rank} was killed by SIGKILL, and so the run ended"], text
        assert "Traceback" not in text
        assert process.returncode == 137
    else:
        cause = text.rpartition("Root Cause")[2]
        assert f": {rank} (local_rank: {rank})" in cause and "Signal 9 (SIGKILL)" in cause, text
