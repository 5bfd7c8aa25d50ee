"""tools/benchmark.py: what it prints is of what it says; no figure of this machine is held to."""

import json
import math

import pytest
from conftest import assert_refused, run_tool

from randwire_det.benchmark import measure

pytestmark = pytest.mark.slow_suite

SMALL = ["--rounds", 1, "--batch", 2, "--size", 64, "--channels", 16, "--threads", 1]


def run(*args):
    done = run_tool("benchmark.py", *SMALL, "--device", "cpu", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_times_are_ratios_to_resnet50():
    result = json.loads(run("--what", "forward,train,amp,build", "--json"))
    assert "torch" in result["machine"] and "C=16" in result["machine"]["settings"]
    for what in ("forward", "train", "amp"):
        rows = result[what]["rows"]
        base = rows["ResNet-50"]["seconds"]
        assert base > 0 and {"RandWire", "RandWire, node by node"} < rows.keys()
        for row in rows.values():
            assert row["ratio"] == pytest.approx(row["seconds"] / base)
            assert row["least"] <= row["seconds"] <= row["most"]
    assert result["forward"]["rows"]["RandWire"]["over_limit"] > 0
    assert result["build"]["specs_generated_and_counted_per_second"] > 0


def test_small_networks_and_one_image():
    result = json.loads(run("--what", "latency,small,miniature", "--json"))
    assert result["latency"]["rows"]["ResNet-50, 1 threads"]["ratio"] == 1
    assert "training step, batch 2: RandWire, C=78" in result["small"]["rows"]
    rows = result["miniature"]["rows"]
    base = rows.pop("ResNet-18 / 4")
    for row in rows.values():
        seconds_per_mac = row["seconds"] / row["macs_M"]
        assert row["per_multiply_add"] == pytest.approx(
            seconds_per_mac / (base["seconds"] / base["macs_M"])
        )


@pytest.mark.slow
def test_detection_and_whole_processes():
    result = json.loads(run("--what", "predict,startup,inference_memory", "--json"))
    assert len(result["predict"]["rows"]) == 2
    assert {"train_net.py --help", "train_net.py, one iteration"} < result["startup"]["rows"].keys()
    assert all(row["MB"] > 0 for row in result["inference_memory"]["rows"].values())


def test_the_peak_of_lean_memory_is_lower():
    settings = {"what": "training", "batch": 8, "size": 128, "channels": 32, "threads": 1}
    peaks = {
        name: measure.peak_memory(f"RandWire{name}", **settings)
        for name in ("", ", lean memory", ", node by node")
    }
    assert peaks[", lean memory"] < peaks[""] < peaks[", node by node"]
    assert measure.peak_memory("RandWire", **settings | {"what": "inference"}) < peaks[""]


def test_the_peak_of_inference_is_of_the_network_that_runs():
    settings = {"what": "inference", "batch": 1, "channels": 64, "seed": 3, "threads": 1}

    def peak(name, size):
        return measure.peak_memory(name, **settings, size=size)

    # What the original of a fused copy leaves in the process is not of the copy.
    assert peak("RandWire, fuse()", 64) < 1.1 * peak("RandWire", 64)
    assert peak("RandWire, fuse()", 512) < peak("RandWire, fuse(), nodes by index", 512)


def test_a_peak_that_cannot_be_measured_is_reported():
    with pytest.raises(measure.UserError, match="the peak of VGG"):
        measure.peak_memory("VGG", what="training", batch=1, size=32)


def test_each_case_runs_once_a_round_in_changing_order():
    order = []
    cases = {name: (lambda name=name: order.append(name)) for name in "abc"}
    timings = measure.interleaved(cases, rounds=9)
    rounds = ["".join(order[at : at + 3]) for at in range(0, len(order), 3)]
    assert len(rounds) == 10  # the first is not counted
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(set(rounds)) > 2
    assert timings.keys() == cases.keys()


def test_the_exponent_of_a_power_is_found():
    sizes = [1, 2, 4, 8]
    assert math.isclose(measure.exponent(sizes, [3 * size**1.5 for size in sizes]), 1.5)


@pytest.mark.parametrize(
    ("args", "fragments"),
    [
        (["--what", "forwards"], ["--what forwards", "forward"]),
        (["--rounds", 0], ["--rounds 0", "1 or more"]),
        (["--device", "mps"], ["'mps'", "cuda:1 or cpu"]),
        (["--what", "growth", "--plot", "nowhere/growth.png"], ["--plot nowhere/growth.png"]),
        (["--what", "train", "--plot", "growth.png"], ["--plot growth.png", "growth in --what"]),
    ],
)
def test_bad_usage_is_reported(args, fragments):
    done = run_tool("benchmark.py", *args)
    assert_refused(done, *fragments)
    assert done.returncode == 2
