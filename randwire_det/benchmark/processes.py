"""Tables of whole processes: importing and building, and how soon the tools are at work."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from ..errors import UserError
from . import measure
from .settings import Settings

TOOLS = Path(__file__).resolve().parents[2] / "tools"
OUTPUT = "out"  # of the training, removed before the next
BUILD = """
import time; begun = time.perf_counter()
from randwire_det import generate
from randwire_det.network import RandWireClassifier
spec = generate('ws', seed=1, regime='regular', channels={channels}, k=4, p=0.75)
RandWireClassifier(spec); print(time.perf_counter() - begun)
"""


def build(settings: Settings) -> dict:
    """A fresh process that imports, samples and builds; and networks sampled and counted."""
    code = BUILD.format(channels=settings.channels)
    seconds = sorted(float(_run([sys.executable, "-c", code])) for _ in range(3))
    specs = list(measure.specs_generated(3.0, settings.channels))
    return {
        "import_generate_build_seconds": seconds[1],
        "specs_generated_and_counted_per_second": len(specs) / sum(specs),
    }


def startup(settings: Settings) -> dict:
    """Seconds of every tool's --help, and of a training of one iteration of train_net.py on four
    pictures of noise, from its start to its end."""
    tools = sorted(path for path in TOOLS.glob("*.py") if "cli.run(main)" in path.read_text())
    if not tools:
        raise UserError(f"no tools in {TOOLS}; expected a clone of the repository")
    with tempfile.TemporaryDirectory() as folder:
        commands = {f"{path.name} --help": [sys.executable, path, "--help"] for path in tools}
        commands["train_net.py, one iteration"] = _one_iteration(Path(folder))
        seconds = {name: [] for name in commands}
        for _ in range(settings.rounds):
            for name, command in commands.items():
                shutil.rmtree(Path(folder, OUTPUT), ignore_errors=True)
                begun = time.perf_counter()
                _run(command)
                seconds[name].append(time.perf_counter() - begun)
    return {"rows": {name: {"seconds": median(each)} for name, each in seconds.items()}}


def _one_iteration(folder: Path) -> list:
    """The command, with its data below the folder and OUTPUT_DIR in it."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{number}.png")
    box = {"bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0, "category_id": 1}
    names = [f"{number}.png" for number in range(len(pixels))]
    truth = {
        "categories": [{"id": 1, "name": "noise"}],
        "images": [
            {"id": number, "file_name": name, "height": 96, "width": 96}
            for number, name in enumerate(names)
        ],
        "annotations": [box | {"id": number, "image_id": number} for number in range(len(names))],
    }
    (folder / "noise.json").write_text(json.dumps(truth))
    keys = {
        "DATASETS.COCO": [["noise", str(folder / "noise.json"), str(folder)]],
        "DATASETS.TRAIN": ("noise",),
        "DATASETS.TEST": (),
        "MODEL.ROI_HEADS.NUM_CLASSES": 1,
        "MODEL.WEIGHTS": "",
        "MODEL.DEVICE": "cpu",
        "SOLVER.MAX_ITER": 1,
        "SOLVER.STEPS": (),
        "OUTPUT_DIR": folder / OUTPUT,
    }
    config = ["--config-file", "faster_rcnn_randwire_digits.yaml"]
    settings = [each for key, value in keys.items() for each in (key, str(value))]
    return [sys.executable, TOOLS / "train_net.py", *config, *settings]


def _run(command: list) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"{' '.join(map(str, command[:3]))}: {last}")
    return done.stdout
