"""Runs a detector on the frames of a video; writes a drawn copy and COCO results."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ..errors import UserError
from ..run.files import replace_file
from ..run.progress import progress
from .predict import Classes, Input, Predictor, batches, check_options, check_output, drawn, rows_of

logger = logging.getLogger(__name__)
ENDINGS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
CODEC, FRAMES_PER_SECOND = "mp4v", 25.0  # of a copy; the latter where the video does not say


def copy_name(name: str) -> str:
    """The file name of a video's copy: .mp4 is appended to any other ending."""
    return name if name.lower().endswith(".mp4") else f"{name}.mp4"


def predict_video(
    predictor: Predictor,
    classes: Classes,
    name: str,
    video: Path,
    output: str | Path,
    *,
    score: float = 0.5,
    batch: int = 1,
) -> tuple[int, int]:
    """Write a copy of a video with its detections drawn, and they as <name>.json.

    The copy, <name>.mp4 in MPEG-4 without sound, has the video's size and frames per second. The
    JSON is as of `predict`, "image_id" being the frame, from 1.

    Args:
        name: of the copy, without the ending that `copy_name` appends.
        video: what OpenCV reads; its frames are upright as the file says.
        output, score, batch: as of `predict`.

    Returns:
        the number of frames and of detections.

    Raises:
        UsageError: as of `predict`.
        UserError: the video has no frame that can be read, or a file cannot be written.
    """
    check_options(score, batch)
    output = Path(output)
    check_output(output, [video])
    copy = output / copy_name(name)
    part = copy.with_name(f".{copy.stem}.part.mp4")
    rows, frames, writer = [], 0, None
    reader = cv2.VideoCapture(str(video))
    rate = reader.get(cv2.CAP_PROP_FPS) or FRAMES_PER_SECOND
    inputs = _frames(predictor, reader, video)
    try:
        for group in batches(inputs, batch):  # of one size, so in their order
            for frame, instances in zip(group, predictor.detect(group), strict=True):
                picture = drawn(frame, instances, classes, score)
                if writer is None:
                    writer = _writer(part, rate, picture.size)
                writer.write(np.asarray(picture)[:, :, ::-1])
                rows += rows_of(instances, classes, frame.index + 1, video)
                frames += 1
        if writer is None:
            raise UserError(f"video {video}: no frame can be read: expected what OpenCV reads")
        writer.release()
        os.replace(part, copy)
    finally:
        part.unlink(missing_ok=True)
    text = json.dumps(rows).encode()
    replace_file(output / f"{name}.json", lambda file: file.write(text))
    return frames, len(rows)


def _frames(predictor: Predictor, reader: cv2.VideoCapture, video: Path) -> Iterator[Input]:
    total = max(0, int(reader.get(cv2.CAP_PROP_FRAME_COUNT))) or None
    read = 0
    for index in progress(_while_readable(reader), total, "frames", logger):
        found, image = reader.retrieve()
        if not found:
            break
        picture, read = np.ascontiguousarray(image[:, :, ::-1]), index + 1
        yield Input(index, picture, predictor.prepare(picture))
    reader.release()
    if total and 0 < read < total:
        logger.warning(f"{video}: read {read} of {total} frames that the file says it has")


def _while_readable(reader: cv2.VideoCapture) -> Iterator[int]:
    index = 0
    while reader.grab():
        yield index
        index += 1


def _writer(path: Path, rate: float, size: tuple[int, int]) -> cv2.VideoWriter:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*CODEC), rate, size)
    if not writer.isOpened():
        raise UserError(f"{path}: cannot be written; expected a folder with room, and a codec")
    return writer
