"""Every tool tells its defaults and an example, and the example's command is one that exists."""

import pytest
from conftest import REPO, run_python, run_tool

pytestmark = pytest.mark.slow_suite

# Modules that a tool imports, and no commands themselves.
TOOLS = sorted(path.name for path in (REPO / "tools").glob("*.py") if path.stem != "demo_report")


@pytest.mark.parametrize("name", TOOLS)
def test_help_states_defaults_and_an_example(name):
    done = run_python(REPO / "tools" / name, "--help")  # the one test with a fresh Python for each
    assert done.returncode == 0, done.stderr
    text = done.stdout.lower()
    assert "default" in text
    assert f"tools/{name}" in text.partition("example")[2]


@pytest.mark.parametrize("name", TOOLS)
def test_an_unknown_option_is_a_usage_error(name):
    done = run_tool(name, "--no-such-option")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
