"""What the tests of the pretraining share: three colours to tell apart, and a run that is tiny."""

import json
import struct
import zlib

import numpy as np
import pytest
from conftest import REPO, run_tool, start_python
from PIL import Image
from process_helpers import assert_same

from pretrain import data
from pretrain.config import get_cfg
from randwire_det.config.files import merge_config
from randwire_det.errors import UserError
from randwire_det.run.checkpoint import load_checkpoint

COLOURS = {"blue": (30, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}
TINY = """
MODEL: {HEAD_CHANNELS: 16, DROPOUT: 0.2,
        RANDWIRE: {REGIME: small, CHANNELS: 8, NODES: 5, K: 2, P: 0.5}}
INPUT: {SIZE: 32, TEST_RESIZE: 36, MEAN: [90, 100.5, 110], STD: [60.0, 65, 70]}
DATA: {ROOT: %s, NUM_WORKERS: 0, INDEX_DIR: %s}
SOLVER: {EPOCHS: 10, BATCH_SIZE: 8, BASE_LR: 1.6, WARMUP_EPOCHS: 2}
LOG_PERIOD: 1
DEVICE: cpu
OUTPUT_DIR: %s
"""
EPOCH_LENGTH, WARMUP, TOTAL, PEAK = 9, 18, 90, 0.05  # of TINY and what `make_folders` makes


def make_folders(root, classes=("blue", "green", "red"), train=24, val=8):
    """`root`/{train,val}/<class>/<number>.jpg, 40 x 48 pixels of noise around the class' colour."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = rng.normal(0, 40, (40, 48, 3))
                pixels = (noise + COLOURS.get(name, (128, 128, 128))).clip(0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.jpg")
    return root


def tiny_file(root, output):
    """TINY on the folders of `root` as a YAML file beside `output`, as is its DATA.INDEX_DIR."""
    path = output.with_name(f"{output.name}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TINY % (root, output.with_name(f"{output.name}_index"), output))
    return str(path)


def tiny(root, output, *overrides):
    cfg = get_cfg()
    merge_config(cfg, tiny_file(root, output), [str(value) for value in overrides])
    return cfg


def start(*args, **options):
    """tools/pretrain_imagenet.py as a process that runs on."""
    return start_python(REPO / "tools" / "pretrain_imagenet.py", *args, **options)


def tool(*args):
    """tools/pretrain_imagenet.py to its end: exit status, stdout, stderr."""
    done = run_tool("pretrain_imagenet.py", *args, timeout=120)
    return done.returncode, done.stdout, done.stderr


def metrics(output, name="metrics.jsonl"):
    return [json.loads(line) for line in (output / name).read_text().splitlines()]


def message_of(call, *args, **kwargs):
    """The message of the UserError that the call must end with: one line."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    del caught  # its traceback leads here, and to what the call opened: nothing would be freed
    assert "\n" not in message
    return message


def assert_same_run(folder, reference):
    """Weights, average, optimizer, scaler, progress, and the lines of the metrics."""
    names = sorted(path.name for path in reference.glob("*.pth"))
    assert sorted(path.name for path in folder.glob("*.pth")) == names
    for name in names:
        one, other = (vars(load_checkpoint(each / name)) for each in (folder, reference))
        folders = {"path": None, "config": None}  # the config names another OUTPUT_DIR
        assert_same(one | folders, other | folders, name)

    def lines_of(folder):
        return [line | {"images_per_second": 0} for line in metrics(folder)]

    assert lines_of(folder) == lines_of(reference)


def loaded(dataset, plan, batch_size, workers=0):
    loader = data.Loader(dataset, workers=workers, prefetch=2)
    return list(loader(np.split(plan, range(batch_size, len(plan), batch_size))))


def metric_lines(output):
    path = output / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def bomb(path):
    """A PNG of 65,000 x 65,000 pixels, as its header has it."""
    chunks = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 65000, 65000, 8, 2, 0, 0, 0)
    for chunk in (b"IHDR" + header, b"IDAT" + zlib.compress(b"")):
        chunks += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(chunks)
