"""Tables of detectors beside detectron2's R50-FPN: a training step, and detection in pictures."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from . import measure, networks
from .settings import Settings, byte_table, table

R50, RANDWIRE = list(networks.DETECTORS)[:2]


def detect(settings: Settings) -> dict:
    """A training step of Faster R-CNN, C=109, FrozenBN, FREEZE_AT 2, 2 images of 512 x 512."""
    device = settings.device
    cases = {name: networks.detection_step(name, device) for name in networks.DETECTORS}
    rows = table(measure.interleaved(cases, settings.rounds, device), R50)
    at = {"device": device, "threads": settings.threads}
    peaks = {name: measure.peak_memory(name, **at) for name in cases}
    for name, peak in byte_table(peaks, R50).items():
        rows[name] |= {"peak_MB": peak["MB"], "peak_ratio": peak["ratio"]}
    return {"rows": rows}


def predict(settings: Settings) -> dict:
    """From a picture file to its detections, at 800 x 1088: tools/predict.py's way, with the copy
    drawn and written, and detectron2's DefaultPredictor, which only detects."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "noise.jpg")
        pixels = np.random.default_rng(0).integers(0, 256, (100, 136, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((544, 400)).save(path)
        cases = {
            f"DefaultPredictor, {R50}": _default_predictor(path, settings.device),
            f"tools/predict.py, {RANDWIRE}": _our_predictor(path, Path(folder, "out"), settings),
        }
        rows = table(
            measure.interleaved(cases, settings.rounds, settings.device), next(iter(cases))
        )
    for row in rows.values():
        row["pictures_per_second"] = 1 / row["seconds"]
    return {"rows": rows}


def _default_predictor(path: Path, device: str) -> Callable[[], object]:
    from detectron2.data.detection_utils import read_image
    from detectron2.engine import DefaultPredictor

    _, cfg = networks.detector(R50, device)
    predictor = DefaultPredictor(cfg)
    # Else its maps grow without bound, next to no proposal is left, and its head has nothing to do.
    networks.calibrate_frozen(predictor.model, _inputs(predictor.model, cfg, path))
    return lambda: predictor(read_image(str(path), cfg.INPUT.FORMAT))


def _our_predictor(path: Path, output: Path, settings: Settings) -> Callable[[], object]:
    from ..detection.predict import Classes, Predictor, predict

    model, cfg = networks.detector(RANDWIRE, settings.device)
    networks.calibrate_frozen(model, _inputs(model, cfg, path))
    predictor, classes = Predictor(model, cfg), Classes(cfg, None)
    return lambda: predict(predictor, classes, {path.name: path}, output)


def _inputs(model: nn.Module, cfg, path: Path) -> list[dict]:
    """A picture as a detector's input, resized as its config says."""
    from ..detection.predict import Predictor

    picture, pixels = Predictor(model, cfg).read(path)
    return [{"image": pixels, "height": picture.shape[0], "width": picture.shape[1]}]
