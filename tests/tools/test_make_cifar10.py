"""CIFAR-10 as class folders, from torchvision's files and from pictures; what is refused."""

import hashlib
import io
import pickle
import sys
import tarfile

import numpy as np
import pytest
from conftest import REPO, assert_refused, run_tool
from PIL import Image
from torchvision.datasets import CIFAR10, ImageFolder

TOOL = "make_cifar10.py"
# By label, from the description of the data set (Krizhevsky 2009).
NAMES = ["airplane", "automobile", "bird", "cat", "deer"]
NAMES += ["dog", "frog", "horse", "ship", "truck"]
ONE_EACH = ["--train-per-class", 1, "--val-per-class", 1]


@pytest.fixture
def pictures(tmp_path):
    """A folder of two training pictures and one test picture a class, and a file beside them."""
    root = tmp_path / "pictures"
    for split, count in (("train", 2), ("val", 1)):
        for label, name in enumerate(NAMES):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (32, 32), (20 * label, 100 * number, 50))
                image.save(root / split / name / f"{number}.jpg")
    (root / "train" / "cat" / "readme.txt").write_text("not a picture")
    return root


def packed(folder, path):
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "somewhere/cifar10")
    return path


@pytest.mark.parametrize("archive", [False, True])
def test_pictures_are_copied_as_they_are(pictures, tmp_path, archive):
    source = packed(pictures, tmp_path / "pictures.tar.gz") if archive else pictures
    done = run_tool(TOOL, "--source", source, "--output", tmp_path / "out", *ONE_EACH)
    assert done.returncode == 0, done.stderr
    assert "10 train images, 10 val images of 10 classes" in done.stdout
    for split in ("train", "val"):
        found = ImageFolder(tmp_path / "out" / split)
        assert (found.classes, len(found)) == (NAMES, 10)
    for name in NAMES:
        copy = tmp_path / "out" / "train" / name / "0.jpg"
        assert copy.read_bytes() == (pictures / "train" / name / "0.jpg").read_bytes()


def test_torchvisions_files(tmp_path, monkeypatch):
    """Random images in torchvision's format, by its own reader, with their checksums in place."""
    rng, root, sums, batches = np.random.default_rng(0), tmp_path / "root", {}, {}
    (root / CIFAR10.base_folder).mkdir(parents=True)
    files = [name for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)]
    for name in files:
        data = rng.integers(256, size=(20, 3 * 32 * 32), dtype=np.uint8)
        batches[name] = {"data": data, "labels": list(rng.permutation(20) % 10)}
    for name, content in {**batches, "batches.meta": {"label_names": NAMES}}.items():
        path = root / CIFAR10.base_folder / name
        path.write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5(path.read_bytes()).hexdigest()
    for each in ("train_list", "test_list"):
        listed = [[name, sums[name]] for name, _ in getattr(CIFAR10, each)]
        monkeypatch.setattr(CIFAR10, each, listed)
    monkeypatch.setitem(CIFAR10.meta, "md5", sums["batches.meta"])
    monkeypatch.syspath_prepend(REPO / "tools")
    import make_cifar10

    per_class = {"train": 10, "val": 2}
    counts = make_cifar10.make_cifar10(root, tmp_path / "out", per_class=per_class)
    assert counts == {"train": 100, "val": 20}
    for split, names in (("train", files[:-1]), ("val", files[-1:])):
        data = np.concatenate([batches[name]["data"] for name in names])
        labels = [label for name in names for label in batches[name]["labels"]]
        for index, (pixels, label) in enumerate(zip(data, labels, strict=True)):
            with Image.open(tmp_path / "out" / split / NAMES[label] / f"{index:05d}.png") as image:
                assert np.array_equal(image, pixels.reshape(3, 32, 32).transpose(1, 2, 0))
    sys.modules.pop("make_cifar10")


def test_what_is_refused_leaves_nothing(pictures, tmp_path):
    output = tmp_path / "out"

    def refused(status, *fragments, source=pictures, options=ONE_EACH):
        done = run_tool(TOOL, "--source", source, "--output", output, *options)
        assert_refused(done, *fragments)
        assert done.returncode == status and not output.exists()
        assert not list(tmp_path.glob(".out*"))

    refused(1, "2 pictures of train/airplane", "5000", options=[])
    refused(2, "--train-per-class 0", options=["--train-per-class", 0])
    refused(1, "nowhere", "--source", source=tmp_path / "nowhere")
    broken = packed(pictures, tmp_path / "broken.tar.gz")
    broken.write_bytes(broken.read_bytes()[:400])
    refused(1, "broken.tar.gz", "damaged", source=broken)
    text = io.BytesIO(b"no archive")
    (tmp_path / "text.tar").write_bytes(text.getvalue())
    refused(1, "text.tar", source=tmp_path / "text.tar")


def test_an_existing_output_is_left_as_it_is(pictures, tmp_path):
    (tmp_path / "out").mkdir()
    done = run_tool(TOOL, "--source", pictures, "--output", tmp_path / "out", *ONE_EACH)
    assert_refused(done, "exists")
    assert done.returncode == 2 and not any((tmp_path / "out").iterdir())
