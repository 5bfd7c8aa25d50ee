"""The charts of the report: what each kind of error costs, and precision over recall."""

from pathlib import Path

from matplotlib.figure import Figure
from pycocotools.cocoeval import COCOeval

from .evaluation import precision_curves
from .tide import KINDS, Breakdown

BLUE, GREY = "#2f6fdb", "#8a94a3"


def draw_errors(errors: Breakdown, path: Path) -> None:
    """A bar per kind of error; its length is the AP50 gained by correcting that kind."""
    figure = Figure(figsize=(6, 2.8), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh(KINDS, [errors.gains[kind] for kind in KINDS], color=BLUE)
    axis.bar_label(bars, [f"{errors.counts[kind]:,}" for kind in KINDS], padding=3, fontsize=8)
    axis.invert_yaxis()  # the first on top
    axis.margins(x=0.15)
    axis.set_xlim(left=0)
    axis.set_xlabel("AP50 gained by correcting this kind alone, points (at the bars: how many)")
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    figure.savefig(path, dpi=130)


def draw_curves(coco_eval: COCOeval, path: Path) -> None:
    """Precision over recall at IoU 0.5 and 0.75: thin lines the classes, a thick one their mean."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, iou in zip(axes, (0.5, 0.75), strict=True):
        recall, precision = precision_curves(coco_eval, iou)
        count = precision.shape[1]
        if count:
            axis.plot(recall, precision, color=GREY, linewidth=0.6, alpha=0.5)
            axis.plot(recall, precision.mean(1), color=BLUE, linewidth=2)
            area = f"mean of {count}: {100 * precision.mean():.1f} %"
        else:
            area = "no ground truth"
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", title=f"IoU {iou:g}, {area}")
        axis.title.set_fontsize(10)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("precision")
    figure.savefig(path, dpi=130)
