"""Who shares a row of a table, what its figures are, and beside what the paper's stand."""

import json
import statistics

import pytest
from conftest import REPO, run_python, run_tool, tiny_spec
from tables_helpers import (
    C109,
    LAST,
    THOUSAND,
    THREE,
    TOOL,
    classifier_run,
    classifier_seeds,
    detector_run,
    detector_seeds,
    evaluation,
    papers_run,
    papers_runs,
    ran,
    rows_of,
    spread,
)

from pretrain.baselines import build_baseline
from randwire_det import NetworkSpec
from randwire_det.coco.metrics import METRICS
from randwire_det.detection.config import read_config
from randwire_det.detection.results import record_evaluation
from randwire_det.errors import UserError
from randwire_det.network import RandWireClassifier
from randwire_det.run.checkpoint import Preprocessing, save_checkpoint
from randwire_det.tables.detection import WRITTEN
from randwire_det.tables.paper import TABLE5
from randwire_det.tables.rendering import to_text


@pytest.fixture
def classifiers(tmp_path):
    return classifier_seeds(tmp_path)


@pytest.fixture
def detectors(tmp_path):
    return detector_seeds(tmp_path / "detectors")


def test_seeds_make_one_row_of_means_and_sample_deviations(classifiers):
    (row,) = rows_of(*classifiers)
    assert row.name.startswith("RandWire-WS(4, 0.75), C=4")
    assert row.columns == {"size": 32, "epochs": 100}
    assert row.runs == list(map(str, classifiers))
    assert (row.values["top1"].mean, row.values["top1"].std) == spread([60.0, 61.5, 66.0])
    assert (row.values["top5"].mean, row.values["top5"].std) == spread([81.0, 82.0, 83.0])
    models = [
        RandWireClassifier(tiny_spec(seed=seed), len(THREE), head_channels=16) for seed in (1, 2, 3)
    ]
    params = [sum(each.numel() for each in model.parameters()) for model in models]
    assert len(set(params)) > 1
    assert (row.values["params"].mean, row.values["params"].std) == spread(params)
    assert row.values["macs"].std > 0
    assert (row.table, row.paper) == ("other", None)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("SOLVER__BASE_LR", 0.2, ("SOLVER.BASE_LR 0.1", "SOLVER.BASE_LR 0.2")),
        ("MODEL__EDGE_DROP", 0.1, ("MODEL.EDGE_DROP 0.0", "MODEL.EDGE_DROP 0.1")),
        ("SOLVER__ACCUMULATE", 2, ("SOLVER.ACCUMULATE 1", "SOLVER.ACCUMULATE 2")),
        ("INPUT__TEST_RESIZE", 300, ("INPUT.TEST_RESIZE 256", "INPUT.TEST_RESIZE 300")),
        ("iteration", 900, ("iterations 500", "iterations 900")),
        ("classes", ["bag", "coat", "hat"], ("3, bag to shirt", "3, bag to hat")),
    ],
)
def test_another_recipe_is_another_row_and_the_names_tell_it(tmp_path, key, value, shown):
    one = classifier_run(tmp_path / "one", tiny_spec(seed=1))
    two = classifier_run(tmp_path / "two", tiny_spec(seed=2), **{key: value})
    rows = rows_of(one, two)
    assert [row.runs for row in rows] == [[str(one)], [str(two)]]
    for row, wanted, other in zip(rows, shown, reversed(shown), strict=True):
        assert wanted in row.name and other not in row.name
        assert row.name.count(";") == 1  # and nothing that is the same in both


@pytest.mark.parametrize(
    "change", [{"channels": 5}, {"p": 0.5}, {"nodes": 12}, {"regime": "regular"}], ids=str
)
def test_another_network_is_another_row_and_another_name(tmp_path, change):
    one = classifier_run(tmp_path / "one", tiny_spec(seed=1))
    two = classifier_run(tmp_path / "two", tiny_spec(**{"seed": 2} | change))
    assert len({row.name for row in rows_of(one, two)}) == 2


def test_what_a_column_tells_is_not_told_again_in_the_name(tmp_path):
    one = classifier_run(tmp_path / "one", tiny_spec(seed=1))
    two = classifier_run(tmp_path / "two", tiny_spec(seed=2), SOLVER__EPOCHS=50)
    three = classifier_run(tmp_path / "three", tiny_spec(seed=3), INPUT__TEST_SIZE=48)
    rows = rows_of(one, two, three)
    printed = [(row.columns["epochs"], row.columns["size"]) for row in rows]
    assert printed == [(100, 32), (50, 32), (100, 48)]
    assert len({row.name for row in rows}) == 1


def test_the_wiring_counts_and_not_the_keys_that_a_spec_file_overrules(tmp_path):
    one = classifier_run(
        tmp_path / "one",
        tiny_spec(seed=1),
        MODEL__RANDWIRE__SPEC="a.json",
        MODEL__RANDWIRE__CHANNELS=7,
    )
    two = classifier_run(tmp_path / "two", tiny_spec(seed=2), MODEL__RANDWIRE__CHANNELS=4)
    (row,) = rows_of(one, two)
    assert "C=4" in row.name


def test_wirings_of_unknown_provenance_are_told_apart_by_themselves(tmp_path):
    wirings = [NetworkSpec(tiny_spec(seed=seed).stages) for seed in (1, 1, 2)]
    runs = [classifier_run(tmp_path / f"{n}", wiring, SEED=n) for n, wiring in enumerate(wirings)]
    one, two = rows_of(*runs)
    assert (len(one.runs), len(two.runs)) == (2, 1)
    assert wirings[0].digest[:12] in one.name and wirings[2].digest[:12] in two.name


def test_a_baseline_has_its_own_row_and_counts(tmp_path):
    narrow = {"name": "resnet50", "width": 1 / 16}
    runs = [
        classifier_run(tmp_path / f"{seed}", architecture=narrow, SEED=seed, top1=50.0 + seed)
        for seed in (1, 2)
    ]
    (row,) = rows_of(*runs)
    assert row.name == "ResNet-50, width 0.0625"
    model = build_baseline("resnet50", 3, 1 / 16)
    assert row.values["params"].mean == sum(each.numel() for each in model.parameters())
    assert (row.values["params"].std, row.values["macs"].std) == (0, 0)
    assert (row.values["top1"].mean, row.values["top1"].std) == spread([51.0, 52.0])


def test_evaluations_at_another_size_are_rows_of_their_own(classifiers):
    """The latest counts; those at the training's own size, or of other weights, do not."""
    warnings = []
    for number, folder in enumerate(classifiers):
        evaluation(folder, 64, 1.0)
        evaluation(folder, 64, 70.0 + number, 90.0 + number)
        evaluation(folder, 32, 2.0)
        evaluation(folder, 64, 3.0, weights="model_best.pth")
    own, larger = rows_of(*classifiers, warn=warnings.append)
    assert (own.columns["size"], larger.columns["size"], own.name) == (32, 64, larger.name)
    assert (own.values["top1"].mean, own.values["top1"].std) == spread([60.0, 61.5, 66.0])
    assert (larger.values["top1"].mean, larger.values["top1"].std) == spread([70.0, 71.0, 72.0])
    assert (larger.values["top5"].mean, larger.values["top5"].std) == spread([90.0, 91.0, 92.0])
    assert larger.values["params"] == own.values["params"]
    assert larger.values["macs"].mean > 3 * own.values["macs"].mean
    assert len(warnings) == 3
    for line, folder in zip(warnings, classifiers, strict=True):
        assert str(folder) in line and "line 4" in line and "model_best.pth" in line


def test_evaluations_of_other_crops_do_not_share_a_row(classifiers):
    evaluation(classifiers[0], 64, 70.0, resize=64)
    evaluation(classifiers[1], 64, 71.0, resize=72)
    _, one, two = rows_of(*classifiers)
    assert "INPUT.TEST_RESIZE 64" in one.name and "INPUT.TEST_RESIZE 72" in two.name


def test_evaluations_on_other_images_do_not_share_a_row(classifiers):
    evaluation(classifiers[0], 64, 70.0)
    evaluation(classifiers[1], 64, 71.0, images=500)
    _, one, two = rows_of(*classifiers)
    assert "test images 50000" in one.name and "test images 500" in two.name


def test_the_papers_figures_stand_beside_its_own_recipe(tmp_path):
    rows = rows_of(*reversed(papers_runs(tmp_path)))
    assert [(row.table, row.name.rpartition(", ")[2], row.columns["size"]) for row in rows] == [
        ("Table 2", "C=78", 224),
        ("Table 3", "ResNet-50", 224),
        ("Table 3", "C=109", 224),
        ("Table 3", "C=154", 224),
        ("Table 4", "C=154", 320),
    ]
    assert [(row.paper.top1, row.paper.top5) for row in rows] == [
        ("74.7 ± 0.25", "92.2 ± 0.15"),
        ("77.1", "93.5"),
        ("79.0 ± 0.17", "94.4 ± 0.11"),
        ("80.1 ± 0.19", "94.8 ± 0.18"),
        ("81.6 ± 0.13", "95.6 ± 0.07"),
    ]
    for row in rows:  # what we count is what the paper counts, within what two seeds may differ
        for count, theirs in (("macs", row.paper.macs), ("params", row.paper.params)):
            unit = {"G": 1e9, "M": 1e6}[theirs[-1]]
            ours = row.values[count].mean / unit
            assert ours == pytest.approx(float(theirs.split()[0]), rel=0.03)


@pytest.mark.parametrize(
    "change",
    [
        {"SOLVER__EPOCHS": 90},
        {"INPUT__TEST_SIZE": 240},
        {"MODEL__RANDWIRE__NODES": 16},
        {"MODEL__HEAD_CHANNELS": 640},
        {"classes": THOUSAND[:100]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_no_figure_of_the_paper_stands_beside_anything_else(tmp_path, change):
    (row,) = rows_of(papers_run(tmp_path / "run", 109, 1, **change))
    assert (row.table, row.paper) == ("other", None)
    text = to_text([row])
    assert text.split()[-1] == "-" and "79.0" not in text


def test_no_figure_of_the_paper_stands_beside_a_test_on_a_part_of_the_images(tmp_path):
    run = papers_run(tmp_path / "run", 154, 1)
    evaluation(run, 320, 81.0, images=500)
    assert [row.table for row in rows_of(run)] == ["Table 3", "other"]


def test_an_unfinished_classifier_is_named_and_left_out(classifiers, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    (half / "checkpoint_0000100.pth").write_bytes(b"whatever")
    with pytest.raises(UserError, match="no finished run"):
        rows_of(half, warn=str)
    done = run_tool(TOOL, half, *classifiers, "--format", "json")
    (row,) = json.loads(done.stdout)
    assert row["n"] == 3
    assert done.stderr.splitlines() == [f"{half}: not finished, left out"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"top1": None}, "top1 is None"),
        ({"top5": float("nan")}, "top5 is nan"),
        ({"top1": 101.0}, "top1 is 101"),
        ({"classes": []}, "no classes"),
    ],
    ids=str,
)
def test_a_file_that_no_training_wrote_is_refused(tmp_path, fault, message):
    run = classifier_run(tmp_path / "run", tiny_spec(), **{"classes": THREE} | fault)
    with pytest.raises(UserError, match=message) as caught:
        rows_of(run)
    assert str(run) in str(caught.value)


@pytest.mark.parametrize("config", [None, "a: [", "just text", "SEED: 1"])
def test_a_config_that_cannot_be_read_is_refused(tmp_path, config):
    save_checkpoint(
        tmp_path / "model_final.pth",
        kind="classifier",
        model={},
        spec=tiny_spec(),
        preprocessing=Preprocessing(),
        classes=THREE,
        progress={"top1": 1.0, "top5": 2.0},
        config=config,
    )
    with pytest.raises(UserError, match=r"model_final\.pth: .*config"):
        rows_of(tmp_path)


def test_a_classifier_given_twice_is_refused(classifiers, tmp_path):
    copy = classifier_run(
        tmp_path / "copy",
        tiny_spec(seed=1),
        top1=60.0,
        MODEL__RANDWIRE__SEED=1,
        SEED=10,
        DEVICE="cpu",
    )
    for folder in (copy, classifiers[0]):
        with pytest.raises(UserError, match="twice") as caught:
            rows_of(*classifiers, folder)
        assert str(classifiers[0]) in str(caught.value) and str(folder) in str(caught.value)


def test_a_run_that_died_before_its_first_checkpoint_is_left_out(tmp_path):
    (tmp_path / "died").mkdir()
    (tmp_path / "died" / "log.txt").write_text("the loss is nan")
    with pytest.raises(UserError, match="no finished run"):
        rows_of(tmp_path / "died", warn=str)


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


def test_runs_of_both_kinds_are_told_apart(classifiers, detectors, tmp_path):
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
