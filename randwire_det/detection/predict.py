"""Runs a detector on picture files, as in an evaluation; writes COCO results and drawn copies."""

import json
import logging
import math
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation, read_image
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from torch import nn

from ..coco.report.drawing import class_colour, draw_box
from ..errors import UsageError, UserError
from ..network.fusing import fuse
from ..run.classes import few
from ..run.files import replace_file
from ..run.pictures import opened, reason
from ..run.progress import progress
from .picture_files import NAMED, copy_name, image_ids

logger = logging.getLogger(__name__)
RESULTS = "predictions.json"
WAITING = 4  # batches' worth of pictures that wait for others of their size


class Input(NamedTuple):
    """A picture that is to be detected in.

    Attributes:
        index: its position among all.
        picture: upright, (H, W, 3) uint8 in RGB.
        pixels: the model's input, (3, h, w).
    """

    index: int
    picture: np.ndarray
    pixels: torch.Tensor


class Predictor:
    """Runs a detector on picture files.

    Args:
        model: a detector; a copy with folded BN (`fuse`) is used.
        cfg: its config.

    Raises:
        UserError: the model needs precomputed proposals or outputs no boxes.
    """

    def __init__(self, model: nn.Module, cfg: CfgNode):
        if cfg.MODEL.LOAD_PROPOSALS:
            raise UserError("this detector takes proposals (MODEL.LOAD_PROPOSALS), not pictures")
        self._model, self._format = fuse(model), cfg.INPUT.FORMAT
        self._resize = T.AugmentationList(build_augmentation(cfg, is_train=False))

    def read(self, path: Path) -> tuple[np.ndarray, torch.Tensor]:
        """Read a picture.

        Returns:
            the upright picture, (H, W, 3) uint8 in RGB, and the model's input, (3, h, w).

        Raises:
            Exception: of any type, if the file is damaged.
        """
        with opened(path):  # refuses pictures that detectron2 would misread
            image = read_image(str(path), self._format)
        picture = image[:, :, ::-1] if self._format == "BGR" else image
        return picture, self.prepare(picture)

    def prepare(self, picture: np.ndarray) -> torch.Tensor:
        """The model's input, (3, h, w), of an upright picture, (H, W, 3) uint8 in RGB."""
        image = picture[:, :, ::-1] if self._format == "BGR" else picture
        resized = T.AugInput(np.ascontiguousarray(image))
        self._resize(resized)
        return torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))

    @torch.no_grad()
    def detect(self, batch: list[Input]) -> list[Instances]:
        """Detect in pictures; boxes are in pixels of each picture, on the CPU."""
        inputs = [
            dict(zip(("image", "height", "width"), (pixels, *picture.shape[:2]), strict=True))
            for _, picture, pixels in batch
        ]
        outputs = self._model(inputs)
        if "instances" not in outputs[0]:
            raise UserError(f"this model outputs {', '.join(outputs[0])}, no detections")
        return [output["instances"].to("cpu") for output in outputs]


class Classes:
    """Names and category ids of a detector's outputs.

    The ids are the data set's own if detectron2 knows it by name, such as coco_2017_train; else
    output + 1. An output without a name is called "class <output + 1>".

    Args:
        cfg: of the detector.
        names: in the order of its outputs, or None.
    """

    def __init__(self, cfg: CfgNode, names: list[str] | None):
        self._names, self._ids = names or [], {}
        datasets = list(cfg.DATASETS.TRAIN) or list(cfg.DATASETS.TEST)
        metadata = MetadataCatalog.get(datasets[0]) if datasets else None
        if metadata and names and metadata.get("thing_classes") == names:
            of_dataset = metadata.get("thing_dataset_id_to_contiguous_id", {})
            self._ids = {output: known for known, output in of_dataset.items()}

    def id(self, output: int) -> int:
        return self._ids.get(output, output + 1)

    def name(self, output: int) -> str:
        return self._names[output] if output < len(self._names) else f"class {output + 1}"


def predict(
    predictor: Predictor,
    classes: Classes,
    pictures: dict[str, Path],
    output: str | Path,
    *,
    score: float = 0.5,
    batch: int = 1,
) -> tuple[int, int]:
    """Write predictions.json and a copy of each picture with its detections drawn.

    predictions.json is in COCO results format: a list of {"image_id", "category_id", "bbox":
    [x, y, width, height] in pixels, "score"}, with "segmentation" if the detector predicts masks,
    and "category" and "file_name", which COCO's tools ignore. It is written last.

    Args:
        pictures: path by name, as from `find_pictures`; `image_ids` gives the "image_id".
        output: the folder to write to, created if missing.
        score: detections with at least this score are drawn; all are written.
        batch: pictures that go through the model at once, if they have one size when resized.

    Returns:
        the number of pictures and of detections. Unreadable pictures are skipped with a warning.

    Raises:
        UsageError: `score` is not from 0 to 1, `batch` is below 1, or `output` is the folder of a
            picture.
        UserError: a file cannot be written, or none of the pictures can be read.
    """
    check_options(score, batch)
    output = Path(output)
    check_output(output, pictures.values())
    if (output / RESULTS).exists():
        logger.warning(f"{output / RESULTS} of an earlier run is replaced; its pictures stay")
    names, ids, rows, skipped = list(pictures), image_ids(pictures), {}, []
    inputs = _read(predictor, pictures, skipped)
    for group in batches(inputs, batch):
        for each, instances in zip(group, predictor.detect(group), strict=True):
            name = names[each.index]
            rows[each.index] = rows_of(instances, classes, ids[name], pictures[name])
            _write_picture(drawn(each, instances, classes, score), output / copy_name(name))
    rows = [row for index in sorted(rows) for row in rows[index]]
    if len(skipped) == len(pictures):
        raise UserError(f"none of {len(pictures)} pictures could be read")
    replace_file(output / RESULTS, lambda file: file.write(json.dumps(rows).encode()))
    if skipped:
        logger.warning(f"skipped {len(skipped)} of {len(pictures)} pictures: {few(skipped, NAMED)}")
    return len(pictures) - len(skipped), len(rows)


def _read(predictor: Predictor, pictures: dict[str, Path], skipped: list) -> Iterator[Input]:
    """The pictures that can be read; the others are named, and appended to `skipped`."""
    paths = enumerate(pictures.values())
    for index, path in progress(paths, len(pictures), "pictures", logger):
        try:
            with warnings.catch_warnings():  # Pillow's, about damaged EXIF data for example
                warnings.simplefilter("ignore")
                picture, pixels = predictor.read(path)
        except Exception as error:  # Pillow may raise any exception for damaged files
            logger.warning(f"skipped {path}: it cannot be read: {reason(error)}")
            skipped.append(path)
            continue
        yield Input(index, picture, pixels)


def batches(inputs: Iterable[Input], size: int) -> Iterator[list[Input]]:
    """Groups of up to `size` inputs of one shape, so that each detects what it would alone:
    detectron2 would pad the smaller ones."""
    waiting = defaultdict(list)
    for each in inputs:
        group = waiting[each.pixels.shape]
        group.append(each)
        if len(group) == size:
            yield waiting.pop(each.pixels.shape)
        elif sum(map(len, waiting.values())) >= WAITING * size:
            yield waiting.pop(max(waiting, key=lambda shape: len(waiting[shape])))
    yield from waiting.values()


def check_options(score: float, batch: int) -> None:
    """Raises UsageError unless the score is from 0 to 1, and the batch at least 1."""
    if not 0 <= score <= 1:
        raise UsageError(f"score {score}: expected a number from 0 to 1")
    if batch < 1:
        raise UsageError(f"batch {batch}: expected a number of pictures, 1 or more")


def check_output(output: Path, pictures: Iterable[Path]) -> None:
    """Make the folder for drawn copies, and refuse one that holds an original."""
    folder = os.path.realpath(output)
    for path in pictures:
        if folder in (os.path.realpath(path.parent), os.path.dirname(os.path.realpath(path))):
            raise UsageError(
                f"output {output} is the folder of {path}, which a copy might replace;"
                " choose another folder"
            )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output {output}: {error.strerror}; choose another folder") from None


def drawn(each: Input, instances: Instances, classes: Classes, score: float) -> Image.Image:
    """The picture with those of its detections that reach the score."""
    return draw(Image.fromarray(each.picture), instances[instances.scores >= score], classes)


def draw(picture: Image.Image, instances: Instances, classes: Classes) -> Image.Image:
    """Draw boxes and outlines of masks on the picture, in place, in the colour of their class.

    Text and lines scale with the picture, so that they are legible when it is shown as a whole.
    """
    size = max(10, round(math.sqrt(picture.width * picture.height) / 45))
    pen = ImageDraw.Draw(picture)
    order = instances.scores.argsort()  # the highest score on top
    masks = instances.pred_masks if instances.has("pred_masks") else None
    for number in order.tolist():
        output = int(instances.pred_classes[number])
        colour = class_colour(output)
        if masks is not None:
            _draw_outline(picture, masks[number].numpy(), colour, max(2, size // 6))
        label = f"{classes.name(output)} {float(instances.scores[number]):.2f}"
        draw_box(pen, instances.pred_boxes.tensor[number].tolist(), label, colour, size)
    return picture


def _draw_outline(picture: Image.Image, mask: np.ndarray, colour, width: int) -> None:
    """Draw the outline, `width` pixels wide, of a mask, (H, W) bool."""
    whole = Image.fromarray(mask.astype(np.uint8) * 255)
    box = whole.getbbox()
    if box is None:
        return
    left, top = box[0] - 1, box[1] - 1
    # The crop reaches past the picture's edges, so that a mask has an outline there, too.
    part = inner = whole.crop((left, top, box[2] + 1, box[3] + 1))
    for _ in range(width):
        inner = inner.filter(ImageFilter.MinFilter(3))
    picture.paste(colour, (left, top), ImageChops.subtract(part, inner))


def rows_of(instances: Instances, classes: Classes, image_id: int, path: Path) -> list[dict]:
    """The detections of one picture in COCO results format."""
    rows = instances_to_coco_json(instances, image_id)
    for row in rows:
        output = row["category_id"]
        row["category_id"] = classes.id(output)
        row |= {"category": classes.name(output), "file_name": str(path)}
    return rows


def _write_picture(picture: Image.Image, path: Path) -> None:
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    replace_file(path, lambda file: picture.save(file, kind, quality=92))  # PNG has no quality
