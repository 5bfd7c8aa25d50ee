"""Finished runs as rows of the paper's Tables 2 to 4: mean and sample std over seeds.

A row is one network, recipe, data set and test size. Rows differ in any config key except seeds and
keys that do not affect the result (IRRELEVANT), in the classes, the number of iterations, or the
digest of the training set (its path does not identify it).
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from ..config import same_result
from ..config.network_keys import stored_values
from ..errors import UserError
from ..run.checkpoint import load_checkpoint
from ..spec.complexity import HEAD_CHANNELS, Complexity, complexity
from .detection import WRITTEN
from .names import randwire_name, spec_keys, wiring_settings
from .paper import BASELINE_NAMES, IMAGENET_CLASSES, IMAGENET_VAL, PAPER
from .rows import Result, Row, check_once, gather

FINAL = "model_final.pth"  # in an OUTPUT_DIR
TRACES = ("checkpoint_*.pth", "log.txt", "evaluations.jsonl")  # of a run without a FINAL
# Config keys, or their beginnings, in which the runs of a row may differ. SOLVER.ACCUMULATE is not
# among them: batch normalisation sees the parts. The test size is a column of its own.
IRRELEVANT = (*same_result.PRETRAINING, "SEED", "INPUT.TEST_SIZE")


def read_runs(
    folders: list[Path],
    warn: Callable[[str], None],
    count_baseline: Callable[..., Complexity],
) -> list[Result]:
    """The results in the OUTPUT_DIRs of runs of pretrain_imagenet.py.

    Args:
        warn: called for each skipped unfinished run or evaluation of other weights.
        count_baseline: `pretrain.baselines.baseline_complexity`, which this layer does not import.

    Raises:
        UserError: a folder that is not a run, a broken file, or the same run twice.
    """
    results, seen = [], {}
    for folder in folders:
        if not (folder / FINAL).exists():
            if not any(any(folder.glob(trace)) for trace in TRACES):
                raise UserError(
                    f"{folder}: holds no {FINAL} and no {WRITTEN}; expected the OUTPUT_DIR of a run"
                    " of pretrain_imagenet.py, or of a run of train_net.py that came to an"
                    " evaluation"
                )
            warn(f"{folder}: not finished, left out")
            continue
        identity, found = _read_run(folder, warn, count_baseline)
        check_once(seen, identity, folder)
        results += found
    return results


def _read_run(
    folder: Path, warn: Callable[[str], None], count_baseline: Callable[..., Complexity]
) -> tuple[object, list[Result]]:
    """What identifies the run, and its results, beginning with training's final evaluation."""
    path = folder / FINAL
    checkpoint = load_checkpoint(path, kinds=("classifier", "baseline"))
    config = _config(path, checkpoint.config)
    spec, architecture = checkpoint.spec, checkpoint.architecture
    classes, progress = checkpoint.classes, checkpoint.progress
    if not (classes and isinstance(classes, list) and isinstance(progress, dict)):
        raise UserError(f"{path}: holds no classes or no progress; expected the end of a training")
    epochs, head = config["SOLVER.EPOCHS"], config["MODEL.HEAD_CHANNELS"]

    settings = {key: value for key, value in config.items() if not key.startswith(IRRELEVANT)}
    settings["iterations"] = progress.get("iteration")
    settings["training set"] = str(progress.get("train_digest"))[:8]
    digest = hashlib.sha256("\n".join(map(str, classes)).encode()).hexdigest()
    settings["classes"] = f"{len(classes)}, {classes[0]} to {classes[-1]}, digest {digest[:8]}"
    for key in spec_keys():  # the spec itself tells it, and only of a RandWire
        settings.pop(key, None)
    if spec:
        settings |= wiring_settings(spec)
        name = randwire_name(spec) + ("" if head == HEAD_CHANNELS else f", head {head}")
    else:
        name = _baseline_name(**architecture)
    seeds = [config["SEED"], spec and [spec.provenance.get("seed"), spec.digest]]

    def result(size, row, where, own, images=IMAGENET_VAL):
        if spec:
            count = complexity(spec, size, len(classes), head)
        else:
            count = count_baseline(**architecture, input_size=size, num_classes=len(classes))
        paper = PAPER.get((name, size))
        theirs = paper and (paper.epochs, IMAGENET_CLASSES, IMAGENET_VAL)
        if (epochs, len(classes), images) != theirs:
            paper = None
        values = {key: _percent(row.get(key), f"{where}: {key}") for key in ("top1", "top5")}
        values |= {"macs": count.macs, "params": count.params}
        return Result(folder, name, {"size": size, "epochs": epochs}, values, own, paper)

    size = config["INPUT.TEST_SIZE"]
    results = [result(size, progress, path, settings)]
    for where, row in _evaluations(folder, warn).items():
        if row["size"] != size:
            test = {"INPUT.TEST_RESIZE": row.get("resize"), "test images": row["images"]}
            results.append(result(row["size"], row, where, settings | test, row["images"]))
    return [settings, seeds], results


def _config(path: Path, text: object) -> dict:
    """The flat config of a run; INPUT.TEST_SIZE defaults to INPUT.SIZE."""
    try:
        values = stored_values(text)
    except (UserError, AttributeError):
        raise UserError(
            f"{path}: its config cannot be read; expected the end of a training"
        ) from None
    if values.get("INPUT.TEST_SIZE") is None:
        values["INPUT.TEST_SIZE"] = values.get("INPUT.SIZE")
    for key in ("SEED", "SOLVER.EPOCHS", "MODEL.HEAD_CHANNELS", "INPUT.TEST_SIZE"):
        if type(values.get(key)) is not int:
            raise UserError(f"{path}: {key} of its config is {values.get(key)}, expected a number")
    return values


def _baseline_name(name: str, width: float) -> str:
    return BASELINE_NAMES.get(name, name) + ("" if width == 1 else f", width {width:g}")


def _evaluations(folder: Path, warn: Callable[[str], None]) -> dict[str, dict]:
    """{file and line: row} of the run's final weights, the latest of each size."""
    path, latest = folder / "evaluations.jsonl", {}
    if not path.exists():
        return {}
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), start=1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
            weights, size, images = Path(row["weights"]), row["size"], row["images"]
        except (ValueError, LookupError, TypeError):
            raise UserError(
                f"{where}: expected an object with weights, size, top1, top5 and images"
            ) from None
        if not (type(size) is type(images) is int and min(size, images) > 0):
            raise UserError(f"{where}: size {size!r}, images {images!r}: expected numbers >= 1")
        # Paths may be relative to another folder, so it is the run's name that tells.
        if (weights.parent.name, weights.name) == (folder.resolve().name, FINAL):
            latest[size] = where, row
        else:
            warn(f"{where}: is of {weights}, not of this run's {FINAL}; left out")
    return dict(latest.values())


def _percent(value: object, where: str) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 100:
        raise UserError(f"{where} is {value!r}, expected a percentage")
    return value


def summarize(results: list[Result]) -> list[Row]:
    """The paper's rows in the order of its tables, then all others."""
    rows = gather(
        results,
        table=lambda result: result.paper.table if result.paper else "other",
        printed=lambda result: (result.name, result.columns),
    )
    order = list(PAPER.values())
    return sorted(rows, key=lambda row: order.index(row.paper) if row.paper else len(order))
