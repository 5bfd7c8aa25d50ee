"""Pictures of a wiring: every random stage as a graph that reads from left to right.

Colours as in Figure 4 of the paper: blue nodes take the stage's input, red ones give its output.
"""

from pathlib import Path

from ..errors import UserError
from .graphs import Dag
from .spec import NetworkSpec

MAX_PARTS = 5000  # which take some seconds; the paper's C=109 has 336
BLUE, RED, GREY, LINE = "#2f6fdb", "#d63a3a", "#c9ced6", "#5b6675"


def draw_network(spec: NetworkSpec, path: str | Path, input_size: int = 224) -> None:
    """Draw all stages of a network side by side into an image file.

    Args:
        path: the file; its suffix chooses the format (.png, .svg, .pdf).
        input_size: height and width of the image that the network is fed, in pixels.

    Raises:
        UserError: an input size below 1, or more than `MAX_PARTS` nodes and edges.
    """
    if input_size < 1:
        raise UserError(f"input size {input_size}: expected a whole number of pixels >= 1")
    dags = [stage.dag for stage in spec.stages if stage.dag is not None]
    parts = sum(dag.num_nodes + len(dag.edges) for dag in dags)
    if parts > MAX_PARTS:
        raise UserError(
            f"{parts} nodes and edges: a picture shows something of {MAX_PARTS} at most; draw a"
            " network of fewer nodes"
        )
    from matplotlib.figure import Figure  # only pictures need it, and no window

    widths = [1.0 if stage.dag is None else 3.0 for stage in spec.stages]
    figure = Figure(figsize=(sum(widths) * 1.15, 3.9), layout="constrained")
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    size = input_size
    for axis, stage in zip(axes, spec.stages, strict=True):
        size = (size - 1) // stage.stride + 1
        axis.set_axis_off()
        axis.set_title(f"{stage.name}\n{stage.channels} ch, {size}×{size}", fontsize=8)
        if stage.dag is None:
            axis.scatter([0], [0], s=220, marker="s", color=GREY, edgecolors=LINE)
            axis.text(0, -0.08, "conv\n3×3", ha="center", va="top", fontsize=7)
            axis.set(xlim=(-1, 1), ylim=(-0.6, 0.6))
        else:
            draw_dag(axis, stage.dag)
    figure.suptitle(spec.describe(), fontsize=8, color=LINE)
    figure.savefig(path, dpi=110)


def draw_dag(axis, dag: Dag) -> None:
    """Draw a wiring with the stage's input and output node into a matplotlib axis."""
    from matplotlib.patches import FancyArrowPatch

    spots = _layout(dag)
    end = max(x for x, _ in spots) + 1.3
    source, sink = (-1.3, 0.0), (end, 0.0)

    def arrow(tail, head, bend, colour, alpha):
        axis.add_patch(
            FancyArrowPatch(
                tail,
                head,
                connectionstyle=f"arc3,rad={bend}",
                arrowstyle="-",
                color=colour,
                alpha=alpha,
                linewidth=0.7,
            )
        )

    for node in dag.input_nodes:
        arrow(source, spots[node], 0, BLUE, 0.5)
    for node in dag.output_nodes:
        arrow(spots[node], sink, 0, RED, 0.5)
    for tail, head in dag.edges:
        (x0, y0), (x1, y1) = spots[tail], spots[head]
        # A long edge bends away from the middle, so that it does not run through other nodes.
        bend = 0.12 * (x1 - x0 - 1) / max(1.0, x1 - x0) * (-1 if y0 + y1 > 0 else 1)
        arrow(spots[tail], spots[head], bend, LINE, 0.55)
    inputs, outputs = set(dag.input_nodes), set(dag.output_nodes)
    for node, (x, y) in enumerate(spots):
        # An isolated node is both: blue inside, red rim.
        fill = BLUE if node in inputs else RED if node in outputs else GREY
        rim = RED if node in outputs else LINE
        axis.scatter([x], [y], s=26, color=fill, edgecolors=rim, linewidths=1.0, zorder=3)
    axis.scatter(*zip(source, sink, strict=True), s=50, color="white", edgecolors=LINE, zorder=3)
    axis.margins(0.04)


def _layout(dag: Dag) -> list[tuple[float, float]]:
    """x is a node's depth (its longest way from an input); the nodes of a depth share a column.

    Within a column nodes are sorted by the mean height of what they read, to untangle the edges.
    """
    depth: list[int] = []
    for sources in dag.predecessors:
        depth.append(1 + max(depth[source] for source in sources) if sources else 0)
    columns: list[list[int]] = [[] for _ in range(max(depth) + 1)]
    for node, level in enumerate(depth):
        columns[level].append(node)
    tallest = max(map(len, columns))
    height = [0.0] * dag.num_nodes
    for level, column in enumerate(columns):
        spacing = tallest / max(len(column), 3)

        def mean_height(node):
            sources = dag.predecessors[node]
            return sum(height[source] for source in sources) / len(sources) if sources else 0.0

        for place, node in enumerate(sorted(column, key=mean_height)):
            # The shift puts no two columns in step: edges that skip a column stay visible.
            shift = (-1) ** level * (0.5 if len(column) == 1 else 0.2)
            height[node] = spacing * (place - (len(column) - 1) / 2 + shift)
    return [(float(x), y) for x, y in zip(depth, height, strict=True)]
