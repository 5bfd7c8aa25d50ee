"""How a command ends, alone and as one process of several."""

import logging
import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import REPO, run_python

from randwire_det.errors import UsageError
from randwire_det.run import cli

SCRIPT = """
import atexit, sys
from randwire_det import UserError
from randwire_det.run import cli

class TakenDown:
    def __del__(self):
        print("the interpreter was taken down")

def main():
    log = open(sys.argv[1], "w")
    atexit.register(log.close)
    log.write("the last line")
    print("done")
    {ending}

kept = TakenDown()
cli.run(main)
"""
ENDINGS = {
    "return None": (0, ""),
    "return 75": (75, ""),
    "sys.exit(3)": (3, ""),
    "raise UserError('C=0: expected 1 or more')": (1, "error: C=0: expected 1 or more\n"),
    "sys.modules['detectron2'] = None; import detectron2.config": (
        1,
        "error: detectron2 is not installed: python tools/install_detectron2.py, or from source"
        " (README, In your own project)\n",
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("size", [1, 2])
def test_a_process_of_several_leaves_before_the_interpreter_is_taken_down(ending, size, tmp_path):
    """gloo's threads abort it there, once in twenty runs on a busy machine; nothing may be lost."""
    status, printed = ENDINGS[ending]
    done = run_python(
        *["-c", SCRIPT.format(ending=ending), tmp_path / "log.txt"],
        env={"WORLD_SIZE": str(size), "RANK": "0"},
    )
    assert (done.returncode, done.stderr) == (status, printed)
    assert (tmp_path / "log.txt").read_text() == "the last line"
    assert done.stdout.startswith("done\n")
    assert ("taken down" in done.stdout) == (size == 1)


def test_what_a_file_says_does_not_reach_the_terminal_raw(tmp_path):
    name = "no such class a\x1b[31mred\x07, two\nlines, nul\0"
    script = SCRIPT.format(ending=f"raise UserError({name!r})")
    done = run_python("-c", script, tmp_path / "log.txt")
    (line,) = done.stderr.splitlines()
    assert line.isprintable() and line.startswith("error: no such class ")


# Of each tool that imports torch: a command that leads to it.
IMPORTS = {
    "benchmark_loader.py": ["--config-file", "no_such.yaml"],
    "check_dataset.py": ["--json", "no_such.json", "--images", "."],
    "convert_baseline.py": ["no_such.pth", "--output", "resnet.pth"],
    "draw_wiring.py": ["--spec", "no_such.pth"],
    "inspect_checkpoint.py": ["no_such.pth"],
    "predict.py": ["--weights", "no_such.pth", "--input", "."],
    "pretrain_imagenet.py": ["--config-file", "no_such.yaml"],
    "report.py": ["OUTPUT_DIR"],
    "tables.py": ["OUTPUT_DIR"],
    "train_net.py": ["--config-file", "no_such.yaml"],
}


def test_ctrl_c_during_an_import_is_no_traceback(tmp_path):
    """Python tells on stderr which module it has just imported: then comes the interrupt."""
    (tmp_path / "OUTPUT_DIR").mkdir()
    (tmp_path / "OUTPUT_DIR" / "config.yaml").write_text("{}")

    def interrupted(name: str, package: str) -> list:
        command = [sys.executable, "-X", "importtime", REPO / "tools" / name, *IMPORTS[name]]
        with subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(REPO)},
            pipesize=4096,  # so that the command is not far ahead of what is read here
            # A background process of a shell, as these tests may be, ignores it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            rest, sent = [], False
            for line in process.stderr:
                if not line.startswith("import time:"):
                    rest.append(line)
                elif not sent and line.rpartition("| ")[2].strip().startswith(f"{package}."):
                    process.send_signal(signal.SIGINT)
                    sent = True
            printed = process.stdout.read()
        return [sent, process.returncode, printed + "".join(rest)]

    for name in IMPORTS:
        assert interrupted(name, "torch") == [True, 130, "interrupted\n"], name
    assert interrupted("train_net.py", "detectron2") == [True, 130, "interrupted\n"]


@pytest.mark.parametrize(
    ("wanted", "visible", "device"),
    [
        ("cpu", 2, "cpu"),
        ("cuda", 2, "cuda"),
        ("cuda:1", 2, "cuda:1"),
        ("cuda:1", 0, "cpu"),
        ("auto", 2, "cuda"),
        ("auto", 0, "cpu"),
    ],
)
def test_the_device_that_is_chosen(wanted, visible, device, caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    assert cli.choose_device(wanted, logging.getLogger("test")) == device
    assert ("No CUDA device" in caplog.text) == (wanted == "cuda:1" and not visible)


@pytest.mark.parametrize("wanted", ["gpu", "mps", "meta", "cuda:2", "cpu:2"])
def test_a_device_that_there_is_not_is_refused(wanted, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match=f"device '{wanted}': .*cuda:1 or cpu"):
        cli.choose_device(wanted, logging.getLogger("test"))
