"""Runs as rows of a table: mean and sample std over seeds, what tells rows apart, the layout."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; of a single value there is no deviation."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        return cls(mean(values), stdev(values) if len(values) > 1 else None)

    def to_text(self, unit: float = 1, digits: int = 2) -> str:
        """As "78.15 ± 0.07", in multiples of `unit`."""
        std = "" if self.std is None else f" ± {self.std / unit:.{digits}f}"
        return f"{self.mean / unit:.{digits}f}{std}"


def grouped(results: Iterable[T], key: Callable[[T], object]) -> list[list[T]]:
    """The results of equal key, which is plain data, together, in the order of the first ones."""
    groups: dict[str, list[T]] = {}
    for result in results:
        groups.setdefault(json.dumps(key(result), sort_keys=True, default=str), []).append(result)
    return list(groups.values())


def differences(one: dict, others: list[dict]) -> list[str]:
    """The settings in which any of `others` is not as `one`: "KEY value", the value of `one`."""
    keys = sorted({key for other in others for key in other})
    return [
        f"{key} {one.get(key, 'absent')}"
        for key in keys
        if any(other.get(key) != one.get(key) for other in others)
    ]


def aligned(lines: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of cells with the first `left` columns flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = []
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line[:left], widths, strict=False)]
        cells += [cell.rjust(width) for cell, width in zip(line[left:], widths[left:], strict=True)]
        texts.append("  ".join(cells))
    return texts


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    table = [header, ["---"] * len(header), *lines]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in table]
    return [f"| {' | '.join(line)} |" for line in escaped]
