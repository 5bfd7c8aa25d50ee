"""tools/gpu_check.py on a CPU: what it says is right, and that it can say WRONG."""

import json
import math

import pytest
from conftest import assert_refused, run_tool
from ways_on_device import Row

pytestmark = pytest.mark.slow_suite


def test_ways_and_speed_are_reported(tmp_path):
    output = tmp_path / "out"
    done = run_tool(
        *["gpu_check.py", "--device", "cpu", "--what", "ways,speed", "--rounds", 1],
        *["--output", output],
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((output / "gpu_check.json").read_text())
    assert result["ways"] and all(row["right"] for row in result["ways"])
    for row in result["speed"]:
        assert 0 < row["least"] <= row["ms"] <= row["most"]
    assert {row["what"] for row in result["speed"]} == {"inference", "training"}
    table = (output / "gpu_check.md").read_text()
    assert f"ways: {len(result['ways'])} of {len(result['ways'])} are right" in table
    assert table.count("\n| inference") == sum(r["what"] == "inference" for r in result["speed"])


@pytest.mark.parametrize(
    ("error", "right"), [(1e-13, True), (1.9e-3, True), (2.1e-3, False), (math.nan, False)]
)
def test_an_error_is_held_against_that_of_torchs_modules(error, right):
    row = Row("net", "fp32", "way", {"maps": 0.0, "edges": error}, {"maps": 0.0, "edges": 1e-3})
    assert row.is_right is right


@pytest.mark.skipif("__import__('torch').cuda.is_available()")
def test_without_a_gpu_it_is_refused():
    assert_refused(run_tool("gpu_check.py"), "--device cuda", "--device cpu")


@pytest.mark.slow
def test_trainings_are_resumed(tmp_path):
    done = run_tool(
        *["gpu_check.py", "--device", "cpu", "--what", "trainings", "--output", tmp_path / "out"],
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "out" / "gpu_check.json").read_text())["trainings"]
    assert len(rows) == 4 and all(row["right"] for row in rows)
