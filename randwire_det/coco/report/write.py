"""Writes the report: from the two files of an evaluation to a page, charts and numbers."""

import json
import math
from numbers import Real
from pathlib import Path

import numpy as np

from ...errors import UsageError, UserError
from ...run.files import replace_file
from .drawing import draw_pair
from .evaluation import METRICS, class_aps, evaluate, precision_curves, table_row
from .figures import draw_curves, draw_errors
from .gallery import Picture, choose
from .inputs import read_results, read_truth
from .matches import match
from .page import write_page
from .tide import break_down

GALLERY_LIMIT = 32  # twice as many pictures as this, twice: the page stays below 10 MB


def write_report(
    json_file: str | Path,
    image_root: str | Path,
    results_json: str | Path,
    output: str | Path,
    *,
    title: str = "",
    paper: dict | None = None,
    gallery: int = 8,
) -> Path:
    """Write report.html, its charts errors.png and precision_recall.png, and report.json.

    The page embeds its pictures, so it can be moved without the other files.

    Args:
        json_file: ground truth in COCO format.
        image_root: the folder that its file names are relative to. An unreadable image is drawn as
            a grey box.
        results_json: detections in COCO results format, as detectron2's evaluator writes them.
        output: the folder to write to; created if missing.
        title: heading of the page; by default the name of the annotation file.
        paper: AP to compare with, in percent, by the names in `METRICS`; some may be missing.
        gallery: number of worst and of best images to show, 0 to 32.

    Returns:
        the path of report.html.

    Raises:
        UserError: an unreadable or invalid file, a missing image folder, a value out of range.
    """
    output, image_root = Path(output), Path(image_root)
    if not 0 <= gallery <= GALLERY_LIMIT:
        raise UsageError(f"gallery {gallery}: expected 0 to {GALLERY_LIMIT} images of each kind")
    _check_paper(paper or {})
    if not image_root.is_dir():
        raise UserError(f"image folder {image_root}: no such folder")
    truth = read_truth(json_file)
    coco_eval = evaluate(truth, read_results(results_json, truth, json_file))
    matches = match(coco_eval)
    errors = break_down(matches)
    worst, best = choose(matches, gallery)

    counted = np.bincount(
        matches.object_category[~matches.object_crowd], minlength=len(matches.classes)
    )
    classes = [
        {"name": name, "objects": int(number), "AP": ap, "AP50": ap50, "AP75": ap75}
        for name, number, (ap, ap50, ap75) in zip(
            matches.classes, counted, class_aps(coco_eval).tolist(), strict=True
        )
    ]
    classes.sort(key=lambda row: -math.inf if math.isnan(row["AP"]) else row["AP"], reverse=True)
    numbers = {
        "title": title or f"Detections on {Path(json_file).stem}",
        "images": len(matches.images),
        "objects": int(counted.sum()),
        "crowd_regions": int(matches.object_crowd.sum()),
        "detections": len(matches.score),
        "row": table_row(coco_eval),
        "paper": paper or {},
        "errors": {
            kind: {"count": count, "gain": errors.gains[kind]}
            for kind, count in errors.counts.items()
        },
        "classes": classes,
        "curves": {
            name: precision_curves(coco_eval, iou)[1].mean(1).tolist() if counted.any() else []
            for name, iou in (("0.5", 0.5), ("0.75", 0.75))
        },
        "gallery": {
            "worst": [_numbers_of(picture) for picture in worst],
            "best": [_numbers_of(picture) for picture in best],
        },
    }
    numbers = _without_nan(numbers)

    output.mkdir(parents=True, exist_ok=True)
    draw_errors(errors, output / "errors.png")
    draw_curves(coco_eval, output / "precision_recall.png")
    text = json.dumps(numbers, indent=1, allow_nan=False)
    replace_file(output / "report.json", lambda file: file.write(text.encode()))
    page = write_page(
        numbers,
        {name: (output / f"{name}.png").read_bytes() for name in ("errors", "precision_recall")},
        {
            kind: [
                (_caption(one), one.name, *draw_pair(matches, errors, one, image_root))
                for one in pictures
            ]
            for kind, pictures in (("worst", worst), ("best", best))
        },
    )
    report = output / "report.html"
    replace_file(report, lambda file: file.write(page.encode()))
    return report


def _check_paper(paper: dict) -> None:
    for name, value in paper.items():
        if name not in METRICS or not isinstance(value, Real):
            raise UsageError(
                f"paper {name!r}: {value!r}, expected numbers for some of {', '.join(METRICS)}"
            )


def _numbers_of(picture: Picture) -> dict:
    counts = {name: getattr(picture, name) for name in ("f1", "found", "wrong", "missed")}
    return {"file_name": picture.name, **counts}


def _caption(picture: Picture) -> str:
    return (
        f"{picture.name}: F1 {picture.f1:.2f}, {picture.found} found, {picture.wrong} wrong,"
        f" {picture.missed} missed"
    )


def _without_nan(value):
    """JSON has no NaN: None stands for it."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
