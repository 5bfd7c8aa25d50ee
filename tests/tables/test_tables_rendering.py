"""What tools/tables.py prints: text, Markdown and JSON, of pretraining and of detection."""

import json
import statistics

import pytest
from conftest import assert_refused, run_tool
from tables_helpers import (
    C109,
    LAST,
    TOOL,
    classifier_seeds,
    detector_run,
    detector_seeds,
    papers_runs,
    rows_of,
    spread,
    tool,
)

from randwire_det.coco.metrics import METRICS
from randwire_det.tables.detection import WRITTEN
from randwire_det.tables.paper import TABLE5
from randwire_det.tables.rendering import to_json, to_markdown, to_text


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    return papers_runs(tmp_path_factory.mktemp("papers"))


def test_one_run_has_no_deviation(tmp_path):
    (row,) = rows_of(classifier_seeds(tmp_path)[0])
    for value in (row.values["top1"], row.values["top5"], row.values["macs"], row.values["params"]):
        assert value.std is None
    text = to_text([row])
    assert "60.00" in text and "±" not in text


def test_json_of_classifiers(papers):
    rows = json.loads(to_json(rows_of(*papers)))
    assert [row["n"] for row in rows] == [2, 1, 2, 2, 2]
    (wide,) = [row for row in rows if row["table"] == "Table 4"]
    assert (wide["top1"]["mean"], wide["top1"]["std"]) == spread([82.0, 83.0])
    assert wide["paper"]["top1"] == "81.6 ± 0.13"
    assert rows[1]["top1"]["std"] is None


def parsed(text):
    """{heading: [{column: cell}]} of the Markdown."""
    tables = {}
    for part in text.split("### ")[1:]:
        heading, blank, *lines = part.rstrip().splitlines()
        assert heading and blank == ""
        table = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
        assert all(line[0] == line[-1] == "|" for line in lines)
        assert len({len(cells) for cells in table}) == 1
        assert set("".join(table[1])) == {"-"}
        tables[heading] = [dict(zip(table[0], cells, strict=True)) for cells in table[2:]]
    return tables


def test_markdown_of_classifiers_is_a_table_under_every_heading(papers):
    tables = parsed(to_markdown(rows_of(*papers)))
    assert {name: len(rows) for name, rows in tables.items()} == {
        "Table 2": 1,
        "Table 3": 3,
        "Table 4": 1,
    }
    row = tables["Table 3"][1]
    assert row["network"] == "RandWire-WS(4, 0.75), C=109"
    deviation = statistics.stdev([78.1, 78.2])
    assert (row["runs"], row["top-1, %"]) == ("2", f"78.15 ± {deviation:.2f}")


def test_text_keeps_its_columns_and_headings(papers):
    lines = to_text(rows_of(*papers)).splitlines()
    assert [line for line in lines if line.startswith("Table")] == ["Table 2", "Table 3", "Table 4"]
    rows = [line for line in lines if line.startswith(("RandWire", "ResNet", "network"))]
    assert len(rows) == 5 + 3  # a header under each heading
    assert len({len(line) for line in rows}) == 1


def test_without_runs_every_row_of_the_paper_waits_in_its_order():
    rows = rows_of()
    assert [row.name for row in rows] == list(TABLE5)
    _, header, *lines = to_text(rows).splitlines()
    assert header.split() == ["network", "runs", *METRICS]
    for line, (name, paper) in zip(lines, TABLE5.items(), strict=True):
        assert line.startswith(name) and "not run" in line
        assert line.split()[-18:] == [
            word for value in paper.values() for word in ("-", "/", str(value))
        ]


def test_json_of_detectors_tells_runs_and_paper(tmp_path):
    rows = json.loads(to_json(rows_of(*detector_seeds(tmp_path))))
    assert [(row["name"], row["n"]) for row in rows] == [
        (name, 3 if name == C109 else 0) for name in TABLE5
    ]
    row = rows[list(TABLE5).index(C109)]
    assert row["metrics"]["AP"]["std"] == pytest.approx(statistics.stdev([39.0, 39.5, 40.6]))
    assert row["paper"] == TABLE5[C109]
    assert rows[0]["metrics"]["AP"] is None


def test_markdown_of_detectors_is_a_table_under_every_heading(tmp_path):
    other = detector_run(tmp_path / "other", MODEL__MASK_ON=True)
    tables = parsed(to_markdown(rows_of(*detector_seeds(tmp_path), other)))
    papers, others = tables.values()
    assert [row["network"] for row in papers] == list(TABLE5)
    assert papers[2]["runs"] == "3"
    assert others[0]["what it is"].startswith("Mask R-CNN FPN")


def test_the_tool_prints_the_table_and_refuses_in_one_line(tmp_path):
    half = detector_run(tmp_path / "half", iteration=5, SEED=5)
    begun = tmp_path / "begun"  # stopped before its first evaluation
    begun.mkdir()
    (begun / "last_checkpoint").write_text("model_0000005.pth")
    done = run_tool(TOOL, *detector_seeds(tmp_path), half, begun, "--format", "json")
    assert [row["n"] for row in json.loads(done.stdout)] == [0, 0, 3, 0, 0, 0]
    assert done.stderr.splitlines() == [
        f"{half}: not finished, iteration 5 of {LAST}, left out",
        f"{begun}: not evaluated yet, left out",
    ]
    assert_refused(run_tool(TOOL, tmp_path / "nowhere"), "nowhere", "no such folder")


def test_what_a_name_holds_is_no_command_to_the_terminal(tmp_path, monkeypatch, capsys):
    folder = detector_run(tmp_path / "run")
    path = folder / WRITTEN
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"network": "\x1b[2JRandWire"}))
    monkeypatch.setattr("sys.argv", [tool.__file__, str(folder)])
    tool.main()
    assert r"\x1b[2JRandWire" in capsys.readouterr().out
