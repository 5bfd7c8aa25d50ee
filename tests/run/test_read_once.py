"""Every command reads a checkpoint once, and hands on what it read."""

import os
import shutil
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from config_reading import DATASET, one_image
from detection_helpers import tiny_config, tiny_detector
from PIL import Image
from pretrain_helpers import tiny

from pretrain import commands as pretraining
from randwire_det.detection import commands as detection
from randwire_det.detection.predict import Classes, Predictor, predict
from randwire_det.detection.stored import load_detector
from randwire_det.detection.trainer import build_checkpointer

opened: Counter | None = None  # by name of the file, while `reads` counts


def _note(event, args):
    if event == "open" and opened is not None and isinstance(args[0], str | os.PathLike):
        path, _, flags = args
        if str(path).endswith(".pth") and flags & os.O_ACCMODE == os.O_RDONLY:
            opened[Path(path).name] += 1


sys.addaudithook(_note)  # for good: Python takes none away


@contextmanager
def reads():
    """How often each file *.pth is opened to be read in the block, by any means of Python's."""
    global opened
    opened = counted = Counter()
    try:
        yield counted
    finally:
        opened = None


RUN = {
    "DATASETS.TRAIN": (DATASET,),
    "DATASETS.TEST": (DATASET,),
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.MAX_ITER": 1,
    "SOLVER.STEPS": (),
    "SOLVER.EMA_DECAY": 0.9,
    "TEST.REPORT": False,
}


@pytest.fixture
def detect(tmp_path, monkeypatch):
    """Calls a command of detection, and counts the files it opens; OUTPUT_DIR is run/."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    # It takes loggers away from pytest, and from the tests that come after.
    monkeypatch.setattr(detection, "setup_logger", lambda *args, **options: None)
    Image.effect_noise((96, 64), 90).convert("RGB").save(tmp_path / "1.png")

    def call(command, *, resuming=False, **changes):
        with one_image(tmp_path, 3) as row:
            rows = {"DATASETS.COCO": [row], "OUTPUT_DIR": tmp_path / "run"}
            cfg = tiny_config(**RUN | rows | changes)
            with reads() as counted:
                command(cfg, resuming=resuming)
        return counted

    return call


def test_detection_reads_a_checkpoint_once(detect, tmp_path):
    build_checkpointer(tiny_config(OUTPUT_DIR=tmp_path), tiny_detector()).save("start")
    weights = {"MODEL.WEIGHTS": tmp_path / "start.pth"}
    assert detect(detection.train, **weights) == {"start.pth": 1}
    (tmp_path / "run/model_0000009.pth").write_bytes(b"cut")
    (tmp_path / "run/last_checkpoint").write_text("model_0000009.pth")
    longer = weights | {"SOLVER.MAX_ITER": 2}
    found = {"model_0000009.pth": 1, "model_final.pth": 1}
    assert detect(detection.train, resuming=True, **longer) == found
    assert detect(detection.evaluate_only, resuming=True) == {"model_final.pth": 1}
    final = {"MODEL.WEIGHTS": tmp_path / "run/model_final.pth"}
    assert detect(detection.evaluate_only, **final) == {"model_final.pth": 1}


def test_a_checkpoint_that_is_the_spec_is_read_once(detect, tmp_path):
    build_checkpointer(tiny_config(OUTPUT_DIR=tmp_path), tiny_detector()).save("spec")
    wiring = {"MODEL.RANDWIRE.SPEC": tmp_path / "spec.pth"}
    assert detect(detection.train, **wiring) == {"spec.pth": 1}
    shutil.copy(tmp_path / "spec.pth", tmp_path / "copy.pth")
    wiring = {"MODEL.RANDWIRE.SPEC": tmp_path / "copy.pth"}
    final = {"MODEL.WEIGHTS": tmp_path / "run/model_final.pth"}
    found = {"copy.pth": 1, "model_final.pth": 1}
    assert detect(detection.evaluate_only, **wiring, **final) == found


def test_predictions_read_a_checkpoint_once(detect, tmp_path):
    build_checkpointer(tiny_config(OUTPUT_DIR=tmp_path), tiny_detector()).save("model_final")
    with reads() as counted:
        model, cfg, names = load_detector(tmp_path / "model_final.pth", "cpu")
        pictures = {"1.png": tmp_path / "1.png"}
        predict(Predictor(model, cfg), Classes(cfg, names), pictures, tmp_path / "found")
    assert counted == {"model_final.pth": 1}


def test_pretraining_reads_a_checkpoint_once(colours, unbroken, tmp_path):
    shutil.copytree(unbroken, tmp_path / "run")
    (tmp_path / "run/model_final.pth").unlink()  # so that something is left to do
    (tmp_path / "run/checkpoint_00000099.pth").write_bytes(b"cut")
    whole = "checkpoint_00000090.pth"
    with reads() as counted:
        assert pretraining.train(tiny(colours, tmp_path / "run"), resuming=True) == 0
    assert counted == {"checkpoint_00000099.pth": 1, whole: 1}
    (tmp_path / "run/checkpoint_00000099.pth").unlink()
    with reads() as counted:
        pretraining.evaluate_only(tiny(colours, tmp_path / "run"), resuming=True)
    assert counted == {whole: 1}
    weights = "MODEL.WEIGHTS", tmp_path / "run/model_final.pth"
    with reads() as counted:
        pretraining.evaluate_only(tiny(colours, tmp_path / "other", *weights))
    assert counted == {"model_final.pth": 1}
