"""Videos: detected in frame by frame, and copied."""

import json
import re

import numpy as np
import pytest
from conftest import run_tool
from PIL import Image

from randwire_det.detection.predict import (
    Input,
    Predictor,
)
from randwire_det.detection.stored import load_detector


def a_video(path, codec="mp4v", frames=5):
    import cv2

    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 8.0, (96, 64))
    for _ in range(frames):
        blocks = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        writer.write(np.asarray(Image.fromarray(blocks).resize((96, 64), Image.NEAREST)))
    writer.release()


def frames_of(path):
    import cv2

    reader, frames = cv2.VideoCapture(str(path)), []
    while (read := reader.read())[0]:
        frames.append(read[1][:, :, ::-1])
    return frames, reader.get(cv2.CAP_PROP_FPS)


def test_a_video_is_detected_in_frame_by_frame(a_detector, pictures, tmp_path):
    a_video(tmp_path / "clip.avi", "MJPG")
    a_video(tmp_path / "clip.mp4")
    output = tmp_path / "out"
    options = ["--weights", a_detector[2], "--device", "cpu", "--score", "0.9", "--batch", "2"]
    inputs = [tmp_path / "clip.*", pictures / "colour.png"]
    done = run_tool("predict.py", *options, "--output", output, "--input", *inputs)
    assert done.returncode == 0, done.stderr
    videos = {"clip.avi.json", "clip.avi.mp4", "clip.mp4", "clip.mp4.json"}
    assert {path.name for path in output.iterdir()} == videos | {"colour.png", "predictions.json"}
    assert len(re.findall(r"[\d.]+ frames/s", done.stdout)) == 2
    assert len(re.findall(r"[\d.]+ pictures/s", done.stdout)) == 1
    predictor = Predictor(*load_detector(a_detector[2], "cpu")[:2])
    frames, rate = frames_of(tmp_path / "clip.avi")
    rows = json.loads((output / "clip.avi.json").read_text())
    assert rate == 8.0 and len(frames) == 5
    for number, frame in enumerate(frames, start=1):
        (alone,) = predictor.detect([Input(0, frame, predictor.prepare(frame))])
        ours = [row for row in rows if row["image_id"] == number]
        assert [row["score"] for row in ours] == pytest.approx(alone.scores.tolist(), abs=1e-4)
    copies, rate = frames_of(output / "clip.avi.mp4")
    assert rate == 8.0 and len(copies) == 5
    for copy, frame in zip(copies, frames, strict=True):
        assert copy.shape == frame.shape  # nothing reaches the score: only the codec's loss
        assert np.abs(copy.astype(int) - frame).mean() < 12


def test_a_video_that_is_none_is_refused(a_detector, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    options = ["--weights", a_detector[2], "--device", "cpu", "--output", tmp_path / "out"]
    done = run_tool("predict.py", *options, "--input", tmp_path / "clip.mp4")
    assert done.returncode == 1
    assert "clip.mp4: no frame can be read" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "out").iterdir())
