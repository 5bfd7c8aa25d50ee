"""Rows as text: aligned columns, Markdown, JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

from ..coco.metrics import METRICS
from .paper import Paper
from .rows import Row, Spread

ACCURACIES = (  # of Tables 2 to 4
    *("network", "test size", "epochs", "runs", "top-1, %", "paper", "top-5, %", "paper"),
    *("multiply-adds", "paper", "params", "paper"),
)


class Table(NamedTuple):
    """A heading, and lines of cells; the first `left` columns are aligned left."""

    title: str
    header: tuple[str, ...]
    lines: list[tuple[str, ...]]
    left: int = 1


TABLE1 = "Table 1"
ARCHITECTURES = ("stage", "output", "small regime, C=78", "regular regime, C=109")


def to_json(rows: list[Row], stages: Sequence[tuple[str, ...]] = ()) -> str:
    """A list of objects; `n` is the number of runs, `paper` the paper's row or null.

    `differs` has the counts that are off the paper's by more than 5 %: {"params": -0.11} means
    11 % less.

    Args:
        stages: the lines of Table 1, of `rivals.architectures`.
    """
    objects = [{"table": TABLE1, **dict(zip(ARCHITECTURES, line, strict=True))} for line in stages]
    for row in rows:
        plain = asdict(row)
        columns, values = plain.pop("columns"), plain.pop("values")
        if tuple(values) == METRICS:
            values = {"metrics": values}
        elif row.paper:
            values["differs"] = {
                key: round(off, 4)
                for key in ("macs", "params")
                if (off := _difference(row.values[key], getattr(row.paper, key)))
            }
        objects.append(plain | columns | values | {"n": len(row.runs)})
    return json.dumps(objects, indent=1)


def to_markdown(rows: list[Row], stages: Sequence[tuple[str, ...]] = ()) -> str:
    """A heading and a table for each of the paper's tables that has rows, and for other runs."""
    parts = []
    for title, header, lines, _ in _tables(rows, stages):
        parts += [f"### {title}", ""]
        for line in (header, ["---"] * len(header), *lines):
            cells = [cell.replace("|", "\\|") for cell in line]
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts).rstrip()


def to_text(rows: list[Row], stages: Sequence[tuple[str, ...]] = ()) -> str:
    """Aligned columns, equally wide in tables with the same header."""
    tables, parts = _tables(rows, stages), []
    for title, header, lines, left in tables:
        alike = [line for other in tables if other.header == header for line in other.lines]
        texts = aligned([header, *lines, *alike], left)
        parts += [title, *texts[: 1 + len(lines)], ""]
    return "\n".join(parts).rstrip()


FORMATS = {"text": to_text, "markdown": to_markdown, "json": to_json}


def _tables(rows: list[Row], stages: Sequence[tuple[str, ...]]) -> list[Table]:
    tables = [Table(TABLE1, ARCHITECTURES, list(stages), left=4)] if stages else []
    for title in dict.fromkeys(row.table for row in rows):
        mine = [row for row in rows if row.table == title]
        if tuple(mine[0].values) != METRICS:
            header = (*ACCURACIES, "counted from") if "note" in mine[0].columns else ACCURACIES
            tables.append(Table(title, header, [_accuracies(row) for row in mine]))
        elif mine[0].paper:
            lines = [(row.name, *_precisions(row)) for row in mine]
            tables.append(Table(title, ("network", "runs", *METRICS), lines))
        else:
            header = ("network", "what it is", "runs", *METRICS)
            lines = [(row.name, row.columns["what"], *_precisions(row)) for row in mine]
            tables.append(Table(title, header, lines, left=2))
    return tables


def _accuracies(row: Row) -> tuple[str, ...]:
    macs = row.values["macs"]
    unit, letter = (1e9, "G") if macs and macs.mean >= 1e9 else (1e6, "M")
    paper = row.paper or Paper("", 0, "-", "-", "-", "-")
    return (
        *(row.name, str(row.columns["size"]), str(row.columns["epochs"])),
        str(len(row.runs)) if row.runs else "not run",
        *(_text(row.values["top1"]), paper.top1, _text(row.values["top5"]), paper.top5),
        *(_text(macs, unit, letter, paper.macs), paper.macs),
        *(_text(row.values["params"], 1e6, "M", paper.params), paper.params),
        *([row.columns["note"]] if "note" in row.columns else []),
    )


def _text(spread: Spread | None, unit: float = 1, letter: str = "", paper: str = "-") -> str:
    """A value with its unit; the difference to the paper's is added if it is above 5 %."""
    if spread is None:
        return "-"
    text = f"{spread.to_text(unit)} {letter}".rstrip()
    difference = _difference(spread, paper)
    return f"{text} ({100 * difference:+.0f} %)" if difference else text


def _difference(spread: Spread | None, paper: str) -> float | None:
    """The relative difference of a count to the paper's, "4.0 ± 0.09 G"; None up to 5 %."""
    if spread is None or paper == "-":
        return None
    number, *_, unit = paper.split()
    difference = spread.mean / (float(number) * {"M": 1e6, "G": 1e9}[unit]) - 1
    return difference if abs(difference) > 0.05 else None


def _precisions(row: Row) -> list[str]:
    """The number of runs, then AP; "here / paper" if the paper has the row."""
    cells = [str(len(row.runs)) if row.runs else "not run"]
    for name, spread in row.values.items():
        ours = spread.to_text(digits=1) if spread else "-"
        cells.append(f"{ours} / {row.paper[name]}" if row.paper else ours)
    return cells


def aligned(lines: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of cells, the first `left` columns aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = []
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line[:left], widths, strict=False)]
        cells += [cell.rjust(width) for cell, width in zip(line[left:], widths[left:], strict=True)]
        texts.append("  ".join(cells))
    return texts
