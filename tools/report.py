#!/usr/bin/env python3
"""Look at a COCO evaluation: errors by kind, curves, classes, and the worst and best images.

Takes the OUTPUT_DIR of an evaluation by tools/train_net.py, or the files themselves by --json,
--images, --results and --output, which also override what OUTPUT_DIR tells.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det import UsageError
from randwire_det.run import cli
from randwire_det.tables.detection import TESTED, WRITTEN


def parse_args():
    parser = cli.parser(__doc__, "python tools/report.py output/faster_rcnn --gallery 4")
    parser.add_argument(
        "run",
        nargs="?",
        metavar="OUTPUT_DIR",
        help="of train_net.py, with config.yaml and inference/ in it",
    )
    parser.add_argument("--json", metavar="FILE", help="ground truth, COCO format")
    parser.add_argument("--images", metavar="DIR", help="folder of the images")
    parser.add_argument("--results", metavar="FILE", help="detections, COCO results format")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="where to write; of a run, OUTPUT_DIR/report, or report/NAME of several test sets",
    )
    parser.add_argument("--dataset", metavar="NAME", help="test set of the run; else its last one")
    parser.add_argument("--title", default="", help="heading of the page")
    parser.add_argument("--gallery", type=int, default=8, help="worst images to show, and best")
    return parser.parse_args()


def of_run(run: Path, dataset: str | None) -> dict:
    """What an OUTPUT_DIR tells of a test set: its files, and the heading of its report."""
    config = run / TESTED if (run / TESTED).is_file() else run / "config.yaml"
    if not config.is_file():
        raise UsageError(f"{run} has no config.yaml; give --json, --images, --results and --output")
    with cli.quiet_imports():
        from detectron2.data import MetadataCatalog

        from randwire_det.coco.datasets import check_datasets, register_coco_datasets
        from randwire_det.detection.config import read_config
        from randwire_det.detection.results import heading, result_dir
        from randwire_det.tables.detection import read_record

    cfg = read_config(str(config), [])
    cfg.OUTPUT_DIR = str(run)  # it may have been moved
    names = list(cfg.DATASETS.TEST)
    if not names:
        raise UsageError(f"{config}: DATASETS.TEST is empty, so nothing was evaluated")
    name = dataset or names[-1]
    if name not in names:
        raise UsageError(f"--dataset {name}: {run} was evaluated on {', '.join(names)}")
    register_coco_datasets(cfg, os.environ.get("DETECTRON2_DATASETS", "datasets"))
    check_datasets([name])
    metadata = MetadataCatalog.get(name)
    return {
        "json": metadata.get("json_file"),
        "images": metadata.get("image_root"),
        "results": str(result_dir(cfg, "inference", name) / "coco_instances_results.json"),
        "output": str(result_dir(cfg, "report", name)),
        **(heading(read_record(run), name) if (run / WRITTEN).exists() else {}),
    }


def main():
    args = parse_args()
    names = ("json", "images", "results", "output")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.dataset and not args.run:
        raise UsageError(f"--dataset {args.dataset} is one of an OUTPUT_DIR; give that, too")
    recorded = of_run(Path(args.run), args.dataset) if args.run and len(given) < len(names) else {}
    files = recorded | given
    missing = [f"--{name}" for name in names if not files.get(name)]
    if missing:
        raise UsageError(f"missing {', '.join(missing)}; give them, or an OUTPUT_DIR that has them")

    with cli.quiet_imports():
        from randwire_det.coco.report import write_report

    # What the run tells of its evaluation is true of its own files alone.
    own = recorded if given.keys().isdisjoint(("json", "results")) else {}
    report = write_report(
        *(files[name] for name in names),
        title=args.title or own.get("title", ""),
        paper=own.get("paper"),
        gallery=args.gallery,
    )
    print(report)


if __name__ == "__main__":
    cli.run(main)
