"""The loader's benchmark: it counts real images, adds up, and refuses what it cannot measure."""

import json
import math
import os

import pytest
from conftest import assert_refused, run_tool
from pretrain_helpers import make_folders, tiny_file

pytestmark = pytest.mark.slow_suite


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = make_folders(tmp_path_factory.mktemp("images"), train=4, val=1)
    for folder in [root / "train", *(root / "train").iterdir()]:
        os.utime(folder, (10**9, 10**9))  # just changed, they would get no index
    return root


def benchmark(root, output, *args):
    config = tiny_file(root, output)
    return run_tool("benchmark_loader.py", "--config-file", config, "--seconds", 0.1, *args)


def test_rates_and_the_estimate_of_workers(root, tmp_path):
    done = benchmark(root, tmp_path / "run", "--workers", "0,2", "--rate", 1e6, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert (result["images"], result["batch_size"], result["size"]) == (12, 8, 32)
    rates = result["images_per_second"]
    assert rates.keys() == {"0", "2"} and min(rates.values()) > 0
    each = rates["2"] / min(2, result["cores"])
    assert result["estimated_workers"] == math.ceil(1e6 / each)
    assert result["scan_seconds"] > 0 and result["index_seconds"] > 0
    assert not (tmp_path / "run").exists()


def test_text_says_that_an_index_could_not_be_kept(tmp_path):
    root = make_folders(tmp_path / "new", classes=("blue",), train=3, val=1)
    os.utime(root / "train" / "blue", (4 * 10**9, 4 * 10**9))  # it changes in the future
    done = benchmark(root, tmp_path / "run", "--workers", 1, "--rate", 50)
    assert done.returncode == 0, done.stderr
    assert "3 images, in batches of 3 crops of 32 x 32" in done.stdout
    assert "not kept" in done.stdout and "50 images/s would take" in done.stdout


def test_what_cannot_be_measured_is_refused(root, tmp_path):
    output = tmp_path / "run"
    assert_refused(benchmark(root, output, "--rate", 0), "--rate 0.0")
    assert_refused(benchmark(root, output, "--workers", -1), "--workers -1")
    assert_refused(benchmark(tmp_path / "none", output), str(tmp_path / "none" / "val"))


def test_a_broken_image_is_one_line_without_a_workers_traceback(tmp_path):
    root = make_folders(tmp_path / "images", train=4, val=1)
    broken = root / "train" / "green" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    assert_refused(benchmark(root, tmp_path / "run", "--workers", 2), str(broken))
