"""Table 5 from runs: who shares a row, what its figures are, and beside what the paper stands."""

import importlib.util
import json
import statistics

import pytest
from conftest import REPO, assert_refused, run_python, run_tool

from randwire_det.coco.metrics import METRICS
from randwire_det.detection.config import read_config
from randwire_det.detection.results import record_evaluation
from randwire_det.errors import UserError
from randwire_det.tables.table5 import TABLE5, WRITTEN, fill, read_evaluations

TOOL = "table5.py"
SPEC = importlib.util.spec_from_file_location("table5_tool", REPO / "tools" / TOOL)
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

C109, C154 = "RandWire-WS, C=109", "RandWire-WS, C=154"
LAST = 90_000


def make_run(folder, ap=39.0, *, file="faster_rcnn_randwire_c109.yaml", iteration=LAST, **keys):
    """The OUTPUT_DIR of an evaluated run; `keys` are the config's, with __ for the dot.

    Its six figures are `ap`, `ap` + 1, and so on.
    """
    changes = {"OUTPUT_DIR": folder, "MODEL__WEIGHTS": f"{folder}.pth"} | keys
    overrides = [
        str(word) for key, value in changes.items() for word in (key.replace("__", "."), value)
    ]
    cfg = read_config(file, overrides)
    metrics = {name: ap + n for n, name in enumerate(METRICS)} | {"AP-cat": ap}
    per_set = {name: {"bbox": metrics} for name in cfg.DATASETS.TEST}
    results = per_set if len(per_set) > 1 else {"bbox": metrics}
    record_evaluation(cfg, results, weights=f"{folder}, {iteration}", iteration=iteration)
    return folder


def rows_of(*folders, warn=pytest.fail):
    return fill(read_evaluations(list(folders), warn))


def ran(rows):
    return [row for row in rows if row.runs]


@pytest.fixture
def seeds(tmp_path):
    """Three wirings, trained from three seeds, on other machines."""
    return [
        make_run(
            tmp_path / f"seed{seed}",
            ap,
            MODEL__RANDWIRE__SEED=seed,
            SEED=10 * seed,
            MODEL__DEVICE=device,
            DATALOADER__NUM_WORKERS=seed,
            TEST__EVAL_PERIOD=1000 * seed,
        )
        for seed, ap, device in ((1, 39.0, "cpu"), (2, 39.5, "cuda"), (3, 40.6, "cuda"))
    ]


def test_without_runs_every_row_of_the_paper_waits_in_its_order():
    rows = rows_of()
    assert [row.name for row in rows] == list(TABLE5)
    _, header, *lines = tool.to_text(rows).splitlines()
    assert header.split() == ["network", "runs", *METRICS]
    for line, (name, paper) in zip(lines, TABLE5.items(), strict=True):
        assert line.startswith(name) and "not run" in line
        assert line.split()[-18:] == [
            word for value in paper.values() for word in ("-", "/", str(value))
        ]


def test_seeds_make_one_row_of_means_and_sample_deviations_beside_the_papers(seeds):
    rows = rows_of(*seeds)
    assert [row.name for row in rows] == list(TABLE5)
    (row,) = ran(rows)
    assert (row.name, row.runs) == (C109, list(map(str, seeds)))
    assert row.paper == TABLE5[C109]
    aps = [39.0, 39.5, 40.6]
    for n, name in enumerate(METRICS):
        assert row.metrics[name].mean == pytest.approx(statistics.fmean(aps) + n)
        assert row.metrics[name].std == pytest.approx(statistics.stdev(aps))
    (line,) = [line for line in tool.to_text(rows).splitlines() if line.startswith(C109)]
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
    runs = [make_run(tmp_path / f"{n}", 30.0 + n, **change) for n, change in enumerate(changes)]
    rows = rows_of(*reversed(runs))
    assert [row.name for row in rows] == list(TABLE5)
    assert [row.metrics["AP"].mean for row in rows] == [30.0 + n for n in range(6)]
    assert all(row.metrics["AP"].std is None for row in rows)


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
    one, two = make_run(tmp_path / "one", SEED=1), make_run(tmp_path / "two", SEED=2, **change)
    first, second = ran(rows_of(one, two))
    assert first.paper == second.paper == TABLE5[C109]
    keys = change.keys() - {"iteration"}
    for key in keys:
        assert f"{key.replace('__', '.')} {change[key]}" in second.name
    assert first.name.count(";") == second.name.count(";") == len(keys)  # and nothing else


def test_what_is_not_the_papers_stands_in_a_table_that_says_what_it_is(tmp_path, seeds):
    others = {
        "scratch": {"MODEL__WEIGHTS": ""},
        "longer": {"SOLVER__MAX_ITER": 180_000, "iteration": 180_000},
        "mine": {"DATASETS__TRAIN": "('mine',)", "DATASETS__TEST": "('mine_val',)"},
        "cascade": {"MODEL__ROI_HEADS__NAME": "CascadeROIHeads"},
        "narrow": {"MODEL__RANDWIRE__CHANNELS": 32},
        "small images": {"INPUT__MIN_SIZE_TEST": 400},
    }
    runs = [make_run(tmp_path / name, 20.0, **change) for name, change in others.items()]
    rows = rows_of(*seeds, *runs)
    assert [row.runs for row in rows if not row.paper] == [[str(run)] for run in runs]
    scratch, longer, mine, cascade, narrow, small = (row for row in rows if not row.paper)
    assert "from random weights" in scratch.what and "random" not in longer.what
    assert "180,000 iterations x 16 images" in longer.what
    assert "mine -> mine_val" in mine.what
    assert "at 400 pixels" in small.what
    assert cascade.what.startswith("Cascade R-CNN FPN, coco_2017_train -> coco_2017_val")
    assert narrow.name == "RandWire-WS, C=32"
    papers, others = tool.to_text(rows).split("\n\n")
    assert "20.0" not in papers and "39.9" not in others
    for line, row in zip(others.splitlines()[2:], rows[6:], strict=True):
        assert row.name in line and row.what in line


def test_training_from_scratch_and_fine_tuning_do_not_share_a_row(tmp_path):
    keys = {"DATASETS__TRAIN": "('mine',)", "DATASETS__TEST": "('mine_val',)"}
    one = make_run(tmp_path / "one", **keys)
    two = make_run(tmp_path / "two", **keys, MODEL__WEIGHTS="")
    assert [row.runs for row in ran(rows_of(one, two))] == [[str(one)], [str(two)]]


def test_every_test_set_is_a_row_of_its_own(tmp_path):
    run = make_run(tmp_path / "run", DATASETS__TEST="('coco_2017_val', 'mine_val')")
    papers, other = ran(rows_of(run))
    assert papers.paper == TABLE5[C109]
    assert other.paper is None and "-> mine_val" in other.what


def test_an_unfinished_run_is_named_and_left_out(tmp_path, seeds):
    half = make_run(tmp_path / "half", iteration=LAST // 2, SEED=5)
    foreign = make_run(tmp_path / "foreign", iteration=None, SEED=6)  # it is not known of
    warnings = []
    (row,) = ran(rows_of(half, *seeds, foreign, warn=warnings.append))
    assert row.runs == [*map(str, seeds), str(foreign)]
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
    runs = [make_run(tmp_path / f"{seed}", SEED=seed) for seed in (1, 2)]
    path = runs[1] / WRITTEN
    record = json.loads(path.read_text())
    record["datasets"]["coco_2017_val"]["tasks"]["bbox"]["metrics"]["APs"] = None  # no small ones
    path.write_text(json.dumps(record))
    rows = rows_of(*runs)
    (row,) = ran(rows)
    assert row.metrics["APs"] is None and row.metrics["APm"] is not None
    assert "- / 23.6" in tool.to_text(rows)


def test_a_run_given_twice_is_refused(tmp_path, seeds):
    """A copy, say evaluated again elsewhere, has the same seeds and start as the run itself."""
    start = {"MODEL__WEIGHTS": f"{seeds[0]}.pth", "MODEL__RANDWIRE__SEED": 1, "SEED": 10}
    copy = make_run(tmp_path / "copy", **start)
    for folder in (copy, seeds[0]):
        with pytest.raises(UserError, match="twice") as caught:
            rows_of(*seeds, folder)
        assert str(seeds[0]) in str(caught.value) and str(folder) in str(caught.value)


def test_json_tells_runs_and_paper(seeds):
    rows = json.loads(tool.to_json(rows_of(*seeds)))
    assert [(row["name"], row["n"]) for row in rows] == [
        (name, 3 if name == C109 else 0) for name in TABLE5
    ]
    row = rows[list(TABLE5).index(C109)]
    assert row["metrics"]["AP"]["std"] == pytest.approx(statistics.stdev([39.0, 39.5, 40.6]))
    assert row["paper"] == TABLE5[C109]
    assert rows[0]["metrics"]["AP"] is None


def test_markdown_is_a_table_under_every_heading(tmp_path, seeds):
    text = tool.to_markdown(rows_of(*seeds, make_run(tmp_path / "other", MODEL__MASK_ON=True)))
    tables = []
    for part in text.split("### ")[1:]:
        heading, blank, *lines = part.rstrip().splitlines()
        assert heading and blank == ""
        table = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
        assert set("".join(table[1])) == {"-"}
        tables.append([dict(zip(table[0], cells, strict=True)) for cells in table[2:]])
    papers, others = tables
    assert [row["network"] for row in papers] == list(TABLE5)
    assert papers[2]["runs"] == "3"
    assert others[0]["what it is"].startswith("Mask R-CNN FPN")


def damage(folder, content):
    (folder / WRITTEN).write_bytes(content)
    return folder


def changed(folder, **changes):
    record = json.loads((folder / WRITTEN).read_text())
    return damage(folder, json.dumps(record | changes).encode())


def with_metrics(folder, metrics):
    entry = {"paper": None, "tasks": {"bbox": {"metrics": metrics}}}
    return changed(folder, datasets={"coco_2017_val": entry})


FAULTS = {
    "no folder": (lambda run: run / "nowhere", "nowhere: no such folder"),
    "no run": (lambda run: run.parent, r"holds no .*results\.json"),
    "truncated": (lambda run: damage(run, (run / WRITTEN).read_bytes()[:99]), "no JSON"),
    "no text": (lambda run: damage(run, b"\xff\xfe\xff"), "no JSON"),
    "no object": (lambda run: damage(run, b"[3]"), "expected an object"),
    "version": (lambda run: changed(run, version=2), "version 2"),
    "schedule": (lambda run: changed(run, schedule={}), "expected an object"),
    "data sets": (lambda run: changed(run, datasets={"a": 3}), "expected an object"),
    "no percentage": (lambda run: with_metrics(run, {"AP": 101}), "expected an object"),
    "no number": (lambda run: with_metrics(run, {"AP": "40"}), "expected an object"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_names_it(tmp_path, fault):
    spoil, message = FAULTS[fault]
    folder = spoil(make_run(tmp_path / "run"))
    with pytest.raises(UserError, match=message) as caught:
        rows_of(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_the_tool_prints_the_table_and_refuses_in_one_line(tmp_path, seeds):
    half = make_run(tmp_path / "half", iteration=5, SEED=5)
    begun = tmp_path / "begun"  # stopped before its first evaluation
    begun.mkdir()
    (begun / "last_checkpoint").write_text("model_0000005.pth")
    done = run_tool(TOOL, *seeds, half, begun, "--format", "json")
    assert [row["n"] for row in json.loads(done.stdout)] == [0, 0, 3, 0, 0, 0]
    assert done.stderr.splitlines() == [
        f"{half}: not finished, iteration 5 of {LAST}, left out",
        f"{begun}: not evaluated yet, left out",
    ]
    assert_refused(run_tool(TOOL, tmp_path / "nowhere"), "nowhere", "no such folder")


def test_a_table_needs_no_torch():
    modules = "randwire_det.tables.table5, randwire_det.tables.spread"
    script = f"import sys, {modules}; print('torch' in sys.modules)"
    assert run_python("-c", script).stdout.strip() == "False"


def test_what_a_name_holds_is_no_command_to_the_terminal(tmp_path, monkeypatch, capsys):
    folder = make_run(tmp_path / "run")
    path = folder / WRITTEN
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"network": "\x1b[2JRandWire"}))
    monkeypatch.setattr("sys.argv", [TOOL, str(folder)])
    tool.main()
    assert r"\x1b[2JRandWire" in capsys.readouterr().out
