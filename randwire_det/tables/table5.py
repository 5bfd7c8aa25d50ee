"""Table 5 of the paper, AP on COCO, and the evaluations that fill it: mean and std over seeds.

Reads what `detection.results.record_evaluation` wrote, and needs neither torch nor detectron2. A
row is one network, detector, data set and schedule, with equal settings but for the seeds.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..coco.metrics import METRICS
from ..errors import UserError
from .spread import Spread, differences, grouped

# Faster R-CNN with FPN, Detectron's 1x: as many images as 90,000 iterations of 16. On val2017.
TABLE5 = {
    name: dict(zip(METRICS, row, strict=True))
    for name, row in {
        "ResNet-50": (37.1, 58.8, 39.7, 21.9, 40.8, 47.6),
        "ResNeXt-50": (38.2, 60.5, 41.3, 23.0, 41.5, 48.8),
        "RandWire-WS, C=109": (39.9, 61.9, 43.3, 23.6, 43.5, 52.7),
        "ResNet-101": (39.8, 61.7, 43.3, 23.7, 43.9, 51.7),
        "ResNeXt-101": (40.7, 62.9, 44.5, 24.4, 44.8, 52.7),
        "RandWire-WS, C=154": (41.1, 63.1, 44.6, 24.6, 45.1, 53.0),
    }.items()
}
VERSION = 1
WRITTEN = Path("inference", "results.json")  # in an OUTPUT_DIR
TRACES = ("last_checkpoint", "metrics.json")  # of a run of train_net.py without WRITTEN


@dataclass(frozen=True)
class Result:
    """One run on one data set.

    Attributes:
        name: of the network.
        what: detector, data sets and schedule, in words.
        metrics: AP in percent by METRICS; None where there is nothing to measure.
        settings: what the results of a row have in common, and those of another row have not.
        paper: the paper's row, where data set, detector and schedule are the paper's.
    """

    run: Path
    name: str
    what: str
    metrics: dict[str, float | None]
    settings: dict
    paper: dict[str, float] | None


@dataclass(frozen=True)
class Row:
    """A line of the table, AP in percent; one of the paper's that nobody ran has no `runs`."""

    name: str
    what: str
    runs: list[str]
    metrics: dict[str, Spread | None]
    paper: dict[str, float] | None


def read_evaluations(folders: list[Path], warn: Callable[[str], None]) -> list[Result]:
    """The evaluations in the OUTPUT_DIRs of runs of train_net.py.

    Args:
        warn: called with what is left out: unfinished trainings, and evaluations without a result.

    Raises:
        UserError: a folder that holds no evaluation, a broken file, or one run twice.
    """
    results, seen = [], {}
    for folder in folders:
        if not (folder / WRITTEN).exists() and any((folder / name).exists() for name in TRACES):
            warn(f"{folder}: not evaluated yet, left out")
            continue
        record = read_record(folder)
        iteration, last = record["iteration"], record["schedule"]["iterations"]
        if iteration is not None and iteration < last:
            warn(f"{folder}: not finished, iteration {iteration} of {last}, left out")
            continue
        for result in _results(folder, record, warn):
            settings = result.name, result.what, result.settings, record["seeds"]
            identity = json.dumps(settings, sort_keys=True)
            if identity in seen:
                raise UserError(
                    f"{folder} and {seen[identity]} are of the same seeds and config, so one run"
                    " would count twice: leave one of them out"
                )
            seen[identity] = folder
            results.append(result)
    return results


def read_record(folder: Path) -> dict:
    """What `record_evaluation` wrote in an OUTPUT_DIR.

    Raises:
        UserError: there is no such folder or no such file in it, or a broken one.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected the OUTPUT_DIR of a run")
    path = folder / WRITTEN
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{folder}: holds no {WRITTEN}; expected the OUTPUT_DIR of a run of train_net.py that"
            " came to an evaluation"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON ({error}); evaluate again with --eval-only") from None
    if isinstance(record, dict) and record.get("version") != VERSION:
        raise UserError(
            f"{path} has version {record.get('version')!r}; this randwire_det reads version"
            f" {VERSION}"
        )
    match record:
        case {
            "network": str(),
            "detector": str(),
            "schedule": {"iterations": int(), "images_per_batch": int(), "train": list()},
            "iteration": int() | None,
            "seeds": dict(),
            "config": dict(),
            "datasets": dict() as datasets,
        } if all(map(_is_dataset, datasets.values())):
            return record
    raise UserError(f"{path}: expected an object as train_net.py writes it; evaluate again")


def _is_dataset(entry: object) -> bool:
    match entry:
        case {"paper": dict() | None, "tasks": dict() as tasks}:
            return all(
                isinstance(task, dict)
                and isinstance(task.get("metrics"), dict)
                and all(map(_is_percent, task["metrics"].values()))
                for task in tasks.values()
            )
    return False


def _is_percent(value: object) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= 100)


def _results(folder: Path, record: dict, warn: Callable[[str], None]) -> list[Result]:
    results = []
    for dataset, entry in record["datasets"].items():
        nothing = {"bbox": {"metrics": {}}}
        for task, measured in (entry["tasks"] or nothing).items():
            metrics = {name: measured["metrics"].get(name) for name in METRICS}
            if metrics["AP"] is None:
                warn(f"{folder}: {dataset}, {task}: there is no AP, left out")
                continue
            boxes = task == "bbox"
            result = Result(
                run=folder,
                name=record["network"],
                what=_what(record, dataset) + ("" if boxes else f", {task}"),
                metrics=metrics,
                settings=record["config"],
                paper=TABLE5.get(record["network"]) if boxes and entry["paper"] else None,
            )
            results.append(result)
    return results


def _what(record: dict, dataset: str) -> str:
    schedule, config = record["schedule"], record["config"]
    train, size = " + ".join(map(str, schedule["train"])), schedule["images_per_batch"]
    start = ", from random weights" if config.get("MODEL.WEIGHTS") == "none" else ""
    return (
        f"{record['detector']}, {train} -> {dataset} at {config.get('INPUT.MIN_SIZE_TEST')} pixels,"
        f" {schedule['iterations']:,} iterations x {size} images{start}"
    )


def fill(results: list[Result]) -> list[Row]:
    """The paper's rows in its order, those that nobody ran too, then the others as they come."""
    groups = grouped(results, lambda result: [result.name, result.what, result.settings])
    firsts = [group[0] for group in groups]
    rows = []
    for name, paper in TABLE5.items():
        filled = [_row(group, firsts) for group in groups if group[0].paper == paper]
        rows += filled or [Row(name, "", [], dict.fromkeys(METRICS), paper)]
    return rows + [_row(group, firsts) for group in groups if not group[0].paper]


def _row(group: list[Result], firsts: list[Result]) -> Row:
    """The row of a group; `firsts` holds one result of every group."""
    one = group[0]
    # What a column tells is not told again in the name; the paper's rows have no column for it.
    namesakes = [
        other.settings
        for other in firsts
        if (other.name, other.paper) == (one.name, one.paper)
        and (one.paper or other.what == one.what)
    ]
    columns = {name: [result.metrics[name] for result in group] for name in METRICS}
    return Row(
        name="; ".join([one.name, *differences(one.settings, namesakes)]),
        what=one.what,
        runs=[str(result.run) for result in group],
        metrics={
            name: None if None in values else Spread.of(values) for name, values in columns.items()
        },
        paper=one.paper,
    )
