"""The demo's report: what the two arms predicted, how their AP grew, and the wiring, as one page.

It only reads what the tools have written: detectron2's metrics.json and COCO results.
"""

import json
import sys
from pathlib import Path

from PIL import Image, ImageColor, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.coco.metrics import METRICS
from randwire_det.coco.report.drawing import draw_box
from randwire_det.coco.report.page import html_page, table

ARMS = {
    "pretrained": "from the pretrained RandWire",
    "scratch": "from scratch",
}
COLOURS = {"pretrained": "#2f6fdb", "scratch": "#d63a3a"}
SCORE = 0.5  # predictions below it are not drawn
GAP = 18  # pixels between pictures


def write_report(output: Path) -> tuple[dict, Path]:
    """Draw `ap.png` and `predictions.png` and write `report.html` into the demo's folder.

    Args:
        output: the folder with digits/, pretrained/ and scratch/ in it.

    Returns:
        the last AP row of each arm, in percent, and the path of the report.
    """
    curves = {arm: _evaluations(output / arm / "metrics.json") for arm in ARMS}
    results = {arm: curve[-1][1] for arm, curve in curves.items()}
    _draw_curves(curves, output / "ap.png")
    _draw_predictions(output, output / "predictions.png")
    report = output / "report.html"
    report.write_text(_page(results, _pretraining(output)), encoding="utf-8")
    return results, report


def _evaluations(path: Path) -> list[tuple[int, dict]]:
    """(iteration, {metric: percent}) of every evaluation that a training logged."""
    rows = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "bbox/AP" in row:
            # A resumed run logs its last evaluation twice: the later one counts.
            rows[row["iteration"] + 1] = {name: row[f"bbox/{name}"] for name in METRICS}
    return sorted(rows.items())


def _pretraining(output: Path) -> dict:
    rows = [json.loads(line) for line in (output / "pretrain/metrics.jsonl").open()]
    return [row for row in rows if "top1" in row][-1]


def _draw_curves(curves: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    for arm, curve in curves.items():
        iterations = [iteration for iteration, _ in curve]
        for metric, style in (("AP50", "--"), ("AP", "-")):
            values = [row[metric] for _, row in curve]
            label = f"{arm}, {metric}"
            axis.plot(iterations, values, style, marker="o", color=COLOURS[arm], label=label)
    axis.set(xlabel="iterations of Faster R-CNN", ylabel="COCO AP, %", ylim=(0, 100))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def _draw_predictions(output: Path, path: Path, count: int = 4) -> None:
    """A column a picture: ground truth above, then the predictions of each arm."""
    truth = json.loads((output / "digits/coco/annotations/val.json").read_text())
    names = {category["id"]: category["name"] for category in truth["categories"]}
    # Evenly spread over the set, so that every photograph is met.
    images = truth["images"][:: max(1, len(truth["images"]) // count)][:count]
    rows = {"ground truth": truth["annotations"]}
    for arm in ARMS:
        found = json.loads((output / arm / "inference/coco_instances_results.json").read_text())
        rows[arm] = [box for box in found if box["score"] >= SCORE]

    width, height = (max(image[side] for image in images) for side in ("width", "height"))
    sheet = Image.new("RGB", (len(images) * (width + GAP), len(rows) * (height + GAP)), "white")
    for line, (title, boxes) in enumerate(rows.items()):
        for column, image in enumerate(images):
            picture = Image.open(output / "digits/coco/val" / image["file_name"]).convert("RGB")
            pen = ImageDraw.Draw(picture)
            for box in boxes:
                if box["image_id"] == image["id"]:
                    x, y, wide, high = box["bbox"]
                    score = f" {box['score']:.2f}" if "score" in box else ""
                    label = names[box["category_id"]] + score
                    colour = ImageColor.getrgb(COLOURS.get(title, "#19b23c"))
                    draw_box(pen, (x, y, x + wide, y + high), label, colour)
            sheet.paste(picture, (column * (width + GAP), line * (height + GAP) + GAP))
        ImageDraw.Draw(sheet).text((0, line * (height + GAP) + 4), title, fill="black")
    sheet.save(path)


def _page(results: dict, pretraining: dict) -> str:
    rows = [
        [title, *(f"{results[arm][metric]:.1f}" for metric in METRICS)]
        for arm, title in ARMS.items()
    ]
    return html_page(
        "Digits in the wild",
        f"""<p>MNIST digits on photographs. Neither the digits nor the photographs below were seen
in training.</p>
<h2>1. The wiring</h2><img src="wiring.png" alt="the random graphs of the network">
<h2>2. Pretraining</h2>
<p>Single digits: top-1 accuracy {pretraining["top1"]:.1f} % on the validation patches.</p>
<h2>3. Detection</h2>
<p>Faster R-CNN with FPN, the same schedule from the pretrained trunk and from random weights.
COCO metrics by pycocotools, percent:</p>
{table(["", *METRICS], rows)}
<img src="ap.png" alt="AP of both arms over training">
<h2>4. Predictions</h2>
<p>Scores from {SCORE} up: ground truth above, then from the pretrained RandWire, then from
scratch.</p>
<img src="predictions.png" alt="ground truth and predictions">""",
    )
