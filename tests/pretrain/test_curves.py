"""The curves of a run: what is drawn is what metrics.jsonl says, also where it says little."""

import json
import math

import pytest
from PIL import Image

from pretrain.curves import curves_figure, draw_curves, read_metrics
from randwire_det.errors import UserError

NAN = float("nan")


def training(iteration, loss, lr=0.05):
    row = {"epoch": 1, "iteration": iteration, "loss": loss, "lr": lr}
    return row | {"images_per_second": 810.0}


def test_row(iteration, top1, top5):
    return {"epoch": 1, "iteration": iteration, "top1": top1, "top5": top5}


test_row.__test__ = False
RUN = [
    training(10, 2.5, 0.1),
    training(20, 1.5, 0.3),
    test_row(20, 40.0, 80.0),
    training(30, 1.25, 0.2),
    training(40, 1.0, 0.0),
    test_row(40, 61.5, 92.0),
]


def drawn(rows, epoch_length=20):
    """{label: [(x, y), ...]} of every line in the figure."""
    lines = [line for axis in curves_figure(rows, epoch_length).axes for line in axis.get_lines()]
    return {line.get_label(): list(zip(*map(list, line.get_data()), strict=True)) for line in lines}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_value_stands_at_its_epoch():
    lines = drawn(RUN)
    assert lines["training loss"] == [(0.5, 2.5), (1.0, 1.5), (1.5, 1.25), (2.0, 1.0)]
    assert lines["learning rate"] == [(0.5, 0.1), (1.0, 0.3), (1.5, 0.2), (2.0, 0.0)]
    assert lines["top-1"] == [(1.0, 40.0), (2.0, 61.5)]
    assert lines["top-5"] == [(1.0, 80.0), (2.0, 92.0)]


def test_loss_and_learning_rate_have_axes_of_their_own():
    """On one axis a learning rate of 0.1 would be a flat line under a loss of 7."""
    homes = {
        line.get_label(): axis for axis in curves_figure(RUN, 20).axes for line in axis.get_lines()
    }
    assert homes["training loss"] is not homes["learning rate"]
    assert homes["top-1"] is homes["top-5"]
    assert len(set(homes.values())) == 3


@pytest.mark.parametrize(
    "rows",
    [RUN, RUN[:1], RUN[2:3], RUN[:2], [training(1, NAN)], [*RUN, training(50, math.inf, NAN)], []],
    ids=["run", "one point", "test alone", "no test", "nan alone", "nan at the end", "nothing"],
)
@pytest.mark.filterwarnings("error")  # matplotlib warns where it draws nothing
def test_the_png_opens(tmp_path, rows):
    metrics = write(tmp_path / "metrics.jsonl", rows)
    draw_curves(metrics, tmp_path / "curves.png", epoch_length=20)
    with Image.open(tmp_path / "curves.png") as image:
        image.load()
        assert image.format == "PNG"
        assert len(image.convert("L").getcolors()) > 2  # not an empty sheet
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]


def test_a_lonely_point_is_seen():
    """A line of one point has no length: without a mark it would be invisible."""
    for axis in curves_figure([RUN[0], RUN[2]], 20).axes:
        for line in axis.get_lines():
            assert line.get_marker() not in (None, "None", "")


def test_nan_is_a_gap_and_the_rest_is_drawn():
    points = drawn([training(10, 2.0), training(20, NAN), training(30, 1.0)])["training loss"]
    assert [x for x, _ in points] == [0.5, 1.0, 1.5]
    assert points[0][1] == 2.0 and math.isnan(points[1][1]) and points[2][1] == 1.0


def test_a_half_written_line_is_no_line(tmp_path):
    metrics = write(tmp_path / "metrics.jsonl", RUN)
    with metrics.open("a") as file:
        file.write('{"epoch": 3, "iteration": 5')
    assert read_metrics(metrics) == RUN


def test_what_cannot_be_read_or_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png", epoch_length=20)
    metrics = write(tmp_path / "metrics.jsonl", RUN)
    with pytest.raises(UserError, match=r"metrics\.jsonl/curves\.png"):
        draw_curves(metrics, metrics / "curves.png", epoch_length=20)
