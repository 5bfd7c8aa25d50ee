"""The results of a study: a CSV line for each run, a Markdown line for each setting, figures."""

import csv
import io
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..run.files import replace_file
from ..spec.complexity import Complexity
from ..tables import detection, pretraining
from ..tables.damage import RECORD, read_record
from ..tables.damage_figure import draw_damage
from ..tables.rows import Spread
from . import figures
from .plan import DAMAGE, is_finished
from .study import Run, Study, short

CSV, SUMMARY = "results.csv", "summary.md"


@dataclass(frozen=True)
class Measured:
    """A finished run.

    Attributes:
        values: "top1" and "top5", or COCO's metrics; with "macs" and "params" of a classifier.
    """

    run: Run
    values: dict[str, float]


@dataclass(frozen=True)
class Setting:
    """The finished runs of an arm at a point of the grid, over seeds."""

    arm: str
    point: dict[str, str]
    runs: list[Measured]

    @property
    def label(self) -> str:
        """As "WS(4, 0.75), EPOCHS 5"."""
        return ", ".join(
            [self.arm, *(f"{short(axis)} {text}" for axis, text in self.point.items())]
        )

    def spread(self, metric: str) -> Spread:
        return Spread.of([each.values[metric] for each in self.runs])


def metric_of(study: Study) -> str:
    """What the study compares, in percent."""
    return "top1" if study.command == "pretrain_imagenet" else "AP"


def measured(
    study: Study,
    runs: Iterable[Run],
    count_baseline: Callable[..., Complexity],
    warn: Callable[[str], None],
) -> list[Measured]:
    """The results of the finished runs, in the order of the study.

    Args:
        count_baseline: `pretrain.baselines.baseline_complexity`.
        warn: called for evaluations that are left out.

    Raises:
        UserError: a broken file, or the same run twice.
    """
    finished = {run.folder: run for run in runs if is_finished(study, run)}
    if study.command == "pretrain_imagenet":
        results = pretraining.read_runs(list(finished), warn, count_baseline)
    else:
        results = detection.read_evaluations(list(finished), warn)
    # A run's first result is that of its own last evaluation.
    first = {result.run: result for result in reversed(results)}
    return [
        Measured(
            run,
            {name: value for name, value in first[folder].values.items() if value is not None},
        )
        for folder, run in finished.items()
        if folder in first
    ]


def settings(study: Study, found: list[Measured]) -> list[Setting]:
    """The runs by arm and point of the grid, in the order of the study."""
    groups: dict[tuple, list[Measured]] = {}
    for each in found:
        groups.setdefault((each.run.arm, *each.run.point.values()), []).append(each)
    first = [group[0].run for group in groups.values()]
    order = {arm: place for place, arm in enumerate(study.arms)}
    return sorted(
        (
            Setting(run.arm, run.point, group)
            for run, group in zip(first, groups.values(), strict=True)
        ),
        key=lambda setting: order[setting.arm],
    )


def write_results(study: Study, runs: list[Run], found: list[Measured]) -> list[Path]:
    """Write results.csv, summary.md and the study's figures to its OUTPUT_DIR.

    Returns:
        the files.

    Raises:
        UsageError: an unknown figure, or one that the study has no runs for.
    """
    draw = study.figures or ["bars"]
    for name in draw:
        if name not in FIGURES:
            raise UsageError(f"{study.path}: FIGURES {name!r}: expected {', '.join(FIGURES)}")
    study.output.mkdir(parents=True, exist_ok=True)
    by_setting, metric = settings(study, found), metric_of(study)
    files = [study.output / CSV, study.output / SUMMARY]
    for path, text in zip(
        files, (as_csv(study, found), as_markdown(study, runs, found)), strict=True
    ):
        replace_file(path, lambda file, text=text: file.write(text.encode()))
    for name in draw if found else []:
        for ending in (".png", ".svg"):
            path = study.output / f"{name}{ending}"
            if FIGURES[name](study, by_setting, metric, path):
                files.append(path)
    return files


def as_csv(study: Study, found: list[Measured]) -> str:
    """A line for each finished run: arm, grid, seed, results, folder."""
    text, axes = io.StringIO(), list(study.grid)
    values = list(dict.fromkeys(name for each in found for name in each.values))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", *axes, "seed", *values, "folder"])
    for each in found:
        place = [each.run.point[axis] for axis in axes]
        results = [each.values.get(name, "") for name in values]
        writer.writerow([each.run.arm, *place, each.run.seed, *results, each.run.folder])
    return text.getvalue()


def as_markdown(study: Study, runs: list[Run], found: list[Measured]) -> str:
    """A line for each setting, mean ± sample std over seeds; then the unfinished runs."""
    metric, axes = metric_of(study), list(study.grid)
    classifier = metric == "top1"
    counts = ["multiply-adds, M", "parameters, M"] if classifier else []
    head = ["arm", *map(short, axes), "runs", "top-1, %" if classifier else "AP", "single runs"]
    lines = [[*head, *counts], ["---"] * len(head + counts)]
    for setting in settings(study, found):
        values = [each.values[metric] for each in setting.runs]
        line = [setting.arm, *setting.point.values(), str(len(values))]
        line += [setting.spread(metric).to_text(), ", ".join(f"{value:.2f}" for value in values)]
        line += [setting.spread(name).to_text(1e6) for name in ("macs", "params") if classifier]
        lines.append(line)
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    correlations = operations(study, settings(study, found), metric)[1]
    if correlations:
        text += "\nPearson correlation over the arms: "
        text += (
            ", ".join(f"{a} and {b} {value:.3f}" for (a, b), value in correlations.items()) + "\n"
        )
    done = {each.run.folder for each in found}
    missing = [run.name for run in runs if run.folder not in done]
    if missing:
        text += f"\nNot run: {len(missing)} of {len(runs)} runs: {', '.join(missing)}\n"
    return text


def operations(
    study: Study, by_setting: list[Setting], metric: str
) -> tuple[dict[str, dict[str, float]], dict[tuple[str, str], float]]:
    """The means of Figure 6, if the first axis of the grid is the node operation.

    Returns:
        {operation: {arm: mean}}, of the arms that all operations have; and Pearson's correlation
        over these arms of each two operations, where there are three arms or more.
    """
    axis = next((axis for axis in study.grid if short(axis) == "OP"), None)
    if axis is None:
        return {}, {}
    means: dict[str, dict[str, float]] = {}
    for setting in by_setting:
        means.setdefault(setting.point[axis], {})[setting.arm] = setting.spread(metric).mean
    shared = [arm for arm in study.arms if all(arm in each for each in means.values())]
    means = {op: {arm: each[arm] for arm in shared} for op, each in means.items()}
    names = list(means)
    correlations = {}
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            series = [list(means[name].values()) for name in (one, other)]
            if len(shared) > 2 and all(len(set(each)) > 1 for each in series):
                correlations[one, other] = statistics.correlation(*series)
    return means, correlations


def _bars(study: Study, by_setting: list[Setting], metric: str, path: Path) -> bool:
    bars = [(each.label, each.spread(metric)) for each in by_setting]
    figures.draw_bars(bars, figures.LABELS[metric], path)
    return True


def _operations(study: Study, by_setting: list[Setting], metric: str, path: Path) -> bool:
    means, correlations = operations(study, by_setting, metric)
    if not means:
        raise UsageError(f"{study.path}: FIGURES operations: expected an axis OP in GRID")
    if not next(iter(means.values())):
        return False  # no arm has runs of all operations yet
    figures.draw_operations(means, correlations, figures.LABELS[metric], path)
    return True


def _schedule(study: Study, by_setting: list[Setting], metric: str, path: Path) -> bool:
    axis = next((axis for axis in study.grid if short(axis) in ("EPOCHS", "MAX_ITER")), None)
    if axis is None:
        raise UsageError(
            f"{study.path}: FIGURES schedule: expected SOLVER.EPOCHS or SOLVER.MAX_ITER in GRID"
        )
    lines: dict[str, list] = {}
    for each in by_setting:
        rest = Setting(each.arm, {k: v for k, v in each.point.items() if k != axis}, [])
        point = float(each.point[axis]), each.spread(metric)
        lines.setdefault(rest.label, []).append(point)
    unit = "epochs" if short(axis) == "EPOCHS" else "iterations"
    figures.draw_lines(lines, f"length of the schedule, {unit}", figures.LABELS[metric], path)
    return True


def _damage(study: Study, by_setting: list[Setting], metric: str, path: Path) -> bool:
    found = [each.run.folder / DAMAGE / RECORD for setting in by_setting for each in setting.runs]
    records = [read_record(record) for record in found if record.exists()]
    if records:
        draw_damage(records, path)
    return bool(records)


# Name: (study, settings, metric, path) -> whether there was something to draw.
FIGURES: dict[str, Callable[[Study, list[Setting], str, Path], bool]] = {
    "bars": _bars,  # Figure 3
    "damage": _damage,  # Figure 5
    "operations": _operations,  # Figure 6
    "schedule": _schedule,
}
