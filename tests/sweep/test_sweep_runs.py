"""tools/sweep.py: runs are run once, and go on after kills of a run and of the sweep."""

import json
import os
import signal

import pytest
import yaml
from conftest import assert_refused
from pretrain_helpers import assert_same_run
from process_helpers import wait_until
from sweep_helpers import has_checkpoint, start_sweep, study_file, sweep, training_of

from randwire_det.errors import EXIT_STOPPED
from randwire_det.run.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow_suite


def test_a_study_is_run_once(colours, unbroken, tmp_path):
    """Two arms at once, graph damage after one of them; one run is the same as by hand."""
    arms = [{"default": {}}, {"other": {"WIRING": "ER(0.5)", "SOLVER.EPOCHS": 3}}]
    damage = {"DAMAGE": ["--sample", 2], "DAMAGE_ARMS": ["other"]}
    path = study_file(colours, tmp_path, ARMS=arms, **damage)
    listed = sweep(path, "--print")
    assert listed.returncode == 0 and listed.stdout.count(": to do") == 2
    assert not (tmp_path / "study").exists()
    done = sweep(path, "--jobs", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 runs done, 0 failed" in done.stdout
    folders = sorted(each.parent for each in (tmp_path / "study").glob("*/model_final.pth"))
    assert len(folders) == 2
    assert_same_run(tmp_path / "study" / "default_seed0", unbroken)
    record = json.loads((tmp_path / "study" / "other_seed0" / "damage/damage.json").read_text())
    assert len(record["removals"]) == 4
    assert not (tmp_path / "study" / "default_seed0" / "damage").exists()
    spec = load_checkpoint(tmp_path / "study" / "other_seed0" / "model_final.pth").spec
    assert (spec.provenance["generator"], spec.provenance["p"]) == ("er", 0.5)

    times = [(folder / "model_final.pth").stat().st_mtime_ns for folder in folders]
    again = sweep(path)
    assert again.returncode == 0 and "2 of 2 runs are finished" in again.stdout
    assert times == [(folder / "model_final.pth").stat().st_mtime_ns for folder in folders]


def test_a_failed_run_does_not_stop_the_others(colours, tmp_path):
    path = study_file(
        colours,
        tmp_path,
        SET={"SOLVER.EPOCHS": 3},
        ARMS=[{"bad": {"DATA.ROOT": str(tmp_path / "nowhere")}}, {"good": {}}],
    )
    done = sweep(path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "bad_seed0 ended with status 1" in line and "nowhere" in line
    assert (tmp_path / "study" / "good_seed0" / "model_final.pth").exists()
    gathered = sweep(path, "--gather")
    assert gathered.returncode == 0 and "Not run: 1 of 2 runs: bad_seed0" in gathered.stdout


def test_a_killed_run_is_reported_and_goes_on_next_time(colours, unbroken, tmp_path):
    path = study_file(colours, tmp_path)
    folder = tmp_path / "study" / "run_seed0"
    process = start_sweep(path)
    wait_until(process, lambda: has_checkpoint(folder))
    os.kill(training_of(folder), signal.SIGKILL)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1 and "run_seed0 ended with status -9" in err
    assert not (folder / "model_final.pth").exists()
    again = sweep(path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert_same_run(folder, unbroken)


def test_a_killed_sweep_loses_nothing(colours, unbroken, tmp_path):
    """Its run goes on without it; the next sweep waits for it, and runs the rest."""
    path = study_file(colours, tmp_path, SEEDS=[0, 1])
    folder = tmp_path / "study" / "run_seed0"
    process = start_sweep(path)
    wait_until(process, lambda: has_checkpoint(folder))
    training = training_of(folder)
    process.kill()
    process.wait()  # not for its pipes, which its jobs have inherited
    assert training_of(folder) == training
    again = sweep(path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"awaiting {folder}" in again.stdout
    assert_same_run(folder, unbroken)
    assert (tmp_path / "study" / "run_seed1" / "model_final.pth").exists()


def test_a_stopped_sweep_writes_checkpoints(colours, unbroken, tmp_path):
    path = study_file(colours, tmp_path, SEEDS=[0, 1])
    folder = tmp_path / "study" / "run_seed0"
    process = start_sweep(path)
    wait_until(process, lambda: has_checkpoint(folder))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == EXIT_STOPPED, out + err
    assert training_of(folder) is None and not (tmp_path / "study" / "run_seed1").exists()
    assert "stopped  by SIGTERM" in (folder / "sweep.log").read_text()
    assert sweep(path, "SEEDS", "[0]").returncode == 0
    assert_same_run(folder, unbroken)


def test_a_study_that_changed_does_not_take_old_runs_for_its_own(colours, tmp_path):
    path = study_file(colours, tmp_path, SET={"SOLVER.EPOCHS": 3})
    assert sweep(path).returncode == 0
    moved = sweep(path, "SET.LOG_PERIOD", 2)  # changes no result
    assert moved.returncode == 0 and "1 of 1 runs are finished" in moved.stdout
    other = sweep(path, "SET.SOLVER.EPOCHS", 4)
    assert_refused(other, "SOLVER.EPOCHS 3", "the study says 4", "OUTPUT_DIR")
    assert other.returncode == 2


def test_a_study_of_detectors(shapes, tmp_path, monkeypatch):
    from detection_helpers import CONFIG, RUN

    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes))
    keys = RUN | {"SOLVER.MAX_ITER": 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0}
    content = {
        "COMMAND": "train_net",
        "CONFIG": CONFIG,
        "OUTPUT_DIR": str(tmp_path / "study"),
        "SET": {key: value for key, value in keys.items() if key != "SEED"},
        "ARMS": [{"plain": {}}, {"ReLU": {"MODEL.RANDWIRE.RELU_OUTPUTS": True}}],
        "SEEDS": [5],
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    done = sweep(path)
    assert done.returncode == 0, done.stdout + done.stderr
    again = sweep(path)
    assert again.returncode == 0 and "2 of 2 runs are finished" in again.stdout
    gathered = sweep(path, "--gather")
    assert gathered.returncode == 0, gathered.stderr
    for arm in ("plain", "ReLU"):
        record = json.loads((tmp_path / f"study/{arm}_seed5/inference/results.json").read_text())
        ap = record["datasets"]["shapes"]["tasks"]["bbox"]["metrics"]["AP"]
        assert f"| {arm} | 1 | {ap:.2f} |" in gathered.stdout


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["SET.SOLVER.EPOCH", 3], ["run_seed0", "did you mean SOLVER.EPOCHS"]),
        (["SET.SOLVER.EPOCHS", "many"], ["run_seed0", "SOLVER.EPOCHS many"]),
        (["SET.SOLVER.EPOCHS", 0], ["run_seed0", "SOLVER.EPOCHS 0"]),
        (["ARMS", '["WS(8, 0.5)"]'], ["WS-8-0.5_seed0", "K=8", "N=5"]),
        (["--jobs", 0], ["--jobs 0"]),
        (["--slurm", "timeout_min=5"], ["--slurm timeout_min=5", "--cluster slurm"]),
        (["SEEDS"], ["KEY VALUE"]),
        (["--cluster", "slurm"], ["--cluster slurm"]),
        (["--search"], ["SEARCH"]),
    ],
)
def test_a_wrong_study_starts_nothing(colours, tmp_path, arguments, fragments):
    done = sweep(study_file(colours, tmp_path), *arguments)
    assert_refused(done, *fragments)
    assert done.returncode == 2 and not list((tmp_path / "study").glob("*/*"))


def test_shipped_studies_name_real_runs():
    from randwire_det.config.files import SHIPPED

    for path in sorted((SHIPPED / "studies").glob("*.yaml")):
        done = sweep(f"studies/{path.name}", "--print")
        assert done.returncode == 0, done.stderr
        content = yaml.safe_load(path.read_text())
        assert done.stdout.count("\n# ") + 1 >= len(content["SEEDS"])
