"""Runs of pretraining and of detection, and the rows that tools/tables.py makes of them."""

import importlib.util
import json
import statistics

import pytest
from conftest import REPO, tiny_spec

from pretrain.config import get_cfg
from randwire_det import generate
from randwire_det.coco.metrics import METRICS
from randwire_det.detection.config import read_config
from randwire_det.detection.results import record_evaluation
from randwire_det.run.checkpoint import Preprocessing, save_checkpoint

TOOL = "tables.py"
SPEC = importlib.util.spec_from_file_location("tables_tool", REPO / "tools" / TOOL)
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

THREE, THOUSAND = ["bag", "coat", "shirt"], [f"n{number:08d}" for number in range(1000)]
C109 = "RandWire-WS, C=109"
LAST = 90_000


def rows_of(*folders, warn=pytest.fail):
    return tool.read(list(folders), warn)


def ran(rows):
    return [row for row in rows if row.runs]


def spread(values):
    return pytest.approx((statistics.fmean(values), statistics.stdev(values)))


def classifier_run(folder, spec=None, *, architecture=None, classes=THREE, **keys):
    """The OUTPUT_DIR of a finished run; `keys` are its progress's, or the config's, __ for dots."""
    progress = {"epoch": 100, "iteration": 500, "top1": 50.0, "top5": 90.0}
    progress |= {key: keys.pop(key) for key in progress if key in keys}
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    for key, value in ({"INPUT__SIZE": 32, "MODEL__HEAD_CHANNELS": 16} | keys).items():
        cfg.merge_from_list([key.replace("__", "."), value])
    save_checkpoint(
        folder / "model_final.pth",
        kind="baseline" if architecture else "classifier",
        model={},  # no table needs any weights
        spec=spec,
        architecture=architecture,
        preprocessing=Preprocessing(input_size=cfg.INPUT.SIZE),
        classes=classes,
        progress=progress,
        config=cfg.dump(),
    )
    return folder


def papers_run(folder, channels, seed, **changes):
    """As the paper's runs of that C are."""
    more = {
        "classes": THOUSAND,
        "iteration": 500_400,
        "top1": 78 + seed / 10,
        "MODEL__RANDWIRE__SEED": seed,
    }
    more |= {"INPUT__SIZE": 224, "MODEL__HEAD_CHANNELS": 1280}
    more |= {"SOLVER__EPOCHS": 250 if channels == 78 else 100} | changes
    if "architecture" in more:
        return classifier_run(folder, **more)
    regime = "small" if channels == 78 else "regular"
    nodes = more.get("MODEL__RANDWIRE__NODES", 32)
    spec = generate("ws", seed=seed, regime=regime, channels=channels, nodes=nodes, k=4, p=0.75)
    return classifier_run(folder, spec, **more)


def evaluation(folder, size, top1, top5=95.0, images=50_000, weights="model_final.pth", **more):
    path = folder / weights
    row = {"weights": str(path), "size": size, "top1": top1, "top5": top5, "images": images}
    row |= more
    with (folder / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def classifier_seeds(folder):
    """Three wirings of one network, trained from three seeds, on other machines."""
    machines = [("cpu", 0, "a"), ("cuda", 4, "b"), ("cuda:1", 8, "c")]
    return [
        classifier_run(
            folder / f"seed{seed}",
            tiny_spec(seed=seed),
            top1=top1,
            top5=80.0 + seed,
            MODEL__RANDWIRE__SEED=seed,
            SEED=10 * seed,
            DEVICE=device,
            DATA__NUM_WORKERS=workers,
            DATA__ROOT=root,
            CHECKPOINT_PERIOD=float(seed),
        )
        for seed, top1, (device, workers, root) in zip(
            (1, 2, 3), (60.0, 61.5, 66.0), machines, strict=True
        )
    ]


def papers_runs(root):
    """Two classifiers of each of the paper's networks, C=154 evaluated at 320, and a ResNet-50."""
    runs = []
    for channels in (78, 109, 154):
        for seed in (1, 2):
            runs.append(papers_run(root / f"c{channels}_{seed}", channels, seed))
            if channels == 154:
                evaluation(runs[-1], 320, 81.0 + seed)
    resnet50 = {"name": "resnet50", "width": 1.0}
    return [*runs, papers_run(root / "resnet50", 0, 1, architecture=resnet50)]


def detector_run(folder, ap=39.0, *, iteration=LAST, **keys):
    """The OUTPUT_DIR of an evaluated run; `keys` are the config's, with __ for the dot.

    Its six figures are `ap`, `ap` + 1, and so on.
    """
    changes = {"OUTPUT_DIR": folder, "MODEL__WEIGHTS": f"{folder}.pth"} | keys
    overrides = [
        str(word) for key, value in changes.items() for word in (key.replace("__", "."), value)
    ]
    cfg = read_config("faster_rcnn_randwire_c109.yaml", overrides)
    metrics = {name: ap + n for n, name in enumerate(METRICS)} | {"AP-cat": ap}
    per_set = {name: {"bbox": metrics} for name in cfg.DATASETS.TEST}
    results = per_set if len(per_set) > 1 else {"bbox": metrics}
    record_evaluation(cfg, results, weights=f"{folder}, {iteration}", iteration=iteration)
    return folder


def detector_seeds(folder):
    """Three wirings, trained from three seeds, on other machines."""
    return [
        detector_run(
            folder / f"seed{seed}",
            ap,
            MODEL__RANDWIRE__SEED=seed,
            SEED=10 * seed,
            MODEL__DEVICE=device,
            DATALOADER__NUM_WORKERS=seed,
            TEST__EVAL_PERIOD=1000 * seed,
        )
        for seed, ap, device in ((1, 39.0, "cpu"), (2, 39.5, "cuda"), (3, 40.6, "cuda"))
    ]
