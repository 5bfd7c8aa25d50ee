"""Runs as rows of a table: mean and sample std over seeds, and the settings that differ."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from ..errors import UserError
from .paper import Paper


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; the latter is None for a single value."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        return cls(mean(values), stdev(values) if len(values) > 1 else None)

    def to_text(self, unit: float = 1, digits: int = 2) -> str:
        """As "78.15 ± 0.07", in multiples of `unit`."""
        std = "" if self.std is None else f" ± {self.std / unit:.{digits}f}"
        return f"{self.mean / unit:.{digits}f}{std}"


@dataclass(frozen=True)
class Result:
    """One run, tested in one way.

    Attributes:
        name: of the network, including every difference to the paper's.
        columns: settings with their own column, such as the test size.
        values: measured or counted; None if there is nothing to measure.
        settings: equal for all results of a row.
        paper: the paper's row, if data set, schedule and test are the paper's.
    """

    run: Path
    name: str
    columns: dict
    values: dict[str, float | None]
    settings: dict
    paper: Paper | dict[str, float] | None


@dataclass(frozen=True)
class Row:
    """A line of the table headed `table`; a row of the paper without a run has no `runs`."""

    table: str
    name: str
    columns: dict
    runs: list[str]
    values: dict[str, Spread | None]
    paper: Paper | dict[str, float] | None


def check_once(seen: dict[str, Path], identity: object, folder: Path) -> None:
    """Record in `seen` which run is in `folder`.

    Args:
        identity: plain data that identifies the run.

    Raises:
        UserError: the same run was recorded before.
    """
    key = _key(identity)
    if key in seen:
        raise UserError(
            f"{folder} and {seen[key]} are of the same seeds and config, so one run would count"
            " twice: leave one of them out"
        )
    seen[key] = folder


def gather(
    results: Iterable[Result],
    table: Callable[[Result], str],
    printed: Callable[[Result], object],
) -> list[Row]:
    """A row of all results of equal name, columns and settings, in the order of the first ones.

    Args:
        table: returns the heading of a result's table.
        printed: returns what a line shows of a result apart from its settings. If it is equal for
            several rows, the settings in which they differ are added to their names.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        key = _key([result.name, result.columns, result.settings])
        groups.setdefault(key, []).append(result)
    firsts = [group[0] for group in groups.values()]
    rows = []
    for one, group in zip(firsts, groups.values(), strict=True):
        namesakes = [other.settings for other in firsts if printed(other) == printed(one)]
        values = {name: [result.values[name] for result in group] for name in one.values}
        row = Row(
            table=table(one),
            name="; ".join([one.name, *_differences(one.settings, namesakes)]),
            columns=one.columns,
            runs=[str(result.run) for result in group],
            values={key: None if None in each else Spread.of(each) for key, each in values.items()},
            paper=one.paper,
        )
        rows.append(row)
    return rows


def _key(plain: object) -> str:
    return json.dumps(plain, sort_keys=True, default=str)


def _differences(one: dict, others: list[dict]) -> list[str]:
    """The settings in which any of `others` differs from `one`, as "KEY value" of `one`."""
    keys = sorted({key for other in others for key in other})
    return [
        f"{key} {one.get(key, 'absent')}"
        for key in keys
        if any(other.get(key) != one.get(key) for other in others)
    ]
