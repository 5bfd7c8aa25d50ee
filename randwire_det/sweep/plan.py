"""The work of a study's runs: commands, what is finished, and what contradicts the study."""

import shlex
from collections.abc import Callable
from pathlib import Path

from fvcore.common.config import CfgNode

from ..config import same_result
from ..config.files import flat
from ..config.network_keys import spec_from_config
from ..errors import UsageError, UserError
from ..strict import load_yaml
from ..tables import detection
from ..tables.damage import FIGURE as DAMAGE_FIGURE
from ..tables.detection import WRITTEN, read_record
from ..tables.pretraining import FINAL
from .jobs import Work, python
from .study import Run, Study, arguments

DAMAGE = "damage"  # folder of graph damage, in a run's
TOOLS = Path(__file__).resolve().parents[2] / "tools"
# A config file and KEY VALUE pairs to the config of a run.
ReadConfig = Callable[[str, list[str]], CfgNode]


def plan(study: Study, runs: list[Run], read_config: ReadConfig) -> list[Work]:
    """The work of runs, after all of them were checked.

    Raises:
        UsageError: a run's config has an unknown key or a bad value, or its folder holds a run with
            another config.
    """
    for run in runs:
        check_run(study, run, read_config)
    return [
        Work(run.name, run.folder, commands(study, run), lambda run=run: is_finished(study, run))
        for run in runs
    ]


def commands(study: Study, run: Run) -> list[list[str]]:
    """The commands of a run, in order."""
    train = python(TOOLS / f"{study.command}.py", "--config-file", run.config, "--resume")
    if study.processes > 1:
        train += ["--num-gpus", str(study.processes)]
    found = [[*train, *arguments(run.keys), "OUTPUT_DIR", str(run.folder)]]
    if study.damages(run):
        output = ["--output", str(run.folder / DAMAGE)]
        found.append(python(TOOLS / "damage.py", str(run.folder / FINAL), *output, *study.damage))
    return found


def shell(commands: list[list[str]]) -> str:
    """Commands as one line for a shell."""
    return " && ".join(shlex.join(command) for command in commands)


def is_finished(study: Study, run: Run) -> bool:
    """Whether a run has all its results."""
    if study.damages(run) and not (run.folder / DAMAGE / DAMAGE_FIGURE).exists():
        return False
    if study.command == "pretrain_imagenet":
        return (run.folder / FINAL).exists()
    if not (run.folder / WRITTEN).exists():
        return False
    return detection.is_finished(read_record(run.folder))


def check_run(study: Study, run: Run, read_config: ReadConfig) -> None:
    """Refuse a run whose config is wrong, or whose folder holds a run with another one.

    Raises:
        UsageError: names the run, the key and both values.
    """
    try:
        cfg = read_config(run.config, arguments(run.keys))
        if cfg.MODEL.get("NAME", "randwire") == "randwire":  # of detectors, the key does not exist
            spec_from_config(cfg.MODEL.RANDWIRE)
        ours = flat(load_yaml(cfg.dump()))
    except UserError as error:
        raise UsageError(f"{study.path}, run {run.name}: {error}") from None
    written = run.folder / "config.yaml"
    if not written.exists():
        return
    try:
        theirs = flat(load_yaml(written.read_bytes().decode("utf-8", "replace")))
    except (UserError, AttributeError):
        raise UserError(f"{written}: cannot be read; remove the folder of this run") from None
    free = {"pretrain_imagenet": same_result.PRETRAINING, "train_net": same_result.DETECTION}
    for key in sorted(ours.keys() & theirs.keys()):
        if not key.startswith(free[study.command]) and ours[key] != theirs[key]:
            raise UsageError(
                f"{study.path}, run {run.name}: {run.folder} was trained with {key} {theirs[key]},"
                f" the study says {ours[key]}; choose another OUTPUT_DIR"
            )
