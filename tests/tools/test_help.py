"""Every tool tells its defaults and an example, and the example's command is one that exists."""

import pytest
from conftest import REPO, run_python, run_tool

pytestmark = pytest.mark.slow_suite

# Modules that a tool imports, and no commands themselves.
TOOLS = sorted(path.name for path in (REPO / "tools").glob("*.py") if path.stem != "demo_report")


@pytest.mark.parametrize("name", TOOLS)
def test_help_states_defaults_and_an_example(name):
    # The one test with a fresh Python for each.
    done = run_python("-X", "importtime", REPO / "tools" / name, "--help")
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"torch", "detectron2", "matplotlib"}  # they take seconds
    text = done.stdout.lower()
    assert "default" in text
    assert f"tools/{name}" in text.partition("example")[2]


@pytest.mark.parametrize("name", TOOLS)
def test_an_unknown_option_is_a_usage_error(name):
    done = run_tool(name, "--no-such-option")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
