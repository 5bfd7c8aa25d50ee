"""Tables 1 to 4 whole: counts of the paper's networks, by one counter, and where runs go."""

import json
import sys

import pytest
import torch
from conftest import REPO, run_tool, tiny_spec
from tables_helpers import TOOL, papers_run, rows_of

from randwire_det.network import RandWireClassifier
from randwire_det.network.counting import count_module
from randwire_det.spec.complexity import complexity
from randwire_det.tables import rivals
from randwire_det.tables.paper import PAPER
from randwire_det.tables.rendering import FORMATS, to_json, to_markdown

TABLES = ["Table 2", "Table 3", "Table 4"]
UNITS = {"M": 1e6, "G": 1e9}


@pytest.fixture(scope="module")
def rows():
    return rivals.whole_tables(TABLES, [])


def figure(text):
    """ "4.0 ± 0.09 G" as 4e9."""
    return float(text.split()[0]) * UNITS[text.split()[-1]]


def test_every_row_of_the_paper_in_its_order(rows):
    assert [(row.name, row.columns["size"]) for row in rows] == list(PAPER)
    assert [row.table for row in rows] == sorted(row.table for row in rows)
    assert {row.name for row in rows if row.values["macs"] is None} == {
        *("ShuffleNet", "NASNet-A", "NASNet-B", "NASNet-C"),
        *("Amoeba-A", "Amoeba-B", "Amoeba-C", "PNAS", "DARTS"),
    }


def test_counts_are_the_papers_figures(rows):
    """MobileNet v2's parameters are not; docs/experiments.md has what its authors' code counts."""
    counted = [row for row in rows if row.values["macs"]]
    assert len(counted) == 13
    for row in counted:
        assert row.values["macs"].mean == pytest.approx(figure(row.paper.macs), rel=0.03)
        far = 0.12 if row.name == "MobileNet v2" else 0.02
        assert row.values["params"].mean == pytest.approx(figure(row.paper.params), rel=far)


@pytest.mark.parametrize("model", ["er", "ba", "ws"])
def test_a_randwire_counts_the_same_by_its_layers(model):
    """The aggregation is no layer: an edge into a sum costs an addition for each element."""
    spec = tiny_spec(model, regime="regular")
    with torch.device("meta"):
        network = RandWireClassifier(spec, 10, head_channels=16)
    ours, theirs = complexity(spec, 64, 10, 16), count_module(network, 64)
    aggregated, size = 0, 64
    for stage in spec.stages:
        size = -(-size // stage.stride)
        degrees = [len(each) for each in stage.dag.predecessors] if stage.dag else []
        aggregated += sum(each for each in degrees if each > 1) * stage.channels * size**2
    assert (ours.params, ours.activations) == (theirs.params, theirs.activations)
    assert ours.macs == theirs.macs + aggregated


def test_runs_fill_their_cells(tmp_path):
    runs = [papers_run(tmp_path / f"c78_{seed}", 78, seed) for seed in (1, 2)]
    other = papers_run(tmp_path / "other", 78, 3, SOLVER__EPOCHS=5)
    rows = rivals.whole_tables(["Table 2"], rows_of(*runs, other))
    by_name = {row.name: row for row in rows}
    (ran,) = [row for row in rows if row.runs and row.table == "Table 2"]
    assert ran.name == "RandWire-WS(4, 0.75), C=78"
    assert ran.values["top1"].mean == pytest.approx(78.15)
    assert by_name["MobileNet"].values["top1"] is None
    assert [row.table for row in rows if row.table != "Table 2"] == ["other"]
    text = to_markdown(rows)
    (line,) = [line for line in text.splitlines() if "C=78 |" in line and "| 250 |" in line]
    assert "| 2 | 78.15 ± 0.07 | 74.7 ± 0.25 |" in line
    (line,) = [line for line in text.splitlines() if line.startswith("| MobileNet |")]
    assert "| not run | - | 70.6 |" in line
    assert json.loads(to_json(rows))[0]["params"]["mean"] == pytest.approx(4.2e6, rel=0.02)


def test_a_count_far_from_the_papers_says_so(rows):
    lines = {
        line.split("|")[1].strip(): line for line in to_markdown(rows).splitlines() if "|" in line
    }
    assert "(-11 %)" in lines["MobileNet v2"]
    assert [name for name, line in lines.items() if " %)" in line] == ["MobileNet v2"]
    differ = {row["name"]: row["differs"] for row in json.loads(to_json(rows)) if row["differs"]}
    ours = {row.name: row.values["params"] for row in rows}["MobileNet v2"].mean
    theirs = figure(PAPER["MobileNet v2", 224].params)
    assert differ == {"MobileNet v2": {"params": pytest.approx(ours / theirs - 1, abs=1e-4)}}


def test_table_1_has_the_papers_formulas():
    """conv1 has C/2 channels, rounded down, and conv2 of the regular regime N/2 nodes."""
    *stages, (classifier, size, *heads) = rivals.architectures()
    assert [name for name, *_ in stages] == [f"conv{number}" for number in range(1, 6)]
    assert [output for _, output, *_ in stages] == [f"{n} x {n}" for n in (112, 56, 28, 14, 7)]
    c, n = 78, 32
    wired = [f"random wiring, N={n}, {c * times}" for times in (1, 2, 4)]
    assert [small for *_, small, _ in stages] == [f"3x3 conv, {c // 2}", f"3x3 conv, {c}", *wired]
    c = 109
    wired = [f"random wiring, N={n}, {c * times}" for times in (2, 4, 8)]
    half = f"random wiring, N={n // 2}, {c}"
    assert [regular for *_, regular in stages] == [f"3x3 conv, {c // 2}", half, *wired]
    assert (classifier, size) == ("classifier", "1 x 1")
    assert heads == ["1x1 conv 1280, average pool, 1000-d fc"] * 2


def test_the_docs_hold_the_counts(rows):
    text = (REPO / "docs" / "experiments.md").read_text(encoding="utf-8")
    for line in to_markdown(rows).splitlines():
        assert line in text.splitlines()


@pytest.mark.slow_suite
@pytest.mark.parametrize("form", FORMATS)
def test_the_command(form):
    done = run_tool(TOOL, "--table", "1,4,5", "--format", form)
    assert done.returncode == 0, done.stderr
    for text in ("random wiring, N=32, 312", "PNASNet-5", "not run", "ResNeXt-101"):
        assert text in done.stdout or (form == "json" and text == "not run")
    assert "MobileNet" not in done.stdout
    if form == "json":
        tables = {row["table"] for row in json.loads(done.stdout)}
        assert tables == {"Table 1", "Table 4", "Table 5: here / paper"}


def test_without_timm_its_rows_say_how_to_get_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # an import of it fails
    rows = {row.name: row for row in rivals.whole_tables(["Table 4"], [])}
    assert rows["PNASNet-5"].columns["note"] == "pip install 'randwire_det[timm]'"
    assert rows["PNASNet-5"].values["macs"] is None


def test_without_runs_and_tables_all_five_are_printed():
    done = run_tool(TOOL, "--format", "json")
    assert done.returncode == 0, done.stderr
    tables = [row["table"].split(":")[0] for row in json.loads(done.stdout)]
    assert list(dict.fromkeys(tables)) == ["Table 1", *TABLES, "Table 5"]


def test_runs_alone_do_not_bring_whole_tables(tmp_path):
    done = run_tool(TOOL, papers_run(tmp_path / "run", 78, 1), "--format", "json")
    assert [row["table"] for row in json.loads(done.stdout)] == ["Table 2"], done.stderr
