#!/usr/bin/env python3
"""Print the paper's Tables 1 to 5, and finished runs as rows of them beside the paper's figures.

Takes the OUTPUT_DIRs of tools/pretrain_imagenet.py (Tables 2 to 4, accuracy on ImageNet) and of
tools/train_net.py (Table 5, AP on COCO). Runs that differ only in seeds (and in paths, device,
workers, periods) make a row, mean ± sample std. The paper's figures stand beside a row that trains
and tests the paper's network as the paper does; other runs stand in tables of their own.

Table 4 takes evaluations of the C=154 runs at 320 pixels: pretrain_imagenet.py --eval-only writes
them to evaluations.jsonl.

--table prints tables whole: 1, the architectures; 2 to 4, every network of the paper, with the
parameters and multiply-adds counted here if torchvision or timm builds it (pip install
'randwire_det[timm]'); 5 with all its rows. Counts that differ from the paper's by more than 5 % say
by how much. Networks without a finished run are "not run". Without --table, runs are printed in the
tables they belong to; without runs, too, all five tables.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det import UserError
from randwire_det.printing import one_line, printable
from randwire_det.run import cli
from randwire_det.tables import detection
from randwire_det.tables.rendering import FORMATS
from randwire_det.tables.rows import Row

TABLES = (1, 2, 3, 4, 5)


def parse_args():
    parser = cli.parser(
        __doc__,
        "python tools/tables.py output/pretrain/randwire_ws_c109_seed* output/pretrain/resnet50"
        " output/faster_rcnn_c109_seed* --format markdown",
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="OUTPUT_DIR", help="of a run")
    parser.add_argument(
        "--table",
        type=cli.several(int, TABLES),
        default=argparse.SUPPRESS,  # two defaults, which the help tells in words
        metavar="1,2,3,4,5",
        help="print these whole (default: the rows of the runs; all without runs)",
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="of what is printed")
    args = parser.parse_args()
    args.table = getattr(args, "table", [] if args.runs else list(TABLES))
    return args


def read(folders: list[Path], warn: Callable[[str], None]) -> list[Row]:
    """Rows of the runs, those of pretraining first; `warn` is called for what is left out."""
    detectors = [folder for folder in folders if detection.is_detection(folder)]
    classifiers = [folder for folder in folders if folder not in detectors]
    rows = []
    if classifiers:
        with cli.quiet_imports():
            from pretrain.baselines import baseline_complexity
            from randwire_det.tables import pretraining

        results = pretraining.read_runs(classifiers, warn, baseline_complexity)
        if not (results or detectors):
            raise UserError(f"no finished run to summarize: no folder holds {pretraining.FINAL}")
        rows += pretraining.summarize(results)
    if detectors or not folders:
        rows += detection.fill(detection.read_evaluations(detectors, warn))
    return rows


def main():
    args = parse_args()
    rows = read(args.runs, warn=lambda line: print(one_line(line), file=sys.stderr))
    stages = []
    if args.table:
        from randwire_det.tables import rivals

        stages = rivals.architectures() if 1 in args.table else []
        whole = [f"Table {number}" for number in args.table if number in (2, 3, 4)]
        classifiers = [row for row in rows if "top1" in row.values]
        detectors = [row for row in rows if "top1" not in row.values]
        rows = rivals.whole_tables(whole, classifiers)
        rows += detectors if 5 in args.table or args.runs else []
    print(printable(FORMATS[args.format](rows, stages)))


if __name__ == "__main__":
    cli.run(main)
