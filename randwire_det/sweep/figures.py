"""The figures of a study: bars as Figure 3, operations as Figure 6, lines over the schedule."""

from pathlib import Path

from matplotlib.figure import Figure

from ..run.files import replace_file
from ..tables.rows import Spread

LABELS = {"top1": "top-1 accuracy, %", "AP": "box AP on the test set, %"}
COLOURS = ("#2f6fdb", "#d63a3a", "#2e9e5b", "#b8860b", "#7a4fbf", "#3aa6b9", "#666f7a", "#d46ba3")
MARKERS = "osD^vP*X"


def _save(figure: Figure, path: Path) -> None:
    """Write .png or .svg."""
    form = path.suffix.removeprefix(".")
    replace_file(path, lambda file: figure.savefig(file, format=form, dpi=130))


def family(label: str) -> str:
    """What a label begins with: "WS" of "WS(4, 0.75)". Bars of a family have one colour."""
    return label.partition("(")[0].partition(",")[0]


def draw_bars(bars: list[tuple[str, Spread]], metric: str, path: Path) -> None:
    """A bar for each setting, mean and sample std over seeds, as Figure 3 of the paper.

    The axis does not begin at zero, so that differences can be seen; the means are written above.
    """
    figure = Figure(figsize=(1.6 + 0.55 * max(6, len(bars)), 4.4), layout="constrained")
    axis = figure.subplots()
    names = list(dict.fromkeys(family(label) for label, _ in bars))
    lows = [spread.mean - (spread.std or 0) for _, spread in bars]
    highs = [spread.mean + (spread.std or 0) for _, spread in bars]
    room = max(max(highs) - min(lows), 1e-3)
    for place, (label, spread) in enumerate(bars):
        colour = COLOURS[names.index(family(label)) % len(COLOURS)]
        axis.bar(place, spread.mean, width=0.7, color=colour, alpha=0.75)
        if spread.std is not None:
            axis.errorbar(place, spread.mean, spread.std, color="black", capsize=3, linewidth=1)
        above = spread.mean + (spread.std or 0) + 0.02 * room
        axis.text(place, above, f"{spread.mean:.1f}", ha="center", va="bottom", fontsize=7)
    axis.set_ylim(max(0, min(lows) - 0.25 * room), max(highs) + 0.12 * room)
    labels = [label for label, _ in bars]
    axis.set_xticks(range(len(bars)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axis.tick_params(axis="x", labelsize=8)
    axis.set_ylabel(metric)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    _save(figure, path)


def draw_operations(
    means: dict[str, dict[str, float]],
    correlations: dict[tuple[str, str], float],
    metric: str,
    path: Path,
) -> None:
    """The mean of each arm for each operation, sorted by the first operation, as Figure 6.

    Args:
        means: {operation: {arm: mean}}, of the same arms.
        correlations: Pearson's, of each two operations; written below.
    """
    first = next(iter(means.values()))
    arms = sorted(first, key=first.get, reverse=True)
    figure = Figure(figsize=(2.4 + 0.5 * max(8, len(arms)), 4.6), layout="constrained")
    axis = figure.subplots()
    for place, (name, of_arm) in enumerate(means.items()):
        style = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
        axis.plot(arms, [of_arm[arm] for arm in arms], label=name, linewidth=1, **style)
    axis.tick_params(axis="x", labelsize=8)
    for text in axis.get_xticklabels():
        text.set(rotation=45, ha="right", rotation_mode="anchor")
    axis.set_ylabel(metric)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(means), frameon=False, fontsize=9)
    if correlations:
        lowest, highest = min(correlations.values()), max(correlations.values())
        text = f"Pearson correlation between two operations: {lowest:.2f} to {highest:.2f}"
        axis.set_title(text, fontsize=9)
    _save(figure, path)


def draw_lines(
    lines: dict[str, list[tuple[float, Spread]]], x_label: str, metric: str, path: Path
) -> None:
    """A line for each setting over the length of the schedule, with a bar of ± sample std."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axis = figure.subplots()
    for place, (label, points) in enumerate(lines.items()):
        x, spreads = zip(*sorted(points, key=lambda point: point[0]), strict=True)
        beside = 1.015 ** (place - (len(lines) - 1) / 2)  # else error bars hide each other
        axis.errorbar(
            [each * beside for each in x],
            [spread.mean for spread in spreads],
            [spread.std or 0 for spread in spreads],
            label=label,
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            capsize=3,
            linewidth=1.2,
        )
    lengths = sorted({x for points in lines.values() for x, _ in points})
    axis.set_xscale("log")
    axis.set_xticks(lengths, [f"{length:g}" for length in lengths])
    axis.minorticks_off()
    axis.set_xlabel(x_label)
    axis.set_ylabel(metric)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    _save(figure, path)
