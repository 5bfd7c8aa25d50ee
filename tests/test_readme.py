"""The README's code runs as it stands, and its figures are what the tools print."""

import re

import pytest
from conftest import REPO, run_python, run_tool

README = (REPO / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_snippets_to_run():
    assert len(SNIPPETS) >= 2


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet_runs_from_any_directory(tmp_path, number):
    script = tmp_path / "snippet.py"
    script.write_text(SNIPPETS[number], encoding="utf-8")
    done = run_python(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "conv5" in done.stdout or "p6" in done.stdout


@pytest.mark.parametrize("row", re.findall(r"^\| (?:small|regular), C=.*", README, re.MULTILINE))
def test_the_table_of_counts_is_what_the_tool_prints(row):
    regime, channels, params, macs = re.match(
        r"\| (\w+), C=(\d+) \| (.*?) / .*? \| (.*?) / ", row
    ).groups()
    options = ["--k", 4, "--p", 0.75, "--regime", regime, "--channels", channels]
    (mean,) = [
        line
        for line in run_tool("analyze_model.py", *options).stdout.splitlines()
        if line.split()[0] == "mean"
    ]
    assert params in mean
    assert macs in mean


def test_every_file_and_command_it_names_is_there():
    for path in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (REPO / path).exists(), path
    for tool in re.findall(r"python (tools/\w+\.py)", README):
        assert (REPO / tool).exists(), tool
