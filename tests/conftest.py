"""What the tests share: a fixed seed, tiny specs, and commands run as their user runs them."""

import functools
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from specs import THETA, tiny_spec

__all__ = ["THETA", "tiny_spec"]

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state, whichever others ran before it."""
    random.seed(0)
    if torch := sys.modules.get("torch"):  # the torch-free tests stay torch-free
        torch.manual_seed(0)
        torch.set_num_threads(1)  # on tiny maps threads only wait for each other


def as_process(args, env=None) -> dict:
    """What `subprocess` needs for a Python that finds this checkout and talks text."""
    ours = {"PYTHONPATH": str(REPO), "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, args)]
    return {"args": command, "env": os.environ | ours | (env or {}), "encoding": "utf-8"}


def run_python(*args, env=None, **kwargs) -> subprocess.CompletedProcess:
    """A fresh Python process that finds this checkout, to its end; its output as text."""
    return subprocess.run(**as_process(args, env), capture_output=True, **kwargs)


def start_python(*args, env=None, **kwargs) -> subprocess.Popen:
    """The same as a process that runs on."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(**as_process(args, env), **pipes | kwargs)


@functools.cache
def warm_python() -> subprocess.Popen:
    """tests/warm.py, which ends with this process: its stdin is closed then."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(**as_process([REPO / "tests" / "warm.py"]), **pipes)


def run_tool(name: str, *args, env=None, cwd=None, timeout=300) -> subprocess.CompletedProcess:
    """A command of tools/ in a process of its own: `run_tool("analyze_model.py", "--k", 4)`."""
    process = as_process([REPO / "tools" / name, *args], env)
    command = {"argv": process["args"][1:], "env": process["env"], "timeout": timeout}
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch(), err.touch()
        command |= {"cwd": str(cwd or Path.cwd()), "stdout": str(out), "stderr": str(err)}
        print(json.dumps(command), file=warm_python().stdin, flush=True)
        status = int(warm_python().stdout.readline())
        output = [path.read_text("utf-8") for path in (out, err)]
    return subprocess.CompletedProcess(process["args"], status, *output)


def assert_refused(done: subprocess.CompletedProcess, *fragments: str) -> None:
    """A user's mistake: non-zero exit, nothing on stdout, one line on stderr naming `fragments`."""
    assert done.returncode != 0
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    for fragment in fragments:
        assert fragment in done.stderr


@pytest.fixture(scope="session")
def colours(tmp_path_factory) -> Path:
    """Class folders of three colours that are easily distinguished."""
    from pretrain_helpers import make_folders

    return make_folders(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """A DETECTRON2_DATASETS folder with four images of bright boxes, in COCO format."""
    from detection_helpers import make_shapes

    return make_shapes(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="session")
def unbroken(colours, tmp_path_factory) -> Path:
    """The OUTPUT_DIR of a pretraining that ran through: `pretrain_helpers.TINY` on `colours`."""
    import torch
    from pretrain_helpers import tiny

    from pretrain import commands

    torch.set_num_threads(1)  # as in the subprocesses, so that sums are the same
    output = tmp_path_factory.mktemp("unbroken") / "run"
    assert commands.train(tiny(colours, output)) == 0
    return output


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Iterator[Path]:
    """A folder of pictures of every kind, and the data set `predict_helpers.DATASET` of them."""
    from predict_helpers import forget_pictures, make_pictures

    yield make_pictures(tmp_path_factory.mktemp("pictures"))
    forget_pictures()


@pytest.fixture(scope="module")
def a_detector(pictures, tmp_path_factory):
    """Of RandWire, with masks, on `pictures`: model, config and checkpoint."""
    from predict_helpers import MASKS, store

    return store(tmp_path_factory.mktemp("detector"), **MASKS)
