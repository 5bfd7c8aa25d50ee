"""Detection in two processes on gloo, from the command line, by both launchers; and stopping it."""

import json
import resource
import signal

import pytest
from conftest import run_python, start_python
from detection_helpers import CONFIG, RUN, TOOL, as_overrides, in_two, refused, train_net
from process_helpers import free_port, wait_until

from randwire_det.errors import EXIT_STOPPED, UserError
from randwire_det.run.checkpoint import load_checkpoint
from randwire_det.run.folder import locked

pytestmark = pytest.mark.slow_suite


def ap(output):
    rows = [json.loads(line) for line in (output / "metrics.json").open()]
    return {key: value for key, value in rows[-1].items() if key.startswith("bbox/")}


@pytest.fixture(scope="module")
def two(shapes, tmp_path_factory):
    output = tmp_path_factory.mktemp("two") / "run"
    changes = {"OUTPUT_DIR": output, "SOLVER.MAX_ITER": 3}
    done = in_two("--num-gpus", shapes, **changes)
    assert done.returncode == 0, done.stderr
    return output


def test_both_launchers_train_the_same(shapes, two, tmp_path):
    changes = {"OUTPUT_DIR": tmp_path, "SOLVER.MAX_ITER": 3}
    done = in_two("torchrun", shapes, **changes)
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_checkpoint(each / "model_final.pth") for each in (tmp_path, two))
    for name, value in theirs.model.items():
        assert ours.model[name].equal(value), name


def test_machines_started_with_other_keys_are_distinguished(shapes, tmp_path):
    """Two machines on this one; their weights would drift apart without a word."""
    url = f"tcp://127.0.0.1:{free_port()}"
    processes = []
    for machine, rate in enumerate([0.001, 0.002]):
        keys = as_overrides(RUN | {"SOLVER.BASE_LR": rate, "OUTPUT_DIR": tmp_path})
        command = [TOOL, "--num-machines", "2", "--machine-rank", str(machine), "--dist-url", url]
        command += ["--config-file", CONFIG, *keys]
        processes.append(start_python(*command, env={"DETECTRON2_DATASETS": str(shapes)}))
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    errors = "".join(err for _, err in outputs)
    assert errors.count("error: ") == 1
    assert "SOLVER.BASE_LR (0.001 and 0.002)" in errors
    assert f"waiting for the others at {url}" in outputs[0][0]


def test_two_processes_evaluate_as_one(shapes, two, tmp_path):
    """The same detections, each image once, so the same AP to the last digit."""
    found = {}
    for number, options in (("one", []), ("two", ["--num-gpus", 2])):
        changes = {"MODEL.WEIGHTS": two / "model_final.pth", "OUTPUT_DIR": tmp_path / number}
        changes |= {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0}
        done = train_net(shapes, *options, "--eval-only", changes=changes)
        assert done.returncode == 0, done.stderr
        path = tmp_path / number / "inference" / "coco_instances_results.json"
        rows = json.loads(path.read_text())
        found[number] = sorted(rows, key=lambda row: (row["image_id"], -row["score"], row["bbox"]))
    assert {row["image_id"] for row in found["one"]} == {1, 2, 3, 4}
    assert found["two"] == found["one"]


def test_a_full_disk_ends_both_processes_with_one_line(shapes, tmp_path):
    keys = RUN | {"SOLVER.IMS_PER_BATCH": 4, "OUTPUT_DIR": tmp_path, "SOLVER.MAX_ITER": 30}
    keys |= {"SOLVER.CHECKPOINT_PERIOD": 2}
    done = run_python(
        *[TOOL, "--num-gpus", 2, "--config-file", CONFIG, *as_overrides(keys)],
        env={"DETECTRON2_DATASETS": str(shapes)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
        timeout=100,
    )
    refused(done, 1, tmp_path / "model_0000001.pth", "could not be written")


def test_sigterm_writes_a_checkpoint_and_the_run_goes_on(shapes, tmp_path):
    keys = as_overrides(RUN | {"OUTPUT_DIR": tmp_path, "SOLVER.MAX_ITER": 500})
    process = start_python(
        *[TOOL, "--config-file", CONFIG, *keys], env={"DETECTRON2_DATASETS": str(shapes)}
    )
    metrics = tmp_path / "metrics.json"
    wait_until(process, lambda: metrics.exists() and metrics.read_text())
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
    changes = {"OUTPUT_DIR": tmp_path, "SOLVER.MAX_ITER": stopped + 3}
    done = train_net(shapes, "--resume", changes=changes)
    assert done.returncode == 0, done.stderr
    assert f"Starting training from iteration {stopped + 1}" in done.stdout
    rows = [json.loads(line) for line in metrics.open()]
    assert [row["iteration"] for row in rows] == sorted({row["iteration"] for row in rows})
    assert 7.0 not in [row.get("lr") for row in rows] and "bbox/AP" in rows[-1]
    assert not half.exists()
