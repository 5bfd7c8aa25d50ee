"""What an evaluation leaves behind: Table 5's row beside the paper's, classes, a file, a report.

OUTPUT_DIR/inference/results.json holds the latest evaluation, for tools/tables.py. AP is in
percent, null where there is nothing to measure. Layout (version 1):

    version, network, detector      1, and what they are called in tables
    schedule                        iterations, images_per_batch, train (data sets)
    weights, iteration              what was evaluated; null where the iteration is not known
    seeds                           what the runs of a row differ in
    config                          {key: value} that tells rows apart
    datasets                        {name: {"paper": row of Table 5 or null, "tasks": {"bbox":
                                    {"metrics": {"AP": ...}, "classes": {"person": ...}}}}}
"""

import json
import logging
import math
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..config import same_result
from ..config.files import flat
from ..config.network_keys import spec_from_config
from ..errors import UserError
from ..run.files import replace_file
from ..spec.spec import NetworkSpec
from ..strict import load_yaml
from ..tables.detection import VERSION, WRITTEN, read_record
from ..tables.names import (
    RANDWIRE,
    detector_name,
    network_name,
    paper_row,
    spec_keys,
    wiring_settings,
)
from ..tables.rendering import aligned
from .checks import builds_randwire

logger = logging.getLogger(__name__)
# In these the runs of a row may differ; whether there were weights takes the place of their path.
IRRELEVANT = (*same_result.DETECTION, "SEED")
LINE = 100  # characters


def inference_dir(cfg: CfgNode, dataset: str) -> Path:
    """Where the detections of a test set go: of several, each has a folder of its own."""
    return _folder(cfg, "inference", dataset)


def report_dir(cfg: CfgNode, dataset: str) -> Path:
    """Where the report of a test set goes, in the same way."""
    return _folder(cfg, "report", dataset)


def _folder(cfg: CfgNode, kind: str, dataset: str) -> Path:
    several = len(cfg.DATASETS.TEST) > 1
    return Path(cfg.OUTPUT_DIR, kind, dataset if several else "")


def record_evaluation(
    cfg: CfgNode,
    results: dict,
    *,
    weights: str,
    iteration: int | None,
    trained_with: str | None = None,
) -> None:
    """Log the numbers of an evaluation, and write them to OUTPUT_DIR/inference/results.json.

    Args:
        results: what `DefaultTrainer.test` returns: {task: {metric: percent}} of one test set,
            {data set: ...} of several.
        weights: what was evaluated.
        iteration: of the training, counted from 1; None where it is not known.
        trained_with: YAML of the training's config, which counts then, and not `cfg`'s schedule.

    Raises:
        UserError: the file could not be written; the one before is as it was.
    """
    names = list(dict.fromkeys(cfg.DATASETS.TEST))
    if not names:
        return
    if len(names) == 1:
        results = {names[0]: results}
    trained = _as_trained(cfg, trained_with)
    spec = spec_from_config(trained.MODEL.RANDWIRE) if builds_randwire(trained) else None
    network = network_name(trained, spec)
    datasets = {
        name: {"paper": paper_row(trained, network, name), "tasks": _tasks(results.get(name, {}))}
        for name in names
    }
    solver = trained.SOLVER
    record = {
        "version": VERSION,
        "network": network,
        "detector": detector_name(trained),
        "schedule": {
            "iterations": solver.MAX_ITER,
            "images_per_batch": solver.IMS_PER_BATCH,
            "train": list(trained.DATASETS.TRAIN),
        },
        "weights": weights,
        "iteration": iteration,
        **_settings(trained, spec),
        "datasets": datasets,
    }
    _log(record)
    text = json.dumps(record, indent=1, allow_nan=False)
    path = Path(cfg.OUTPUT_DIR, WRITTEN)
    replace_file(path, lambda file: file.write(text.encode()))


def report_evaluation(cfg: CfgNode) -> None:
    """Write OUTPUT_DIR/report/report.html of the latest evaluation, of each test set's boxes.

    A reason why there cannot be one is logged: the numbers are safe by then.
    """
    from ..coco.report import write_report  # and with it Matplotlib

    for name in dict.fromkeys(cfg.DATASETS.TEST):
        record, metadata = read_record(Path(cfg.OUTPUT_DIR)), MetadataCatalog.get(name)
        if "bbox" not in record["datasets"][name]["tasks"] or not metadata.get("image_root"):
            logger.warning(
                f"{name}: no report, since no boxes were measured or there is no image folder"
            )
            continue
        try:
            page = write_report(
                metadata.json_file,
                metadata.image_root,
                inference_dir(cfg, name) / "coco_instances_results.json",
                report_dir(cfg, name),
                **heading(record, name),
            )
        except UserError as error:
            logger.warning(f"{name}: no report: {error}")
        else:
            logger.info(f"A look at the evaluation: {page}")


def heading(record: dict, dataset: str) -> dict:
    """Title and paper's row of a report, for `write_report`; none of a set that was not tested.

    Args:
        record: what `record_evaluation` wrote.
    """
    if dataset not in record["datasets"]:
        return {}
    return {
        "title": f"{record['network']}, {record['detector']}, {dataset}",
        "paper": record["datasets"][dataset]["paper"],
    }


def _as_trained(cfg: CfgNode, text: str | None) -> CfgNode:
    """The config, in all that is no matter of testing as the YAML of the training's tells it.

    An evaluation may be given a config of another schedule than the training had.
    """
    try:
        theirs = load_yaml(text or "")
    except UserError:
        return cfg
    if not isinstance(theirs, dict):  # in mid-training, or of a file from before they held a config
        return cfg
    trained, ours = cfg.clone(), flat(cfg)
    own = ("DATASETS.COCO", *spec_keys())  # the weights fit this wiring, whatever its keys
    for key, value in flat(theirs).items():
        if key in ours and "TEST" not in key and key not in own:
            *path, last = key.split(".")
            node = trained
            for part in path:
                node = node[part]
            node[last] = value
    return trained


def _settings(cfg: CfgNode, spec: NetworkSpec | None) -> dict:
    """{"seeds": what the runs of a row differ in, "config": what they have in common}."""
    in_spec = spec_keys()
    left_out = (*IRRELEVANT, "MODEL.RESNETS." if spec else RANDWIRE)
    settings = {
        # JSON has no infinity, which is a norm to clip gradients by.
        key: str(value) if isinstance(value, float) and math.isinf(value) else value
        for key, value in flat(cfg).items()
        if not key.startswith(left_out) and key not in in_spec
    }
    # From random weights or from others: from which others, a path does not tell.
    settings["MODEL.WEIGHTS"] = "given" if cfg.MODEL.WEIGHTS else "none"
    seeds = {"SEED": cfg.SEED, "MODEL.WEIGHTS": cfg.MODEL.WEIGHTS}
    if spec:
        settings |= wiring_settings(spec)
        seeds["wiring"] = [spec.provenance.get("seed"), spec.digest]
    return {"seeds": seeds, "config": settings}


def _tasks(results: dict) -> dict:
    """{"bbox": {"metrics": ..., "classes": ...}} of what detectron2 has in one dict of a task."""
    tasks = {}
    for task, values in results.items():
        # JSON has no NaN: None stands for it.
        plain = {key: None if math.isnan(value) else float(value) for key, value in values.items()}
        classes = {key for key in plain if key.startswith("AP-")}
        tasks[task] = {
            "metrics": {key: value for key, value in plain.items() if key not in classes},
            "classes": {
                key.removeprefix("AP-"): value for key, value in plain.items() if key in classes
            },
        }
    return tasks


def _log(record: dict) -> None:
    ours, last = f"{record['network']}, {record['detector']}", record["schedule"]["iterations"]
    when = f", iteration {record['iteration']} of {last}" if record["iteration"] else ""
    for name, entry in record["datasets"].items():
        if not entry["tasks"]:
            logger.warning(f"{name}{when}: nothing was measured: no annotations, or no image")
        for task, measured in entry["tasks"].items():
            metrics, rows = measured["metrics"], {ours: measured["metrics"]}
            if entry["paper"] and task == "bbox":
                rows["the paper"] = entry["paper"]
            lines = [
                [row, *(_one_decimal(ap.get(key)) for key in metrics)] for row, ap in rows.items()
            ]
            text = "\n".join(aligned([["", *metrics], *lines]))
            if measured["classes"]:
                text += f"\nAP of each class:\n{_in_columns(measured['classes'])}"
            logger.info(f"{name}, {task}, in percent{when}:\n{text}")


def _in_columns(classes: dict[str, float | None]) -> str:
    """The best first, down the columns."""
    ranked = sorted(classes, key=lambda name: -1 if classes[name] is None else classes[name])
    cells = aligned([[name, _one_decimal(classes[name])] for name in reversed(ranked)])
    height = math.ceil(len(cells) / max(1, LINE // (len(cells[0]) + 4)))
    return "\n".join("    ".join(cells[row::height]) for row in range(height))


def _one_decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
