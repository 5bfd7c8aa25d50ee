"""Runs of both kinds together, and files that no run wrote."""

import json

import pytest
from conftest import REPO, run_python
from tables_helpers import (
    C109,
    TOOL,
    classifier_seeds,
    detector_run,
    detector_seeds,
    ran,
    rows_of,
)

from randwire_det.detection.config import read_config
from randwire_det.errors import UserError
from randwire_det.tables.detection import WRITTEN
from randwire_det.tables.paper import TABLE5


@pytest.fixture
def classifiers(tmp_path):
    return classifier_seeds(tmp_path)


@pytest.fixture
def detectors(tmp_path):
    return detector_seeds(tmp_path / "detectors")


def damage(path, content):
    path.write_bytes(content)
    return path


def changed(folder, **changes):
    record = json.loads((folder / WRITTEN).read_text())
    return damage(folder / WRITTEN, json.dumps(record | changes).encode())


def with_metrics(folder, metrics):
    entry = {"paper": None, "tasks": {"bbox": {"metrics": metrics}}}
    return changed(folder, datasets={"coco_2017_val": entry})


def truncated(path):
    return damage(path, path.read_bytes()[:99])


LINES, FINAL = "evaluations.jsonl", "model_final.pth"
CLASSIFIER_FAULTS = {
    "truncated": (lambda run: truncated(run / FINAL), r"model_final\.pth is truncated or damaged"),
    "half a line": (lambda run: damage(run / LINES, b'{"weights": "a", "si'), r"jsonl, line 1"),
    "no text": (lambda run: damage(run / LINES, b"\xff\xfe"), r"jsonl, line 1"),
    "no object": (lambda run: damage(run / LINES, b"[3]"), r"jsonl, line 1"),
}
DETECTOR_FAULTS = {
    "truncated": (lambda run: truncated(run / WRITTEN), "no JSON"),
    "no text": (lambda run: damage(run / WRITTEN, b"\xff\xfe\xff"), "no JSON"),
    "no object": (lambda run: damage(run / WRITTEN, b"[3]"), "expected an object"),
    "version": (lambda run: changed(run, version=2), "version 2"),
    "schedule": (lambda run: changed(run, schedule={}), "expected an object"),
    "data sets": (lambda run: changed(run, datasets={"a": 3}), "expected an object"),
    "no percentage": (lambda run: with_metrics(run, {"AP": 101}), "expected an object"),
    "no number": (lambda run: with_metrics(run, {"AP": "40"}), "expected an object"),
}


def assert_one_line(message, folder, *others):
    with pytest.raises(UserError, match=message) as caught:
        rows_of(*others, folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("fault", CLASSIFIER_FAULTS)
def test_a_fault_of_a_classifier_is_one_line_that_names_it(classifiers, fault):
    spoil, message = CLASSIFIER_FAULTS[fault]
    spoil(classifiers[0])
    assert_one_line(message, *classifiers[:2])


@pytest.mark.parametrize("fault", DETECTOR_FAULTS)
def test_a_fault_of_a_detector_is_one_line_that_names_it(tmp_path, fault):
    spoil, message = DETECTOR_FAULTS[fault]
    run = detector_run(tmp_path / "run")
    spoil(run)
    assert_one_line(message, run)


def test_a_folder_that_is_no_run_is_one_line_that_names_it(classifiers, detectors, tmp_path):
    for runs in (classifiers, detectors):
        assert_one_line("nowhere: no such folder", tmp_path / "nowhere", *runs)
        (tmp_path / "empty").mkdir(exist_ok=True)
        no_run = r"empty: holds no model_final\.pth and no inference.results\.json; expected the"
        assert_one_line(no_run, tmp_path / "empty", *runs)


def test_a_table_of_detectors_needs_no_torch(tmp_path):
    run = detector_run(tmp_path / "run")
    done = run_python("-X", "importtime", REPO / "tools" / TOOL, run)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "randwire_det.tables.detection" in imported
    assert not {"torch", "detectron2"} & imported


def test_runs_of_both_kinds_are_distinguished(classifiers, detectors, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    (half / "log.txt").write_text("")
    warnings = []
    rows = ran(rows_of(detectors[0], *classifiers, half, *detectors[1:], warn=warnings.append))
    assert [row.runs for row in rows] == [list(map(str, each)) for each in (classifiers, detectors)]
    (row,) = ran(rows_of(half, *detectors, warn=warnings.append))
    assert row.paper == TABLE5[C109]
    assert warnings == 2 * [f"{half}: not finished, left out"]


def test_a_detector_that_came_to_no_evaluation_is_refused_as_one(tmp_path):
    cfg = read_config("faster_rcnn_randwire_c109.yaml", [])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    (tmp_path / "model_final.pth").write_bytes(b"whatever")
    with pytest.raises(UserError, match=r"holds no .*results\.json; .* train_net\.py"):
        rows_of(tmp_path)
