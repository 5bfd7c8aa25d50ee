"""Runs of detectors as rows: what makes a row, what is left out."""

import json
import statistics

import pytest
from tables_helpers import (
    C109,
    LAST,
    detector_run,
    detector_seeds,
    ran,
    rows_of,
)

from randwire_det.coco.metrics import METRICS
from randwire_det.detection.config import read_config
from randwire_det.detection.results import record_evaluation
from randwire_det.errors import UserError
from randwire_det.tables.detection import WRITTEN
from randwire_det.tables.paper import TABLE5
from randwire_det.tables.rendering import to_text


@pytest.fixture
def detectors(tmp_path):
    return detector_seeds(tmp_path / "detectors")


def test_seeds_make_one_row_of_means_and_sample_deviations_beside_the_papers(detectors):
    rows = rows_of(*detectors)
    assert [row.name for row in rows] == list(TABLE5)
    (row,) = ran(rows)
    assert (row.name, row.runs) == (C109, list(map(str, detectors)))
    assert row.paper == TABLE5[C109]
    aps = [39.0, 39.5, 40.6]
    for n, name in enumerate(METRICS):
        assert row.values[name].mean == pytest.approx(statistics.fmean(aps) + n)
        assert row.values[name].std == pytest.approx(statistics.stdev(aps))
    (line,) = [line for line in to_text(rows).splitlines() if line.startswith(C109)]
    cell = f"{statistics.fmean(aps):.1f} ± {statistics.stdev(aps):.1f} / 39.9"
    assert cell in line


def test_every_network_of_the_paper_fills_its_own_row(tmp_path):
    resnet = {"MODEL__BACKBONE__NAME": "build_resnet_fpn_backbone"}
    grouped = resnet | {"MODEL__RESNETS__NUM_GROUPS": 32, "MODEL__RESNETS__WIDTH_PER_GROUP": 4}
    deep = {"MODEL__RESNETS__DEPTH": 101}
    changes = [
        resnet,
        grouped,
        {},
        resnet | deep,
        grouped | deep,
        {"MODEL__RANDWIRE__CHANNELS": 154},
    ]
    runs = [detector_run(tmp_path / f"{n}", 30.0 + n, **change) for n, change in enumerate(changes)]
    rows = rows_of(*reversed(runs))
    assert [row.name for row in rows] == list(TABLE5)
    assert [row.values["AP"].mean for row in rows] == [30.0 + n for n in range(6)]
    assert all(row.values["AP"].std is None for row in rows)


@pytest.mark.parametrize(
    "change",
    [
        {"SOLVER__BASE_LR": 0.01},
        {"MODEL__BACKBONE__FREEZE_AT": 0},
        {"SOLVER__EMA_DECAY": 0.9},
        {"SOLVER__IMS_PER_BATCH": 8, "SOLVER__MAX_ITER": 180_000, "iteration": 180_000},
    ],
    ids=str,
)
def test_what_is_set_otherwise_is_another_row_and_is_named(tmp_path, change):
    one, two = (
        detector_run(tmp_path / "one", SEED=1),
        detector_run(tmp_path / "two", SEED=2, **change),
    )
    first, second = ran(rows_of(one, two))
    assert first.paper == second.paper == TABLE5[C109]
    keys = change.keys() - {"iteration"}
    for key in keys:
        assert f"{key.replace('__', '.')} {change[key]}" in second.name
    assert first.name.count(";") == second.name.count(";") == len(keys)  # and nothing else


def test_what_is_not_the_papers_stands_in_a_table_that_says_what_it_is(tmp_path, detectors):
    others = {
        "scratch": {"MODEL__WEIGHTS": ""},
        "longer": {"SOLVER__MAX_ITER": 180_000, "iteration": 180_000},
        "mine": {"DATASETS__TRAIN": "('mine',)", "DATASETS__TEST": "('mine_val',)"},
        "cascade": {"MODEL__ROI_HEADS__NAME": "CascadeROIHeads"},
        "narrow": {"MODEL__RANDWIRE__CHANNELS": 32},
        "small images": {"INPUT__MIN_SIZE_TEST": 400},
    }
    runs = [detector_run(tmp_path / name, 20.0, **change) for name, change in others.items()]
    rows = rows_of(*detectors, *runs)
    assert [row.runs for row in rows if not row.paper] == [[str(run)] for run in runs]
    scratch, longer, mine, cascade, narrow, small = (row for row in rows if not row.paper)
    assert "from random weights" in scratch.columns["what"]
    assert "random" not in longer.columns["what"]
    assert "180,000 iterations x 16 images" in longer.columns["what"]
    assert "mine -> mine_val" in mine.columns["what"]
    assert "at 400 pixels" in small.columns["what"]
    assert cascade.columns["what"].startswith("Cascade R-CNN FPN, coco_2017_train -> coco_2017_val")
    assert narrow.name == "RandWire-WS, C=32"
    papers, others = to_text(rows).split("\n\n")
    assert "20.0" not in papers and "39.9" not in others
    for line, row in zip(others.splitlines()[2:], rows[6:], strict=True):
        assert row.name in line and row.columns["what"] in line


def test_a_key_that_an_older_record_lacks_does_not_part_it_from_newer_ones(tmp_path):
    runs = [
        detector_run(
            tmp_path / f"seed{seed}", 39.0 + seed, SEED=seed, MODEL__RANDWIRE__RELU_OUTPUTS=False
        )
        for seed in (1, 2)
    ]
    path = runs[0] / WRITTEN
    record = json.loads(path.read_text())
    assert record["config"].pop("MODEL.RANDWIRE.RELU_OUTPUTS") is False
    path.write_text(json.dumps(record))
    (row,) = ran(rows_of(*runs))
    assert len(row.runs) == 2


def test_training_from_scratch_and_fine_tuning_do_not_share_a_row(tmp_path):
    keys = {"DATASETS__TRAIN": "('mine',)", "DATASETS__TEST": "('mine_val',)"}
    one = detector_run(tmp_path / "one", **keys)
    two = detector_run(tmp_path / "two", **keys, MODEL__WEIGHTS="")
    assert [row.runs for row in ran(rows_of(one, two))] == [[str(one)], [str(two)]]


def test_every_test_set_is_a_row_of_its_own(tmp_path):
    run = detector_run(tmp_path / "run", DATASETS__TEST="('coco_2017_val', 'mine_val')")
    papers, other = ran(rows_of(run))
    assert papers.paper == TABLE5[C109]
    assert other.paper is None and "-> mine_val" in other.columns["what"]


def test_an_unfinished_detector_is_named_and_left_out(tmp_path, detectors):
    half = detector_run(tmp_path / "half", iteration=LAST // 2, SEED=5)
    foreign = detector_run(tmp_path / "foreign", iteration=None, SEED=6)  # it is not known of
    warnings = []
    (row,) = ran(rows_of(half, *detectors, foreign, warn=warnings.append))
    assert row.runs == [*map(str, detectors), str(foreign)]
    (line,) = warnings
    assert str(half) in line and "not finished" in line and str(LAST // 2) in line


@pytest.mark.parametrize("results", [{}, {"bbox": dict.fromkeys(METRICS, float("nan"))}], ids=str)
def test_an_evaluation_without_a_result_is_named_and_left_out(tmp_path, results):
    cfg = read_config("faster_rcnn_randwire_c109.yaml", ["OUTPUT_DIR", str(tmp_path)])
    record_evaluation(cfg, results, weights="", iteration=LAST)
    warnings = []
    assert not ran(rows_of(tmp_path, warn=warnings.append))
    (line,) = warnings
    assert str(tmp_path) in line and "coco_2017_val" in line


def test_a_figure_that_one_run_has_not_is_a_dash(tmp_path):
    runs = [detector_run(tmp_path / f"{seed}", SEED=seed) for seed in (1, 2)]
    path = runs[1] / WRITTEN
    record = json.loads(path.read_text())
    record["datasets"]["coco_2017_val"]["tasks"]["bbox"]["metrics"]["APs"] = None  # no small ones
    path.write_text(json.dumps(record))
    rows = rows_of(*runs)
    (row,) = ran(rows)
    assert row.values["APs"] is None and row.values["APm"] is not None
    assert "- / 23.6" in to_text(rows)


def test_a_detector_given_twice_is_refused(tmp_path, detectors):
    """A copy, say evaluated again elsewhere, has the same detectors and start as the run itself."""
    start = {"MODEL__WEIGHTS": f"{detectors[0]}.pth", "MODEL__RANDWIRE__SEED": 1, "SEED": 10}
    copy = detector_run(tmp_path / "copy", **start)
    for folder in (copy, detectors[0]):
        with pytest.raises(UserError, match="twice") as caught:
            rows_of(*detectors, folder)
        assert str(detectors[0]) in str(caught.value) and str(folder) in str(caught.value)
