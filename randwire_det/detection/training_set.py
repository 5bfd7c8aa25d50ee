"""What tells one training set from another: a run goes on with the data that it was begun with."""

import hashlib
from pathlib import Path

from ..errors import UserError


def training_set(dicts: list[dict]) -> dict:
    """What identifies a data set, wherever its pictures lie: plain data.

    Args:
        dicts: in detectron2's format.
    """
    digest = hashlib.sha256()
    for image in dicts:
        objects = [
            (each.get("category_id"), each.get("bbox")) for each in image.get("annotations", ())
        ]
        digest.update(repr((Path(image.get("file_name", "")).name, objects)).encode())
    return {"images": len(dicts), "digest": digest.hexdigest()}


def check_same_training_set(stored: dict | None, ours: dict | None) -> None:
    """Refuse to go on with other images or boxes: an epoch would differ.

    Args:
        stored: `training_set` of the checkpoint; None if it has none.

    Raises:
        UserError: names the number of images of both.
    """
    if stored and ours and stored != ours:
        raise UserError(
            f"the checkpoint was trained on {stored['images']} images, DATASETS.TRAIN has"
            f" {ours['images']}, or other names, boxes or classes of them: an epoch would differ;"
            " go on with the same data, or set it as MODEL.WEIGHTS of another OUTPUT_DIR"
        )
