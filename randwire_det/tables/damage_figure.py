"""Figure 5: the loss after each removal, over the degree, a column for each generator."""

from pathlib import Path

from ..errors import UserError
from ..run.files import replace_file
from ..spec.generator import GRAPH_MODELS
from .damage import KINDS, losses_by_degree

AXES = {
    "node": "output degree of the removed node",
    "edge": "input degree of the removed edge's target",
}
ORANGE, RED, GREY, BLUE = "#f6b26b", "#d63a3a", "#666f7a", "#2f6fdb"  # as in the paper


def draw_damage(records: list[dict], path: Path) -> None:
    """Draw records of `damage.measure`; those of one generator are pooled.

    As in the paper, a red circle is the mean, a grey bar the median, an orange box the
    interquartile range, and a blue dot one removal.

    Args:
        path: .png, .svg or .pdf.

    Raises:
        UserError: no removal was measured, or the records have different metrics.
    """
    from matplotlib.figure import Figure  # slow to import

    metrics = sorted({record["metric"] for record in records})
    if len(metrics) > 1:
        raise UserError(f"records of {' and '.join(metrics)}: expected one metric in a figure")
    rows = {}
    for record in sorted(records, key=_place):
        name = str(record["generator"] or "unknown").upper()
        rows.setdefault(name, []).extend(record["removals"])
    kinds = [
        kind for kind in KINDS if any(row["kind"] == kind for own in rows.values() for row in own)
    ]
    if not kinds:
        raise UserError("no removal was measured: nothing to draw")
    figure = Figure(figsize=(1.2 + 4.2 * len(rows), 0.6 + 3.1 * len(kinds)), layout="constrained")
    axes = figure.subplots(len(kinds), len(rows), squeeze=False, sharey="row")
    for line, kind in zip(axes, kinds, strict=True):
        for axis, (name, own) in zip(line, rows.items(), strict=True):
            losses = losses_by_degree([row for row in own if row["kind"] == kind])
            if losses:
                _boxes(axis, losses)
            axis.set_title(f"{name}: {kind} removal", fontsize=10)
            axis.set_xlabel(AXES[kind])
        line[0].set_ylabel(f"loss of {metrics[0]}, points")
    form = path.suffix.removeprefix(".")
    replace_file(path, lambda file: figure.savefig(file, format=form, dpi=130))


def _place(record: dict) -> int:
    """The paper's three generators come first, in its order."""
    name = record["generator"]
    return list(GRAPH_MODELS).index(name) if name in GRAPH_MODELS else len(GRAPH_MODELS)


def _boxes(axis, losses: dict[int, list[float]]) -> None:
    degrees = list(losses)
    axis.boxplot(
        list(losses.values()),
        positions=degrees,
        widths=0.6,
        whis=(0, 100),
        showcaps=False,
        showmeans=True,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": ORANGE, "alpha": 0.6, "linewidth": 0},
        whiskerprops={"color": ORANGE, "linewidth": 1},
        medianprops={"color": GREY, "linewidth": 2},
        meanprops={"marker": "o", "markerfacecolor": RED, "markeredgecolor": RED, "markersize": 5},
    )
    for degree, own in losses.items():
        # Spread by rank, so that equal losses do not hide each other.
        step = 0.4 / max(1, len(own) - 1)
        places = [degree - 0.2 * (len(own) > 1) + step * index for index in range(len(own))]
        axis.scatter(places, sorted(own), s=7, color=BLUE, alpha=0.5, linewidths=0, zorder=3)
    axis.axhline(0, color=GREY, linewidth=0.6)
    axis.grid(axis="y", alpha=0.25)
    axis.set_xlim(min(degrees) - 0.8, max(degrees) + 0.8)
    axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
