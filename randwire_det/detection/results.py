"""Records an evaluation: a log beside the paper's Table 5, results.json and an HTML report.

OUTPUT_DIR/inference/results.json holds the latest evaluation, for tools/tables.py. AP is in
percent, null if there is nothing to measure. Layout (version 1):

    version, network, detector      1, and the names in tables
    schedule                        iterations, images_per_batch, train (data sets)
    weights, iteration              what was evaluated; iteration is null if unknown
    ended_early                     true where TEST.PATIENCE ended the training there
    seeds                           values in which the runs of a row may differ
    config                          {key: value} in which all runs of a row agree
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
# Keys in which the runs of a row may differ. MODEL.WEIGHTS is compared as "given" or "none".
IRRELEVANT = (*same_result.DETECTION, "SEED")
LINE = 100  # characters


def result_dir(cfg: CfgNode, kind: str, dataset: str) -> Path:
    """The folder of a test set's files of a kind, "inference" or "report", in OUTPUT_DIR."""
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
        results: of `DefaultTrainer.test`: {task: {metric: percent}} for one test set,
            {data set: {task: ...}} for several.
        weights: what was evaluated.
        iteration: finished iterations of the training; None if unknown.
        trained_with: YAML of the training's config, whose schedule is recorded instead of `cfg`'s.

    Raises:
        UserError: the file could not be written; the old one is unchanged.
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


def mark_as_ended_early(cfg: CfgNode) -> None:
    """Note in OUTPUT_DIR/inference/results.json that the training ended with that evaluation."""
    folder = Path(cfg.OUTPUT_DIR)
    text = json.dumps(read_record(folder) | {"ended_early": True}, indent=1, allow_nan=False)
    replace_file(folder / WRITTEN, lambda file: file.write(text.encode()))


def report_evaluation(cfg: CfgNode) -> None:
    """Write OUTPUT_DIR/report/report.html on the boxes of the latest evaluation, for each test set.

    If a report cannot be written, the reason is only logged: the results are saved already.
    """
    for name in dict.fromkeys(cfg.DATASETS.TEST):
        record, metadata = read_record(Path(cfg.OUTPUT_DIR)), MetadataCatalog.get(name)
        if "bbox" not in record["datasets"][name]["tasks"] or not metadata.get("image_root"):
            logger.warning(
                f"{name}: no report, since no boxes were measured or there is no image folder"
            )
            continue
        from ..coco.report import write_report  # imports Matplotlib, half a second

        try:
            page = write_report(
                metadata.json_file,
                metadata.image_root,
                result_dir(cfg, "inference", name) / "coco_instances_results.json",
                result_dir(cfg, "report", name),
                **heading(record, name),
            )
        except UserError as error:
            logger.warning(f"{name}: no report: {error}")
        else:
            logger.info(f"Report of the evaluation: {page}")


def heading(record: dict, dataset: str) -> dict:
    """The title and the paper's row for `write_report`; {} if the data set was not evaluated.

    Args:
        record: as `record_evaluation` writes it.
    """
    if dataset not in record["datasets"]:
        return {}
    return {
        "title": f"{record['network']}, {record['detector']}, {dataset}",
        "paper": record["datasets"][dataset]["paper"],
    }


def _as_trained(cfg: CfgNode, text: str | None) -> CfgNode:
    """`cfg` with the values of the training's config, YAML, except for the TEST keys.

    The config of an evaluation may have another schedule than the training's.
    """
    try:
        theirs = load_yaml(text or "")
    except UserError:
        return cfg
    if not isinstance(theirs, dict):  # in mid-training, or an old file without a config
        return cfg
    trained, ours = cfg.clone(), flat(cfg)
    own = ("DATASETS.COCO", *spec_keys())  # the weights fit `cfg`'s wiring, whatever its keys
    for key, value in flat(theirs).items():
        if key in ours and "TEST" not in key and key not in own:
            *path, last = key.split(".")
            node = trained
            for part in path:
                node = node[part]
            node[last] = value
    return trained


def _settings(cfg: CfgNode, spec: NetworkSpec | None) -> dict:
    """{"seeds": values in which runs of a row may differ, "config": values they share}."""
    in_spec = spec_keys()
    left_out = (*IRRELEVANT, "MODEL.RESNETS." if spec else RANDWIRE)
    settings = {
        # JSON has no infinity, a possible value of CLIP_GRADIENTS.NORM_TYPE.
        key: str(value) if isinstance(value, float) and math.isinf(value) else value
        for key, value in flat(cfg).items()
        if not key.startswith(left_out) and key not in in_spec
    }
    # A path does not identify the weights, so only their presence is compared.
    settings["MODEL.WEIGHTS"] = "given" if cfg.MODEL.WEIGHTS else "none"
    seeds = {"SEED": cfg.SEED, "MODEL.WEIGHTS": cfg.MODEL.WEIGHTS}
    if spec:
        settings |= wiring_settings(spec)
        seeds["wiring"] = [spec.provenance.get("seed"), spec.digest]
    return {"seeds": seeds, "config": settings}


def _tasks(results: dict) -> dict:
    """Split detectron2's {task: {name: AP}} into {task: {"metrics": ..., "classes": ...}}."""
    tasks = {}
    for task, values in results.items():
        # JSON has no NaN.
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
            logger.warning(f"{name}{when}: nothing was measured: no annotations or no images")
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
    """A table of the classes, best first, column by column."""
    ranked = sorted(classes, key=lambda name: -1 if classes[name] is None else classes[name])
    cells = aligned([[name, _one_decimal(classes[name])] for name in reversed(ranked)])
    height = math.ceil(len(cells) / max(1, LINE // (len(cells[0]) + 4)))
    return "\n".join("    ".join(cells[row::height]) for row in range(height))


def _one_decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
