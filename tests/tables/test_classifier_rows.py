"""Runs of pretraining as rows: what makes a row, what is left out."""

import json

import pytest
from conftest import run_tool, tiny_spec
from tables_helpers import (
    THOUSAND,
    THREE,
    TOOL,
    classifier_run,
    classifier_seeds,
    evaluation,
    papers_run,
    papers_runs,
    rows_of,
    spread,
)

from pretrain.baselines import build_baseline
from randwire_det import NetworkSpec
from randwire_det.errors import UserError
from randwire_det.network import RandWireClassifier
from randwire_det.run.checkpoint import Preprocessing, save_checkpoint
from randwire_det.tables.rendering import to_text


@pytest.fixture
def classifiers(tmp_path):
    return classifier_seeds(tmp_path)


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


def test_what_a_column_tells_is_not_repeated_in_the_name(tmp_path):
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


def test_wirings_of_unknown_provenance_are_distinguished_by_themselves(tmp_path):
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
