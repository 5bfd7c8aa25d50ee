"""Fashion-MNIST as class folders: what is written where, what is refused, what a kill leaves."""

import gzip
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO, assert_refused, run_tool
from PIL import Image
from torchvision.datasets import ImageFolder

TOOL = "make_fashion_mnist.py"
# By label, from the description of the data set (Xiao et al. 2017).
NAMES = ["t-shirt_top", "trouser", "pullover", "dress", "coat"]
NAMES += ["sandal", "shirt", "sneaker", "bag", "ankle_boot"]
COUNTS = {"train": 40, "t10k": 20}
FOLDERS = {"train": "train", "t10k": "val"}
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(array, magic=None):
    words = [0x0800 + array.ndim if magic is None else magic, *array.shape]
    return np.array(words, ">u4").tobytes() + array.tobytes()


def arrays(prefix):
    """Images that all differ, and labels in no order."""
    rng = np.random.default_rng(len(prefix))
    labels = rng.permutation(np.arange(COUNTS[prefix]) % 10).astype(np.uint8)
    return rng.integers(256, size=(COUNTS[prefix], 28, 28), dtype=np.uint8), labels


def write_source(folder, compressed=False):
    folder.mkdir()
    for prefix in COUNTS:
        images, labels = arrays(prefix)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            path, data = folder / f"{prefix}-{name}-ubyte", idx(array)
            if compressed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
            else:
                path.write_bytes(data)
    return folder


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source")


def run(source, output, *more):
    return run_tool(TOOL, "--source", source, "--output", output, *more)


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gz"])
def test_every_image_stands_in_the_folder_of_its_class(tmp_path, compressed):
    output = tmp_path / "deep" / "out"
    done = run(write_source(tmp_path / "source", compressed), output)
    assert (done.returncode, done.stderr) == (0, "")
    assert "40 train images" in done.stdout and "20 val images" in done.stdout
    for prefix, folder in FOLDERS.items():
        images, labels = arrays(prefix)
        assert len(ImageFolder(output / folder)) == len(images)  # torchvision finds them, too
        for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            path = output / folder / NAMES[label] / f"{number:05d}.png"
            with Image.open(path) as image:
                assert (image.format, image.mode) == ("PNG", "L")
                assert np.array_equal(np.asarray(image), pixels)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "source"]
    assert [path.name for path in output.parent.iterdir()] == ["out"]


def test_the_first_images_of_each_class(source, tmp_path):
    done = run(source, tmp_path / "out", "--train-per-class", 2, "--val-per-class", 1)
    assert done.returncode == 0, done.stderr
    for prefix, count in (("train", 2), ("t10k", 1)):
        labels = arrays(prefix)[1].tolist()
        for label, name in enumerate(NAMES):
            wanted = [number for number, other in enumerate(labels) if other == label][:count]
            folder = tmp_path / "out" / FOLDERS[prefix] / name
            assert sorted(int(path.stem) for path in folder.iterdir()) == wanted


@pytest.mark.parametrize("option", ["--train-per-class", "--val-per-class"])
def test_a_class_of_no_image_is_refused(source, tmp_path, option):
    done = run(source, tmp_path / "out", option, 0)
    assert_refused(done, option, "0")
    assert done.returncode == 2
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_refused_and_left_as_it_is(source, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    done = run(source, output)
    assert_refused(done, str(output), "exists")
    assert done.returncode == 2
    assert [path.read_text() for path in output.iterdir()] == ["mine"]


def test_a_kill_leaves_no_output(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for prefix in COUNTS:  # so many that the kill comes in the middle
        labels = np.arange(60_000, dtype=np.uint32) % 10
        for name, array in (
            ("images-idx3", np.zeros((60_000, 28, 28), np.uint8)),
            ("labels-idx1", labels.astype(np.uint8)),
        ):
            (source / f"{prefix}-{name}-ubyte").write_bytes(idx(array))
    output = tmp_path / "out"
    command = [sys.executable, REPO / "tools" / TOOL, "--source", source, "--output", output]
    with subprocess.Popen(command) as process:
        while process.poll() is None and not list(tmp_path.glob(".out.partial-*/out/train/*/*")):
            pass
        process.kill()
    assert process.returncode < 0
    assert not output.exists()


def replace(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def test_a_damaged_gz_is_named(tmp_path):
    source = write_source(tmp_path / "source", compressed=True)
    path = source / f"{IMAGES}.gz"
    whole = path.read_bytes()
    for broken in (whole[:-9], b"PK" + whole[2:], whole[:60] + b"\0" * 60 + whole[120:]):
        path.write_bytes(broken)
        assert_refused(run(source, tmp_path / "out"), str(path), "damaged")
    assert not (tmp_path / "out").exists()


FAULTS = {
    "magic number": (
        replace(IMAGES, idx(arrays("train")[0], magic=0x0801)),
        (IMAGES, "0x00000801", "0x00000803"),
    ),
    "images for labels": (replace(LABELS, idx(arrays("train")[0])), (LABELS, "magic number")),
    "truncated": (replace(IMAGES, idx(arrays("train")[0])[:-1]), (IMAGES, "31375", "31376")),
    "empty": (replace(LABELS, b""), (LABELS,)),
    "header alone": (replace(IMAGES, idx(arrays("train")[0])[:9]), (IMAGES, "9 bytes")),
    "longer than it says": (replace(LABELS, idx(arrays("train")[1]) + b"\0"), (LABELS, "49")),
    "fewer labels": (replace(LABELS, idx(arrays("train")[1][:-1])), ("40 images", "39 labels")),
    "label out of range": (replace(LABELS, idx(arrays("train")[1] + 1)), ("label 10", "0 to 9")),
    "another size": (replace(IMAGES, idx(arrays("train")[0][:, :20])), ("20 x 28", "28 x 28")),
    "missing file": (
        lambda folder: (folder / "t10k-labels-idx1-ubyte").unlink(),
        ("t10k-labels-idx1-ubyte", "no such file", "--help"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_source_is_one_line_and_writes_nothing(source, tmp_path, fault):
    spoil, fragments = FAULTS[fault]
    spoil(source)
    done = run(source, tmp_path / "out")
    assert_refused(done, str(source), *fragments)
    assert done.returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_help_says_where_to_get_the_files():
    text = run_tool(TOOL, "--help").stdout
    assert "dataset-fashion-mnist" in text and "zalandoresearch/fashion-mnist" in text
