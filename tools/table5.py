#!/usr/bin/env python3
"""Print Table 5 of the paper, AP on COCO, with the results of runs beside the paper's figures.

Takes the OUTPUT_DIRs of tools/train_net.py. Runs that differ only in seeds (and in paths, device,
workers, periods) make a row, mean ± sample std. Runs of another network, detector, data set or
schedule than the paper's stand in a table of their own. Without any OUTPUT_DIR the table holds the
paper's figures alone.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.coco.metrics import METRICS
from randwire_det.printing import one_line, printable
from randwire_det.run import cli
from randwire_det.tables.spread import aligned, markdown
from randwire_det.tables.table5 import Row, fill, read_evaluations

PAPERS, OTHERS = "Table 5: here / paper", "Other runs"


def to_json(rows: list[Row]) -> str:
    """A list of objects; `n` is the number of runs, `paper` null where there is none to compare."""
    return json.dumps([asdict(row) | {"n": len(row.runs)} for row in rows], indent=1)


def to_markdown(rows: list[Row]) -> str:
    parts = []
    for title, header, lines in _tables(rows):
        parts += [f"### {title}", "", *markdown(header, lines), ""]
    return "\n".join(parts).rstrip()


def to_text(rows: list[Row]) -> str:
    parts = []
    for title, header, lines in _tables(rows):
        parts += [title, *aligned([header, *lines], left=len(header) - 1 - len(METRICS)), ""]
    return "\n".join(parts).rstrip()


def _tables(rows: list[Row]) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Title, header and lines of the paper's table, and of another where there are other runs."""
    papers = [(row.name, _runs(row), *_cells(row)) for row in rows if row.paper]
    others = [(row.name, row.what, _runs(row), *_cells(row)) for row in rows if not row.paper]
    tables = [(PAPERS, ("network", "runs", *METRICS), papers)]
    if others:
        tables.append((OTHERS, ("network", "what it is", "runs", *METRICS), others))
    return tables


def _runs(row: Row) -> str:
    return str(len(row.runs)) if row.runs else "not run"


def _cells(row: Row) -> list[str]:
    ours = {
        name: spread.to_text(digits=1) if spread else "-" for name, spread in row.metrics.items()
    }
    if not row.paper:
        return list(ours.values())
    return [f"{ours[name]} / {row.paper[name]}" for name in METRICS]


FORMATS = {"text": to_text, "markdown": to_markdown, "json": to_json}


def parse_args():
    parser = cli.parser(
        __doc__, "python tools/table5.py output/faster_rcnn_c109_seed* --format markdown"
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="OUTPUT_DIR", help="of a run of train_net.py"
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="of what is printed")
    return parser.parse_args()


def main():
    args = parse_args()
    results = read_evaluations(args.runs, warn=lambda line: print(one_line(line), file=sys.stderr))
    print(printable(FORMATS[args.format](fill(results))))


if __name__ == "__main__":
    cli.run(main)
