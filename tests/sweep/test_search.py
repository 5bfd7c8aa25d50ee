"""--search: by counts without training, within limits, by trainings, by several processes."""

import re

import optuna
import pytest
from conftest import REPO, start_python
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from process_helpers import wait_until
from sweep_helpers import has_checkpoint, start_sweep, study_file, sweep, training_of

from randwire_det import generate
from randwire_det.errors import EXIT_STOPPED
from randwire_det.spec.complexity import complexity
from randwire_det.spec.measures import measures

P = {"MODEL.RANDWIRE.P": {"low": 0.0, "high": 1.0}, "MODEL.RANDWIRE.K": [2, 4]}


def trials_of(folder, *states):
    storage = JournalStorage(JournalFileBackend(str(folder / "study" / "search.journal")))
    return optuna.load_study(study_name="search", storage=storage).get_trials(states=states or None)


def spec_of(trial):
    keys = {key.rpartition(".")[-1].lower(): value for key, value in trial.params.items()}
    return generate("ws", seed=1, regime="small", channels=8, nodes=5, **{"k": 2} | keys)


@pytest.mark.slow_suite
def test_two_processes_share_a_search_by_counts(colours, tmp_path):
    limits = {"macs": [0, 2_200_000]}
    search = {
        "PARAMETERS": P,
        "METRIC": "path_length",
        "DIRECTION": "minimize",
        "TRIALS": 12,
        "LIMITS": limits,
    }
    path = study_file(colours, tmp_path, SEARCH=search, SEED_KEYS=["SEED"])
    processes = [start_python(REPO / "tools" / "sweep.py", path, "--search") for _ in range(2)]
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    done = trials_of(tmp_path, TrialState.COMPLETE)
    assert 12 <= len(done) <= 13  # both may be within the last one
    for trial in done:
        spec = spec_of(trial)
        assert trial.value == pytest.approx(measures(spec)["path_length"])
        assert complexity(spec, 32).macs <= limits["macs"][1]
    found = [float(each) for each in re.findall(r"best ([\d.]+)", outputs[0][0] + outputs[1][0])]
    assert min(found) == pytest.approx(min(trial.value for trial in done), rel=1e-4)
    assert not list((tmp_path / "study").glob("trial_*"))  # nothing was trained


@pytest.mark.slow_suite
def test_a_search_by_accuracy_goes_on_after_a_kill(colours, tmp_path):
    search = {"PARAMETERS": P, "TRIALS": 2}
    path = study_file(colours, tmp_path, SEARCH=search)
    process = start_sweep(path, "--search")
    wait_until(
        process,
        lambda: any(map(has_checkpoint, (tmp_path / "study").glob("trial_*"))),
    )
    (folder,) = (tmp_path / "study").glob("trial_*")
    training = training_of(folder)
    process.kill()
    process.wait()
    (cut_off,) = trials_of(tmp_path)
    again = sweep(path, "--search")
    assert again.returncode == 0, again.stdout + again.stderr
    done = trials_of(tmp_path, TrialState.COMPLETE)
    assert len(done) == 2 and done[0].params == cut_off.params
    # The training outlived the search, and was not run twice.
    assert training and (folder / "sweep.log").read_text().count("done     ") == 1


@pytest.mark.slow_suite
def test_a_stopped_search_puts_its_settings_back(colours, tmp_path):
    path = study_file(colours, tmp_path, SEARCH={"PARAMETERS": P, "TRIALS": 1})
    process = start_sweep(path, "--search")
    wait_until(
        process,
        lambda: any(map(has_checkpoint, (tmp_path / "study").glob("trial_*"))),
    )
    process.terminate()
    out, err = process.communicate(timeout=100)
    assert process.returncode == EXIT_STOPPED, out + err
    failed, waiting = trials_of(tmp_path)
    assert (failed.state, waiting.state) == (TrialState.FAIL, TrialState.WAITING)
    assert waiting.system_attrs["fixed_params"] == failed.params


@pytest.mark.parametrize(
    ("search", "fragments"),
    [
        ({}, ["SEARCH PARAMETERS", "{low: a, high: b}"]),
        ({"PARAMETERS": {"A": {"low": 2, "high": 1}}}, ["SEARCH PARAMETERS"]),
        ({"PARAMETERS": P, "METRIC": "top2"}, ["SEARCH METRIC 'top2'", "path_length"]),
        ({"PARAMETERS": P, "TRIAL": 3}, ["did you mean TRIALS"]),
        ({"PARAMETERS": P, "TRIALS": 0}, ["SEARCH TRIALS 0"]),
        ({"PARAMETERS": P, "DIRECTION": "up"}, ["SEARCH DIRECTION 'up'", "maximize"]),
        ({"PARAMETERS": P, "LIMITS": {"macs": 5}}, ["SEARCH LIMITS"]),
        ({"PARAMETERS": {"MODEL.K": [1]}, "METRIC": "macs"}, ["MODEL.RANDWIRE.K"]),
        ({"PARAMETERS": {"MODEL.RANDWIRE.K": [3]}, "METRIC": "macs"}, ["K=3"]),
    ],
)
def test_a_wrong_search_is_one_line(colours, tmp_path, search, fragments):
    done = sweep(study_file(colours, tmp_path, SEARCH=search), "--search")
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    for fragment in fragments:
        assert fragment in line
