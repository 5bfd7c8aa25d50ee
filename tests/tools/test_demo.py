"""The demo: every step runs, its report shows what was measured, a second run goes on."""

import json
import os
import signal
import threading
import time

import pytest
from conftest import REPO, run_tool
from PIL import Image

from randwire_det.run.stopping import AskedToStop

pytestmark = pytest.mark.slow_suite


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo")
    return output, run_tool("demo.py", "--quick", "--output", output)


def test_every_step_runs_and_the_terminal_ends_with_the_table_and_the_report(demo):
    output, done = demo
    assert done.returncode == 0, done.stdout + done.stderr
    header, pretrained, scratch, _, last = done.stdout.splitlines()[-5:]
    assert header.split()[-3:] == ["AP", "AP50", "AP75"]
    assert pretrained.startswith("from the pretrained RandWire")
    assert scratch.startswith("from scratch")
    assert last.endswith(str(output / "report.html"))


def test_the_fine_tuned_arm_starts_from_the_pretraining_and_the_other_does_not(demo):
    output, _ = demo
    loaded = f"Loaded {output / 'pretrain/model_final.pth'}"
    assert loaded in (output / "logs/pretrained.log").read_text()
    assert loaded not in (output / "logs/scratch.log").read_text()


def test_the_report_shows_the_last_ap_of_both_arms_and_its_pictures(demo):
    output, _ = demo
    report = (output / "report.html").read_text()
    for arm in ("pretrained", "scratch"):
        rows = [json.loads(line) for line in (output / arm / "metrics.json").open()]
        ap50 = [row["bbox/AP50"] for row in rows if "bbox/AP50" in row][-1]
        assert f"<td>{ap50:.1f}</td>" in report
    for picture in ("wiring.png", "ap.png", "predictions.png"):
        assert f'src="{picture}"' in report
        with Image.open(output / picture) as image:
            assert min(image.size) > 200


def test_run_again_it_trains_nothing_anew(demo):
    output, _ = demo
    weights = output / "pretrain/model_final.pth"
    before = weights.read_bytes()
    done = run_tool("demo.py", "--quick", "--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
    assert weights.read_bytes() == before
    assert "Starting training from iteration 4" in (output / "logs/scratch.log").read_text()


def test_a_step_that_fails_ends_the_demo_with_its_log(tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/mine.txt").write_text("not a data set")
    done = run_tool("demo.py", "--quick", "--output", tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"its log is {tmp_path / 'logs/digits.log'}" in done.stderr.splitlines()[-1]
    assert (tmp_path / "digits/mine.txt").read_text() == "not a data set"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_demo_that_is_stopped_leaves_no_tool_at_work(tmp_path, monkeypatch, number):
    monkeypatch.syspath_prepend(str(REPO / "tools"))
    import demo

    (tmp_path / "tool.py").write_text("import os, signal; print(os.getpid()); signal.pause()")
    log = tmp_path / "logs" / "tool.log"

    def stop():
        while not (log.exists() and log.read_text().endswith("\n")):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(AskedToStop):
        demo.run_step({"tool": [str(tmp_path / "tool.py")]}, tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)
