"""Plots a run's metrics.jsonl: loss, learning rate and test accuracy."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from randwire_det.errors import UserError
from randwire_det.run.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED, GREY = "#2f6fdb", "#d63a3a", "#8a94a3"


def draw_curves(metrics: Path, output: Path, epoch_length: int) -> None:
    """Plot `metrics`, a run's metrics.jsonl, to the PNG file `output`.

    Args:
        epoch_length: iterations per epoch, >= 1.

    Raises:
        UserError: `metrics` cannot be read or `output` cannot be written.
    """
    figure = curves_figure(read_metrics(metrics), epoch_length)
    replace_file(output, lambda file: figure.savefig(file, format="png", dpi=130))


def read_metrics(path: Path) -> list[dict]:
    """Read the lines of a metrics.jsonl, except for incomplete ones of a killed run.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a run's metrics.jsonl") from None
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "iteration" in row:
            rows.append(row)
    return rows


def curves_figure(rows: list[dict], epoch_length: int) -> "Figure":
    """Loss (left axis) and learning rate (right) above, top-1 and top-5 below, over epochs.

    Args:
        rows: of `read_metrics`, of training with "loss", of a test with "top1". NaN leaves a gap.
        epoch_length: iterations per epoch.
    """
    from matplotlib.figure import Figure  # slow to import, and not needed elsewhere

    training = [row for row in rows if "loss" in row]
    tests = [row for row in rows if "top1" in row]
    figure = Figure(figsize=(7, 6), layout="constrained")
    loss, accuracy = figure.subplots(2, sharex=True)
    rate = loss.twinx()
    _plot(rate, training, "lr", epoch_length, label="learning rate", color=GREY, linestyle="--")
    _plot(loss, training, "loss", epoch_length, label="training loss", color=BLUE)
    _plot(accuracy, tests, "top1", epoch_length, label="top-1", color=BLUE)
    _plot(accuracy, tests, "top5", epoch_length, label="top-5", color=RED)
    loss.set_ylabel("training loss", color=BLUE)
    rate.set_ylabel("learning rate", color=GREY)
    rate.set_ylim(bottom=0)
    accuracy.set(xlabel="epochs", ylabel="accuracy of the tests, %")
    for axis in (loss, accuracy):
        axis.grid(alpha=0.3)
    if tests:
        accuracy.legend()
    else:
        accuracy.text(0.5, 0.5, "no test yet", transform=accuracy.transAxes, ha="center")
    return figure


def _plot(axis, rows: list[dict], name: str, epoch_length: int, **style) -> None:
    epochs = [row["iteration"] / epoch_length for row in rows]
    # Without marks, single points between gaps would not be visible.
    mark = "." if len(rows) <= 100 else None
    axis.plot(epochs, [row[name] for row in rows], marker=mark, **style)
