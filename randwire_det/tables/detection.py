"""Table 5 of the paper, AP on COCO, filled by evaluations: mean and std over seeds.

Reads the files of `detection.results.record_evaluation`; needs neither torch nor detectron2. A row
is one network, detector, data set and schedule, with equal settings except for the seeds.
"""

import json
from collections.abc import Callable
from pathlib import Path

from ..coco.metrics import METRICS
from ..errors import UserError
from .paper import TABLE5
from .rows import Result, Row, check_once, gather

VERSION = 1
WRITTEN = Path("inference", "results.json")  # in an OUTPUT_DIR
TESTED = Path("inference", "config.yaml")  # of an evaluation into the OUTPUT_DIR of a training
TRACES = ("last_checkpoint", "metrics.json")  # of a run of train_net.py without WRITTEN
# Keys that are newer than some records, with the values that these were made with.
LATER_KEYS = {
    "MODEL.RANDWIRE.OUTPUT_STRIDE": 32,
    "MODEL.RANDWIRE.RELU_OUTPUTS": False,
    "MODEL.RANDWIRE.TOP_BLOCK": "",
    "SOLVER.ACCUMULATE": 1,
    "SOLVER.AMP.DTYPE": "auto",
}
PAPERS, OTHERS = "Table 5: here / paper", "Other runs"  # headings


def is_detection(folder: Path) -> bool:
    """Whether an OUTPUT_DIR is of train_net.py, not of pretraining.

    Raises:
        UserError: the folder does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected the OUTPUT_DIR of a run")
    config = folder / "config.yaml"
    return any((folder / name).exists() for name in (WRITTEN, *TRACES)) or (
        config.is_file() and b"META_ARCHITECTURE" in config.read_bytes()
    )


def read_evaluations(folders: list[Path], warn: Callable[[str], None]) -> list[Result]:
    """The evaluations in the OUTPUT_DIRs of runs of train_net.py.

    Args:
        warn: called for each skipped unfinished training or evaluation without a result.

    Raises:
        UserError: a folder without an evaluation, a broken file, or the same run twice.
    """
    results, seen = [], {}
    for folder in folders:
        if not (folder / WRITTEN).exists() and any((folder / name).exists() for name in TRACES):
            warn(f"{folder}: not evaluated yet, left out")
            continue
        record = read_record(folder)
        iteration, last = record["iteration"], record["schedule"]["iterations"]
        if iteration is not None and not is_finished(record):
            warn(f"{folder}: not finished, iteration {iteration} of {last}, left out")
            continue
        for result in _results(folder, record, warn):
            identity = result.name, result.columns, result.settings, record["seeds"]
            check_once(seen, identity, folder)
            results.append(result)
    return results


def read_record(folder: Path) -> dict:
    """The file of `record_evaluation` in an OUTPUT_DIR.

    Raises:
        UserError: the file is missing or broken.
    """
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


def is_finished(record: dict) -> bool:
    """Whether a record is of the last iteration, or of where TEST.PATIENCE ended the training."""
    iteration, last = record["iteration"], record["schedule"]["iterations"]
    return iteration is not None and (iteration >= last or record.get("ended_early") is True)


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
    results, settings = [], record["config"]
    if any(key.startswith("MODEL.RANDWIRE.") for key in settings):
        settings = LATER_KEYS | settings
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
                columns={"what": _what(record, dataset) + ("" if boxes else f", {task}")},
                values=metrics,
                settings=settings,
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
    """The paper's rows in its order, including those without runs, then all others."""
    ran = gather(
        results,
        table=lambda result: PAPERS if result.paper else OTHERS,
        # The paper's rows have no column that tells what they are.
        printed=lambda result: (result.name, result.paper or result.columns),
    )
    rows = []
    for name, paper in TABLE5.items():
        nothing = Row(PAPERS, name, {"what": ""}, [], dict.fromkeys(METRICS), paper)
        rows += [row for row in ran if row.paper == paper] or [nothing]
    return rows + [row for row in ran if not row.paper]
