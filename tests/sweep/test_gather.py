"""What a study's results say: means, spreads and correlations as computed by hand."""

import csv
import io

import numpy as np
import pytest
import yaml
from conftest import tiny_spec
from PIL import Image
from tables_helpers import classifier_run, detector_run

from pretrain.baselines import baseline_complexity
from randwire_det.errors import UsageError
from randwire_det.spec.complexity import complexity
from randwire_det.sweep import gather
from randwire_det.sweep.study import read_study

OPS = ("sep_conv3x3", "conv3x3", "avg_pool3x3")
ARMS = {"ER(0.2)": 61.0, "WS(4, 0)": 55.5, "WS(4, 0.75)": 64.0}


def no_warning(line):
    raise AssertionError(line)


@pytest.fixture
def make(tmp_path):
    """A study and its finished runs: (arm, point, seed) -> top-1."""

    def make(top1, **content):
        least = {
            "COMMAND": "pretrain_imagenet",
            "CONFIG": "pretrain/base.yaml",
            "OUTPUT_DIR": str(tmp_path / "study"),
        }
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(least | content, sort_keys=False))
        study = read_study(str(path))
        runs = study.runs()
        for run in runs:
            value = top1(run)
            if value is not None:
                spec = tiny_spec(seed=run.seed, op=run.point.get("OP", "sep_conv3x3"))
                # The config tells runs of one wiring apart.
                epochs = run.keys.get("SOLVER.EPOCHS", 10 + list(study.arms).index(run.arm))
                keys = {"SEED": run.seed, "SOLVER__EPOCHS": epochs}
                classifier_run(run.folder, spec, top1=value, **keys)
        return study, runs, gather.measured(study, runs, baseline_complexity, no_warning)

    return make


def test_mean_and_std_over_seeds(make):
    values = {("WS(4, 0)", 1): 50.0, ("WS(4, 0)", 2): 53.0, ("WS(4, 0.75)", 1): 60.25}
    study, runs, found = make(
        lambda run: values.get((run.arm, run.seed)), ARMS=list(ARMS), SEEDS=[1, 2]
    )
    by_setting = {each.arm: each for each in gather.settings(study, found)}
    assert list(by_setting) == ["WS(4, 0)", "WS(4, 0.75)"]
    spread = by_setting["WS(4, 0)"].spread("top1")
    assert (spread.mean, spread.std) == pytest.approx((51.5, np.std([50, 53], ddof=1)))
    assert by_setting["WS(4, 0.75)"].spread("top1").std is None
    text = gather.as_markdown(study, runs, found)
    assert "| WS(4, 0) | 2 | 51.50 ± 2.12 | 50.00, 53.00 |" in text
    assert "Not run: 3 of 6 runs" in text and "ER-0.2_seed1" in text
    rows = list(csv.DictReader(io.StringIO(gather.as_csv(study, found))))
    assert [(row["arm"], row["seed"], float(row["top1"])) for row in rows] == [
        ("WS(4, 0)", "1", 50.0),
        ("WS(4, 0.75)", "1", 60.25),
        ("WS(4, 0)", "2", 53.0),
    ]
    count = complexity(tiny_spec(seed=1), 32, 3, 16)
    assert (float(rows[0]["macs"]), float(rows[0]["params"])) == (count.macs, count.params)


def test_correlation_of_operations_over_generators(make):
    rng = np.random.default_rng(0)
    top1 = {(arm, op): mean + rng.normal() for arm, mean in ARMS.items() for op in OPS}
    grid = {"OP": [{"MODEL.RANDWIRE.OP": op} for op in OPS]}
    study, runs, found = make(
        lambda run: top1[run.arm, run.point["OP"]] + run.seed,
        ARMS=list(ARMS),
        GRID=grid,
        SEEDS=[1, 2],
        FIGURES=["operations", "bars"],
    )
    means, correlations = gather.operations(study, gather.settings(study, found), "top1")
    for op in OPS:
        expected = {arm: top1[arm, op] + 1.5 for arm in ARMS}
        assert means[op] == pytest.approx(expected)
    assert len(correlations) == 3
    for (one, other), value in correlations.items():
        series = [[top1[arm, op] for arm in ARMS] for op in (one, other)]
        assert value == pytest.approx(np.corrcoef(*series)[0, 1])
    assert "Pearson" in gather.as_markdown(study, runs, found)
    files = gather.write_results(study, runs, found)
    names = {path.name for path in files}
    assert {"operations.png", "operations.svg", "bars.png", "results.csv"} <= names
    for path in files:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.width > 300 and len(image.getcolors(1 << 24)) > 10


def test_lines_over_the_length_of_the_schedule(make):
    study, runs, found = make(
        lambda run: 40 + 5 * int(run.point["SOLVER.EPOCHS"]) + run.seed,
        ARMS=["WS(4, 0.75)"],
        GRID={"SOLVER.EPOCHS": [2, 5]},
        SEEDS=[1],
        FIGURES=["schedule"],
    )
    assert (study.output / "schedule.svg") in gather.write_results(study, runs, found)
    assert [each.label for each in gather.settings(study, found)] == [
        "WS(4, 0.75), EPOCHS 2",
        "WS(4, 0.75), EPOCHS 5",
    ]


def test_detectors(tmp_path):
    path = tmp_path / "study.yaml"
    content = {
        "COMMAND": "train_net",
        "CONFIG": "faster_rcnn_randwire_c109.yaml",
        "OUTPUT_DIR": str(tmp_path / "study"),
        "ARMS": [{"a": {}}, {"b": {}}],
        "SEEDS": [1, 2],
    }
    path.write_text(yaml.safe_dump(content))
    study = read_study(str(path))
    runs = study.runs()
    aps = dict(zip((run.name for run in runs), (39.0, 35.0, 41.0, None), strict=True))
    for run in runs:
        if aps[run.name] is None:  # stopped halfway
            detector_run(run.folder, 10.0, iteration=4, SEED=run.seed)
        else:
            detector_run(run.folder, aps[run.name], SEED=run.seed, SOLVER__BASE_LR=len(run.arm))
    runs_of_b = [run for run in runs if run.arm == "a"]
    found = gather.measured(study, runs_of_b, baseline_complexity, no_warning)
    (setting,) = gather.settings(study, found)
    assert setting.spread("AP").mean == pytest.approx(40.0)
    assert "| a | 2 | 40.00 ± 1.41 | 39.00, 41.00 |" in gather.as_markdown(study, runs, found)


def test_nothing_is_drawn_of_nothing(make):
    study, runs, found = make(lambda run: None, ARMS=list(ARMS), SEEDS=[1])
    assert found == []
    assert [path.name for path in gather.write_results(study, runs, found)] == [
        "results.csv",
        "summary.md",
    ]


@pytest.mark.parametrize(
    ("figure", "fragment"),
    [("pie", "pie"), ("schedule", "SOLVER.EPOCHS"), ("operations", "axis OP")],
)
def test_a_figure_that_the_study_cannot_have(make, figure, fragment):
    study, runs, found = make(lambda run: 50.0, ARMS=["BA(3)"], SEEDS=[1], FIGURES=[figure])
    with pytest.raises(UsageError, match=fragment):
        gather.write_results(study, runs, found)
