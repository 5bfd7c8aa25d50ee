"""Reads and checks the two files of an evaluation.

pycocotools itself reports a wrong id or a missing field by an assertion, or not at all.
"""

from pathlib import Path

import numpy as np

from ...errors import UserError
from ..coco_json import ground_truth, read_coco, read_json

TRUTH_FIELDS = {
    "images": ("id",),
    "categories": ("id", "name"),
    "annotations": ("image_id", "category_id", "bbox"),
}
RESULT_FIELDS = ("image_id", "category_id", "bbox", "score")


def read_truth(path: str | Path) -> dict:
    """The ground truth of a data set in COCO format, for the evaluation.

    Raises:
        UserError: the file is missing, holds no COCO instances, or a row lacks a field.
    """
    truth = read_coco(path)
    for key, fields in TRUTH_FIELDS.items():
        _check_rows(truth[key], fields, f"annotations {path}: {key}")
    _check_numbers(truth["annotations"], None, f"annotations {path}: annotations")
    try:
        return ground_truth(truth)
    except UserError as error:
        raise UserError(f"annotations {path}: {error}") from None


def read_results(path: str | Path, truth: dict, truth_path: str | Path) -> list[dict]:
    """Detections in COCO results format, reduced to the four keys that boxes need.

    Args:
        path: the file, a list of {"image_id", "category_id", "bbox": [x, y, w, h], "score"}.
        truth: from `read_truth`.
        truth_path: its file, for messages.

    Raises:
        UserError: the file is missing, of another format, or has ids unknown to the ground truth.
    """
    rows = read_json(path, "results")
    if not isinstance(rows, list):
        raise UserError(f"results {path}: expected a list of detections, as COCO results are")
    _check_rows(rows, RESULT_FIELDS, f"results {path}: detections")
    _check_numbers(rows, "score", f"results {path}: detections")
    for key, field in (("images", "image_id"), ("categories", "category_id")):
        known = {row["id"] for row in truth[key]}
        for row in rows:
            if row[field] not in known:
                raise UserError(
                    f"results {path}: {field} {row[field]!r} is not in the {key} of {truth_path};"
                    " give the annotations that these detections were made on"
                )
    return [{field: row[field] for field in RESULT_FIELDS} for row in rows]


def _check_rows(rows: list, fields: tuple[str, ...], where: str) -> None:
    for index, row in enumerate(rows):
        for field in fields:
            if not isinstance(row, dict) or field not in row:
                raise UserError(f"{where}[{index}] has no {field!r}")
            if field.endswith("id") and not isinstance(row[field], int | str):
                raise UserError(f"{where}[{index}]: {field} {row[field]!r}, expected a number")


def _check_numbers(rows: list[dict], field: str | None, where: str) -> None:
    """Refuse a row whose box and `field`, if any, are not finite numbers."""
    fields = ("bbox",) if field is None else ("bbox", field)

    def good(some: list[dict]) -> bool:
        try:
            table = np.array([[*row["bbox"], *(row[name] for name in fields[1:])] for row in some])
        except (TypeError, ValueError):  # no list, or lists of several lengths
            return False
        numbers = table.dtype.kind in "if" and table.shape[1:] == (3 + len(fields),)
        return numbers and np.isfinite(table).all()

    if rows and not good(rows):
        index = next(i for i, row in enumerate(rows) if not good([row]))
        found = " and ".join(f"{name} {rows[index][name]!r}" for name in fields)
        raise UserError(
            f"{where}[{index}]: {found}, expected bbox [x, y, width, height]"
            f"{'' if field is None else ' and a number'}, all finite"
        )
