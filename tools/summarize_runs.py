#!/usr/bin/env python3
"""Print mean ± sample std over seeds of finished pretraining runs, beside the paper's figures.

Runs of one network and recipe that differ only in seeds (and in paths, device, workers, periods)
make a row, under the heading of the paper's table that it belongs to. The paper's figures stand
beside a row of 1000 classes with the paper's epochs and test size. Table 4 takes evaluations of the
C=154 runs at 320 pixels: pretrain_imagenet.py --eval-only writes them to evaluations.jsonl.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.run import cli

with cli.quiet_imports():
    from pretrain.paper import Paper
    from pretrain.summary import Row, read_runs, summarize
    from randwire_det.printing import one_line, printable
    from randwire_det.tables.spread import aligned, markdown

HEADER = (
    *("network", "test size", "epochs", "runs", "top-1, %", "paper", "top-5, %", "paper"),
    *("multiply-adds", "paper", "params", "paper"),
)


def to_json(rows: list[Row]) -> str:
    """A list of objects; `n` is the number of runs, `paper` null where there is none to compare."""
    return json.dumps([asdict(row) | {"n": len(row.runs)} for row in rows], indent=1)


def to_markdown(rows: list[Row]) -> str:
    """A heading and a table for each of the paper's tables that has rows."""
    parts = []
    for table, lines in _tables(rows):
        parts += [f"### {table}", "", *markdown(HEADER, lines), ""]
    return "\n".join(parts).rstrip()


def to_text(rows: list[Row]) -> str:
    """Aligned columns under the name of each of the paper's tables that has rows."""
    tables = _tables(rows)
    header, *texts = aligned([HEADER, *(line for _, lines in tables for line in lines)])
    parts = []
    for table, lines in tables:
        mine, texts = texts[: len(lines)], texts[len(lines) :]
        parts += [table, header, *mine, ""]
    return "\n".join(parts).rstrip()


def _tables(rows: list[Row]) -> list[tuple[str, list[tuple[str, ...]]]]:
    names = dict.fromkeys(row.table for row in rows)
    return [(name, [_cells(row) for row in rows if row.table == name]) for name in names]


def _cells(row: Row) -> tuple[str, ...]:
    unit, letter = (1e9, "G") if row.macs.mean >= 1e9 else (1e6, "M")
    paper = row.paper or Paper("", 0, "-", "-", "-", "-")
    return (
        *(row.name, str(row.size), str(row.epochs), str(len(row.runs))),
        *(row.top1.to_text(), paper.top1, row.top5.to_text(), paper.top5),
        *(f"{row.macs.to_text(unit)} {letter}", paper.macs),
        *(f"{row.params.to_text(1e6)} M", paper.params),
    )


FORMATS = {"text": to_text, "markdown": to_markdown, "json": to_json}


def parse_args():
    parser = cli.parser(
        __doc__,
        "python tools/summarize_runs.py output/pretrain/randwire_ws_c109_seed*"
        " output/pretrain/resnet50 --format markdown",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="OUTPUT_DIR of a run")
    parser.add_argument("--format", choices=FORMATS, default="text", help="of what is printed")
    return parser.parse_args()


def main():
    args = parse_args()
    results = read_runs(args.runs, warn=lambda line: print(one_line(line), file=sys.stderr))
    print(printable(FORMATS[args.format](summarize(results))))


if __name__ == "__main__":
    cli.run(main)
