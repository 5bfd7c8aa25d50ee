"""Many wirings at once: their names as the paper writes them, their measures, plots of both."""

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import UsageError
from .complexity import Complexity
from .generator import GRAPH_MODELS, PARAMETERS, parameters_of
from .measures import measures
from .spec import NetworkSpec

# The generators of Figure 3, in its order.
FIGURE_3 = (
    *(f"ER({p})" for p in (0.2, 0.4, 0.6, 0.8)),
    *(f"BA({m})" for m in (1, 3, 5, 7)),
    *(f"WS({k}, {p})" for k in (2, 4, 6, 8) for p in (0, 0.25, 0.5, 0.75, 1)),
)
COUNTS = ("params", "macs", "activations")


class Wiring(NamedTuple):
    """A generator with its parameters."""

    name: str  # for example "WS(4, 0.75)"
    generator: str
    theta: dict[str, float]


def parse_wiring(text: str) -> Wiring:
    """A wiring by its name: "WS(4, 0.75)", "ER(0.2)", "chain(2)", "resnet".

    The parameters stand in the order in which the model takes them.

    Raises:
        UsageError: no such model, or another number of parameters than it takes.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", text)
    generator = match[1].lower() if match else ""
    if match is None or generator not in GRAPH_MODELS:
        raise UsageError(
            f"wiring {text!r}: expected one of {', '.join(GRAPH_MODELS)} and its parameters, such"
            ' as "WS(4, 0.75)"'
        )
    takes = parameters_of(generator)
    values = [each.strip() for each in (match[2] or "").split(",") if each.strip()]
    try:
        numbers = [float(each) for each in values]
    except ValueError:
        numbers = None
    if numbers is None or len(numbers) != len(takes):
        expected = f"({', '.join(name.upper() for name in takes)})" if takes else " alone"
        raise UsageError(f"wiring {text!r}: expected {generator}{expected}")
    whole = [int(each) if each.is_integer() else each for each in numbers]
    shown = f"({', '.join(map(str, whole))})" if takes else ""
    name = generator.upper() if len(generator) == 2 else generator
    return Wiring(name + shown, generator, dict(zip(takes, whole, strict=True)))


def parse_wirings(texts: Iterable[str]) -> list[Wiring]:
    """Several; "figure3" stands for the generators of Figure 3."""
    names = [each for text in texts for each in (FIGURE_3 if text == "figure3" else (text,))]
    return [parse_wiring(name) for name in names]


def arguments_of(wiring: Wiring) -> dict:
    """All graph parameters of `generate`: those of the wiring, None for the others."""
    return dict.fromkeys(PARAMETERS) | wiring.theta


def measured(
    networks: Iterable[tuple[str, int, NetworkSpec]], count: Callable[[NetworkSpec], Complexity]
) -> Iterator[dict]:
    """A row a network: wiring, seed, counts (params, macs, activations), then its measures.

    Args:
        networks: (name of the wiring, seed, spec).
        count: a network to its counts, see `complexity`.
    """
    for name, seed, spec in networks:
        counts = count(spec)
        row = {"wiring": name, "seed": seed}
        yield row | {each: getattr(counts, each) for each in COUNTS} | measures(spec)


def as_csv(rows: list[dict]) -> str:
    """Rows as CSV with a header; NaN is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value != value else value for key, value in row.items()})
    return text.getvalue()


def scatter(rows: list[dict], axes: tuple[str, str], path: Path) -> None:
    """Plot two columns of `measured` against each other, a colour for each wiring's name.

    Args:
        path: .png, .svg or .pdf.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    by_name: dict[str, list[dict]] = {}
    for row in rows:
        by_name.setdefault(row["wiring"], []).append(row)
    columns = math.ceil(len(by_name) / 18)
    figure = Figure(figsize=(5.5 + 1.6 * columns, 5), layout="constrained")
    axis = figure.subplots()
    colours = colormaps["turbo"]
    for place, (name, own) in enumerate(by_name.items()):
        colour = colours(0.05 + 0.9 * place / max(1, len(by_name) - 1))
        x, y = ([row[each] for row in own] for each in axes)
        marker = "ovsD^P"[place % 6]  # colours alone are hard to tell apart
        axis.scatter(x, y, s=22, color=colour, marker=marker, alpha=0.7, label=name, linewidths=0)
    axis.set_xlabel(axes[0].replace("_", " "))
    axis.set_ylabel(axes[1].replace("_", " "))
    axis.grid(alpha=0.25)
    figure.legend(loc="outside right upper", fontsize=8, ncols=columns, frameon=False)
    figure.savefig(path, dpi=130)


def contact_sheet(
    wirings: list[Wiring],
    seeds: list[int],
    sample: Callable[[Wiring, int], NetworkSpec],
    path: Path,
) -> None:
    """Draw wirings as Figure 4: a row a generator, a column a seed, measures below each graph.

    Args:
        sample: a wiring and a seed to a network, the last stage of which is drawn.
        path: .png, .svg or .pdf.
    """
    from matplotlib.figure import Figure

    from .draw import draw_dag
    from .measures import dag_measures

    shape = (len(wirings), len(seeds))
    figure = Figure(figsize=(2.6 * shape[1] + 0.3, 1.9 * shape[0] + 0.2), layout="constrained")
    axes = figure.subplots(*shape, squeeze=False)
    for row, wiring in zip(axes, wirings, strict=True):
        for axis, seed in zip(row, seeds, strict=True):
            *_, dag = (stage.dag for stage in sample(wiring, seed).stages if stage.dag)
            draw_dag(axis, dag)
            axis.set_axis_off()
            own = dag_measures(dag)
            axis.set_title(f"{wiring.name}, seed {seed}", fontsize=7, pad=2)
            text = f"C {own['clustering']:.2f}  L {own['path_length']:.2f}  depth {own['depth']}"
            axis.text(0.5, -0.02, text, transform=axis.transAxes, ha="center", va="top", fontsize=6)
    figure.savefig(path, dpi=130)
