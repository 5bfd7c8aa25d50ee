"""Search over settings by Optuna, on a journal file that any number of processes may share.

    SEARCH:
      PARAMETERS:                       # what is sampled
        MODEL.RANDWIRE.K: [2, 4, 6]     # a list is a choice
        MODEL.RANDWIRE.P: {low: 0.0, high: 1.0}      # whole numbers give whole numbers
      METRIC: top1                      # or params, macs, or a graph measure: no run is trained
      DIRECTION: maximize               # or minimize
      TRIALS: 50                        # complete ones, of all processes together
      LIMITS: {macs: [5.0e+8, 6.0e+8]}  # others are not trained; params, macs or a measure

A trial's folder is named by its settings, so that a trial that was stopped goes on when it is
sampled again, which the next search does first.
"""

import hashlib
import json
import logging
import os
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from fvcore.common.config import CfgNode
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState

from ..config.network_keys import spec_from_config
from ..config.values import did_you_mean
from ..errors import EXIT_STOPPED, UsageError, UserError, brief
from ..run.checkpoint import load_checkpoint
from ..run.folder import is_locked
from ..run.stopping import Stopping
from ..spec.complexity import complexity
from ..spec.generator import generate
from ..spec.measures import measures
from ..tables.detection import read_record
from ..tables.pretraining import FINAL
from .jobs import LOG, POLL, Executor, Work, last_line, run_all
from .plan import ReadConfig, commands, is_finished
from .study import Run, Study, arguments

JOURNAL = "search.journal"
COUNTS = ("params", "macs")
DIRECTIONS = ("maximize", "minimize")
_KEYS = ("PARAMETERS", "METRIC", "DIRECTION", "TRIALS", "LIMITS")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """SEARCH of a study, checked."""

    parameters: dict[str, list | dict]
    metric: str
    direction: str
    trials: int
    limits: dict[str, tuple[float, float]]
    trained: bool  # whether the metric is that of a training


def read_search(study: Study) -> Search:
    """Check SEARCH of a study.

    Raises:
        UsageError: names the key and what was expected.
    """
    if study.search is None:
        raise UsageError(f"{study.path}: has no SEARCH")
    for key in study.search:
        if key not in _KEYS:
            raise UsageError(
                f"{study.path}: unknown key SEARCH {brief(key)};"
                f" {did_you_mean(str(key), list(_KEYS))}expected {', '.join(_KEYS)}"
            )
    given = {"METRIC": "top1", "DIRECTION": "maximize", "TRIALS": 20, "LIMITS": {}} | study.search
    own = "top1" if study.command == "pretrain_imagenet" else "AP"
    counted = (*COUNTS, *measures(generate("chain", seed=0, regime="small", channels=1, k=1)))
    limits = given["LIMITS"]
    expected = {
        "PARAMETERS": isinstance(given.get("PARAMETERS"), dict)
        and all(map(_is_range, given["PARAMETERS"].values())),
        "METRIC": given["METRIC"] in (own, *counted),
        "DIRECTION": given["DIRECTION"] in DIRECTIONS,
        "TRIALS": type(given["TRIALS"]) is int and given["TRIALS"] >= 1,
        "LIMITS": isinstance(limits, dict)
        and all(name in counted and _is_pair(pair) for name, pair in limits.items()),
    }
    texts = {
        "PARAMETERS": "{KEY: [choices]} or {KEY: {low: a, high: b}}, also with step or log: true",
        "METRIC": f"one of {own}, {', '.join(counted)}",
        "DIRECTION": " or ".join(DIRECTIONS),
        "TRIALS": "a whole number >= 1",
        "LIMITS": f"{{name: [lowest, highest]}} of {', '.join(counted)}",
    }
    for key, is_right in expected.items():
        if not is_right:
            raise UsageError(
                f"{study.path}: SEARCH {key} {brief(given.get(key))}: expected {texts[key]}"
            )
    return Search(
        given["PARAMETERS"],
        given["METRIC"],
        given["DIRECTION"],
        given["TRIALS"],
        {name: tuple(pair) for name, pair in limits.items()},
        trained=given["METRIC"] == own,
    )


def _is_range(value: object) -> bool:
    if isinstance(value, list):
        return len(value) > 0 and not any(isinstance(each, list | dict) for each in value)
    names = {"low", "high", "step", "log"}
    return (
        isinstance(value, dict)
        and {"low", "high"} <= value.keys() <= names
        and all(type(value[name]) in (int, float) for name in value.keys() - {"log"})
        and value["low"] <= value["high"]
    )


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(each) in (int, float) for each in value)
    )


def search(study: Study, read_config: ReadConfig, executor: Executor, stopping: Stopping) -> int:
    """Run trials one after the other until all processes together have completed TRIALS.

    Returns:
        the exit status: 1 if a training of this process failed, `EXIT_STOPPED` if it was stopped.

    Raises:
        UserError: SEARCH is wrong, or a setting that all trials share.
    """
    wanted = read_search(study)
    study.output.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = study.output / JOURNAL
    trials = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name="search",
        direction=wanted.direction,
        load_if_exists=True,
        # Trials of several processes at once would else be sampled from the same draw.
        sampler=optuna.samplers.TPESampler(constant_liar=True),
    )
    _put_back(trials, stopping)
    logger.info(f"{study.path}: {wanted.trials} trials; output goes to {journal}")
    failed = False
    while not stopping and _complete(trials) < wanted.trials:
        trial = trials.ask()
        trial.set_user_attr("process", _this_process())
        keys = {name: _suggest(trial, name, each) for name, each in wanted.parameters.items()}
        run = _run_of(study, keys)
        trial.set_user_attr("folder", str(run.folder))
        try:
            cfg = read_config(run.config, arguments(run.keys))
            value, problem = _evaluate(study, wanted, run, cfg, executor, stopping)
        except UserError as error:
            value, problem = None, str(error)
        if stopping and value is None:
            trials.tell(trial, state=TrialState.FAIL)
            trials.enqueue_trial(keys)
            break
        if value is None:
            # The sampler learns nothing of it, as there is no such network, or it is out of bounds.
            trials.tell(trial, state=TrialState.PRUNED)
            failed |= problem.startswith("ended")
            logger.info(f"left out {_text(keys)}: {problem}")
        else:
            trials.tell(trial, value)
            best = trials.best_trial
            logger.info(
                f"{_complete(trials)} of {wanted.trials}: {wanted.metric} {value:.6g} with"
                f" {_text(keys)}; best {best.value:.6g} with {_text(best.params)}"
            )
        _refuse_only_bad(trials, study, problem)
    return EXIT_STOPPED if stopping else int(failed)


def _complete(trials: optuna.Study) -> int:
    return len(trials.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def _refuse_only_bad(trials: optuna.Study, study: Study, problem: str | None) -> None:
    """A setting that is wrong in every trial would be sampled for ever."""
    pruned = len(trials.get_trials(deepcopy=False, states=(TrialState.PRUNED,)))
    if problem and pruned >= 50 and not _complete(trials):
        raise UserError(
            f"{study.path}: all of {pruned} settings were left out; the last: {problem}"
        )


def _suggest(trial: Trial, name: str, values: list | dict) -> object:
    if isinstance(values, list):
        return trial.suggest_categorical(name, values)
    low, high, rest = values["low"], values["high"], dict(values)
    del rest["low"], rest["high"]
    if type(low) is int and type(high) is int and type(rest.get("step", 1)) is int:
        return trial.suggest_int(name, low, high, **rest)
    return trial.suggest_float(name, float(low), float(high), **rest)


def _run_of(study: Study, keys: dict[str, object]) -> Run:
    """The run of a trial, with the study's first seed."""
    digest = hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:12]
    one = replace(study, arms={f"trial_{digest}": keys}, grid={}, seeds=study.seeds[:1])
    return one.runs()[0]


def _evaluate(
    study: Study,
    wanted: Search,
    run: Run,
    cfg: CfgNode,
    executor: Executor,
    stopping: Stopping,
) -> tuple[float | None, str | None]:
    """The metric of a trial; or None, and why there is none."""
    counted = {}
    if wanted.limits or not wanted.trained:
        counted = _counted(cfg)
    for name, (low, high) in wanted.limits.items():
        if not low <= counted[name] <= high:
            return None, f"{name} {counted[name]:.6g} is outside [{low:g}, {high:g}]"
    if not wanted.trained:
        return float(counted[wanted.metric]), None
    work = Work(run.name, run.folder, commands(study, run), lambda: is_finished(study, run))
    run_all([work], executor, stopping, 1)
    if not work.finished():
        return None, f"ended without a result: {last_line(run.folder / LOG)}"
    return _result(study, run.folder), None


def _counted(cfg: CfgNode) -> dict[str, float]:
    """Parameters, multiply-adds and graph measures of a config's RandWire."""
    spec = spec_from_config(cfg.MODEL.RANDWIRE)
    size = cfg.INPUT.SIZE if "SIZE" in cfg.INPUT else 224
    count = complexity(spec, size)
    return {name: getattr(count, name) for name in COUNTS} | measures(spec)


def _result(study: Study, folder: Path) -> float:
    if study.command == "pretrain_imagenet":
        return load_checkpoint(folder / FINAL, kinds=("classifier", "baseline")).progress["top1"]
    record = read_record(folder)
    (dataset, *_) = record["datasets"].values()
    return dataset["tasks"]["bbox"]["metrics"]["AP"]


def _this_process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _put_back(trials: optuna.Study, stopping: Stopping) -> None:
    """Sample again, first of all, the settings of trials whose process on this machine is gone."""
    for trial in trials.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        host, _, number = trial.user_attrs.get("process", "").rpartition(":")
        if host != socket.gethostname() or _is_alive(int(number)):
            continue
        folder = Path(trial.user_attrs.get("folder", ""))
        if is_locked(folder):  # its training outlived the search
            logger.info(f"awaiting {folder / LOG}")
        while is_locked(folder) and not stopping:
            time.sleep(POLL)
        if stopping:
            return
        trials.tell(trial.number, state=TrialState.FAIL)
        trials.enqueue_trial(trial.params)
        logger.info(f"goes on  {_text(trial.params)}")


def _is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _text(keys: dict[str, object]) -> str:
    return " ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in keys.items()
    )
