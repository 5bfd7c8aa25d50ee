"""The summary of runs: who shares a row, what its figures are, and beside what the paper stands."""

import importlib.util
import json
import statistics
import sys
from pathlib import Path

import pytest
from conftest import REPO, assert_refused, run_tool, tiny_spec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pretrain.baselines import build_baseline
from pretrain.config import get_cfg
from pretrain.summary import read_runs, summarize
from randwire_det import NetworkSpec, generate
from randwire_det.errors import UserError
from randwire_det.network import RandWireClassifier
from randwire_det.run.checkpoint import Preprocessing, save_checkpoint

TOOL = "summarize_runs.py"
SPEC = importlib.util.spec_from_file_location("summarize_runs", REPO / "tools" / TOOL)
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

THREE, THOUSAND = ["bag", "coat", "shirt"], [f"n{number:08d}" for number in range(1000)]


def make_run(
    folder,
    spec=None,
    *,
    weights=None,
    architecture=None,
    classes=THREE,
    iteration=500,
    top1=50.0,
    top5=90.0,
    **keys,
):
    """The OUTPUT_DIR of a finished run; `keys` are the config's, with __ for the dot."""
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    for key, value in ({"INPUT__SIZE": 32, "MODEL__HEAD_CHANNELS": 16} | keys).items():
        cfg.merge_from_list([key.replace("__", "."), value])
    save_checkpoint(
        folder / "model_final.pth",
        kind="baseline" if architecture else "classifier",
        model=weights or {},  # no summary needs any
        spec=spec,
        architecture=architecture,
        preprocessing=Preprocessing(input_size=cfg.INPUT.SIZE),
        classes=classes,
        progress={"epoch": 100, "iteration": iteration, "top1": top1, "top5": top5},
        config=cfg.dump(),
    )
    return folder


def make_papers(folder, channels, seed, **changes):
    """As the paper's runs of that C are."""
    more = {"classes": THOUSAND, "iteration": 500_400, "top1": 78 + seed / 10}
    more |= {"MODEL__RANDWIRE__SEED": seed, "INPUT__SIZE": 224, "MODEL__HEAD_CHANNELS": 1280}
    more |= {"SOLVER__EPOCHS": 250 if channels == 78 else 100} | changes
    if "architecture" in more:
        return make_run(folder, **more)
    regime = "small" if channels == 78 else "regular"
    nodes = more.get("MODEL__RANDWIRE__NODES", 32)
    spec = generate("ws", seed=seed, regime=regime, channels=channels, nodes=nodes, k=4, p=0.75)
    return make_run(folder, spec, **more)


def evaluation(folder, size, top1, top5=95.0, images=50_000, weights="model_final.pth", **more):
    path = folder / weights
    row = {"weights": str(path), "size": size, "top1": top1, "top5": top5, "images": images}
    row |= more
    with (folder / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def tiny_model(seed):
    return RandWireClassifier(tiny_spec(seed=seed), len(THREE), head_channels=16)


def rows_of(*folders, warn=pytest.fail):
    return summarize(read_runs(list(folders), warn))


def spread(values):
    return pytest.approx((statistics.fmean(values), statistics.stdev(values)))


@pytest.fixture
def seeds(tmp_path):
    """Three wirings of one network, trained from three seeds, on other machines."""
    machines = [("cpu", 0, "a"), ("cuda", 4, "b"), ("cuda:1", 8, "c")]
    return [
        make_run(
            tmp_path / f"seed{seed}",
            tiny_spec(seed=seed),
            weights=tiny_model(seed).state_dict(),
            top1=top1,
            top5=80.0 + seed,
            MODEL__RANDWIRE__SEED=seed,
            SEED=10 * seed,
            DEVICE=device,
            DATA__NUM_WORKERS=workers,
            DATA__ROOT=root,
            CHECKPOINT_PERIOD=float(seed),
        )
        for seed, top1, (device, workers, root) in zip(
            (1, 2, 3), (60.0, 61.5, 66.0), machines, strict=True
        )
    ]


def test_seeds_make_one_row_of_means_and_sample_deviations(seeds):
    (row,) = rows_of(*seeds)
    assert row.name.startswith("RandWire-WS(4, 0.75), C=4")
    assert (row.size, row.epochs, row.runs) == (32, 100, list(map(str, seeds)))
    assert (row.top1.mean, row.top1.std) == spread([60.0, 61.5, 66.0])
    assert (row.top5.mean, row.top5.std) == spread([81.0, 82.0, 83.0])
    models = map(tiny_model, (1, 2, 3))
    params = [sum(each.numel() for each in model.parameters()) for model in models]
    assert len(set(params)) > 1
    assert (row.params.mean, row.params.std) == spread(params)
    assert row.macs.std > 0
    assert (row.table, row.paper) == ("other", None)


def test_one_run_has_no_deviation(seeds):
    (row,) = rows_of(seeds[0])
    for value in (row.top1, row.top5, row.macs, row.params):
        assert value.std is None
    text = tool.to_text([row])
    assert "60.00" in text and "±" not in text


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
    one = make_run(tmp_path / "one", tiny_spec(seed=1))
    two = make_run(tmp_path / "two", tiny_spec(seed=2), **{key: value})
    rows = rows_of(one, two)
    assert [row.runs for row in rows] == [[str(one)], [str(two)]]
    for row, wanted, other in zip(rows, shown, reversed(shown), strict=True):
        assert wanted in row.name and other not in row.name
        assert row.name.count(";") == 1  # and nothing that is the same in both


@pytest.mark.parametrize(
    "change", [{"channels": 5}, {"p": 0.5}, {"nodes": 12}, {"regime": "regular"}], ids=str
)
def test_another_network_is_another_row_and_another_name(tmp_path, change):
    one = make_run(tmp_path / "one", tiny_spec(seed=1))
    two = make_run(tmp_path / "two", tiny_spec(**{"seed": 2} | change))
    assert len({row.name for row in rows_of(one, two)}) == 2


def test_what_a_column_tells_is_not_told_again_in_the_name(tmp_path):
    one = make_run(tmp_path / "one", tiny_spec(seed=1))
    two = make_run(tmp_path / "two", tiny_spec(seed=2), SOLVER__EPOCHS=50)
    three = make_run(tmp_path / "three", tiny_spec(seed=3), INPUT__TEST_SIZE=48)
    rows = rows_of(one, two, three)
    assert [(row.epochs, row.size) for row in rows] == [(100, 32), (50, 32), (100, 48)]
    assert len({row.name for row in rows}) == 1


def test_the_wiring_counts_and_not_the_keys_that_a_spec_file_overrules(tmp_path):
    keys = {"MODEL__RANDWIRE__SPEC": "a.json", "MODEL__RANDWIRE__CHANNELS": 7}
    one = make_run(tmp_path / "one", tiny_spec(seed=1), **keys)
    two = make_run(tmp_path / "two", tiny_spec(seed=2), MODEL__RANDWIRE__CHANNELS=4)
    (row,) = rows_of(one, two)
    assert "C=4" in row.name


def test_wirings_of_unknown_provenance_are_told_apart_by_themselves(tmp_path):
    wirings = [NetworkSpec(tiny_spec(seed=seed).stages) for seed in (1, 1, 2)]
    runs = [make_run(tmp_path / f"{n}", wiring, SEED=n) for n, wiring in enumerate(wirings)]
    one, two = rows_of(*runs)
    assert (len(one.runs), len(two.runs)) == (2, 1)
    assert wirings[0].digest[:12] in one.name and wirings[2].digest[:12] in two.name


def test_a_baseline_has_its_own_row_and_counts(tmp_path):
    narrow = {"name": "resnet50", "width": 1 / 16}
    runs = [
        make_run(tmp_path / f"{seed}", architecture=narrow, SEED=seed, top1=50.0 + seed)
        for seed in (1, 2)
    ]
    (row,) = rows_of(*runs)
    assert row.name == "ResNet-50, width 0.0625"
    model = build_baseline("resnet50", 3, 1 / 16)
    assert row.params.mean == sum(each.numel() for each in model.parameters())
    assert (row.params.std, row.macs.std) == (0, 0)
    assert (row.top1.mean, row.top1.std) == spread([51.0, 52.0])


def test_evaluations_at_another_size_are_rows_of_their_own(seeds):
    """The latest counts; those at the training's own size, or of other weights, do not."""
    warnings = []
    for number, folder in enumerate(seeds):
        evaluation(folder, 64, 1.0)
        evaluation(folder, 64, 70.0 + number, 90.0 + number)
        evaluation(folder, 32, 2.0)
        evaluation(folder, 64, 3.0, weights="model_best.pth")
    own, larger = rows_of(*seeds, warn=warnings.append)
    assert (own.size, larger.size, own.name) == (32, 64, larger.name)
    assert (own.top1.mean, own.top1.std) == spread([60.0, 61.5, 66.0])
    assert (larger.top1.mean, larger.top1.std) == spread([70.0, 71.0, 72.0])
    assert (larger.top5.mean, larger.top5.std) == spread([90.0, 91.0, 92.0])
    assert larger.params == own.params
    assert larger.macs.mean > 3 * own.macs.mean
    assert len(warnings) == 3
    for line, folder in zip(warnings, seeds, strict=True):
        assert str(folder) in line and "line 4" in line and "model_best.pth" in line


def test_evaluations_of_other_crops_do_not_share_a_row(seeds):
    evaluation(seeds[0], 64, 70.0, resize=64)
    evaluation(seeds[1], 64, 71.0, resize=72)
    _, one, two = rows_of(*seeds)
    assert "INPUT.TEST_RESIZE 64" in one.name and "INPUT.TEST_RESIZE 72" in two.name


def test_evaluations_on_other_images_do_not_share_a_row(seeds):
    evaluation(seeds[0], 64, 70.0)
    evaluation(seeds[1], 64, 71.0, images=500)
    _, one, two = rows_of(*seeds)
    assert "test images 50000" in one.name and "test images 500" in two.name


PAPERS = {78: "Table 2", 109: "Table 3", 154: "Table 3"}


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    """Two seeds of each of the paper's networks, C=154 evaluated at 320, and a ResNet-50."""
    root, runs = tmp_path_factory.mktemp("papers"), []
    for channels in PAPERS:
        for seed in (1, 2):
            runs.append(make_papers(root / f"c{channels}_{seed}", channels, seed))
            if channels == 154:
                evaluation(runs[-1], 320, 81.0 + seed)
    resnet50 = {"name": "resnet50", "width": 1.0}
    return [*runs, make_papers(root / "resnet50", 0, 1, architecture=resnet50)]


def test_the_papers_figures_stand_beside_its_own_recipe(papers):
    rows = rows_of(*reversed(papers))
    assert [(row.table, row.name.rpartition(", ")[2], row.size) for row in rows] == [
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
        for ours, theirs in ((row.macs, row.paper.macs), (row.params, row.paper.params)):
            unit = {"G": 1e9, "M": 1e6}[theirs[-1]]
            assert ours.mean / unit == pytest.approx(float(theirs.split()[0]), rel=0.03)


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
    (row,) = rows_of(make_papers(tmp_path / "run", 109, 1, **change))
    assert (row.table, row.paper) == ("other", None)
    text = tool.to_text([row])
    assert text.split()[-1] == "-" and "79.0" not in text


def test_no_figure_of_the_paper_stands_beside_a_test_on_a_part_of_the_images(tmp_path):
    run = make_papers(tmp_path / "run", 154, 1)
    evaluation(run, 320, 81.0, images=500)
    assert [row.table for row in rows_of(run)] == ["Table 3", "other"]


def test_json(papers):
    rows = json.loads(tool.to_json(rows_of(*papers)))
    assert [row["n"] for row in rows] == [2, 1, 2, 2, 2]
    (wide,) = [row for row in rows if row["table"] == "Table 4"]
    assert (wide["top1"]["mean"], wide["top1"]["std"]) == spread([82.0, 83.0])
    assert wide["paper"]["top1"] == "81.6 ± 0.13"
    assert rows[1]["top1"]["std"] is None


def test_markdown_is_a_table_under_every_heading(papers):
    text = tool.to_markdown(rows_of(*papers))
    tables = {}
    for part in text.split("### ")[1:]:
        heading, blank, *lines = part.rstrip().splitlines()
        assert blank == ""
        table = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
        assert all(line[0] == line[-1] == "|" for line in lines)
        assert len({len(cells) for cells in table}) == 1
        assert set("".join(table[1])) == {"-"}
        tables[heading] = [dict(zip(table[0], cells, strict=True)) for cells in table[2:]]
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
    lines = tool.to_text(rows_of(*papers)).splitlines()
    assert [line for line in lines if line.startswith("Table")] == ["Table 2", "Table 3", "Table 4"]
    rows = [line for line in lines if line.startswith(("RandWire", "ResNet", "network"))]
    assert len(rows) == 5 + 3  # a header under each heading
    assert len({len(line) for line in rows}) == 1


def test_an_unfinished_run_is_named_and_left_out(seeds, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    (half / "checkpoint_0000100.pth").write_bytes(b"whatever")
    with pytest.raises(UserError, match="no finished run"):
        rows_of(half, warn=str)
    done = run_tool(TOOL, half, *seeds, "--format", "json")
    (row,) = json.loads(done.stdout)
    assert row["n"] == 3
    assert done.stderr.splitlines() == [f"{half}: not finished, left out"]


def damage(path, content):
    path.write_bytes(content)
    return path.parent


FAULTS = {
    "no folder": (lambda run: run / "nowhere", "nowhere: no such folder"),
    "no run": (lambda run: run.parent, r"model_final\.pth"),
    "truncated": (
        lambda run: damage(run / "model_final.pth", (run / "model_final.pth").read_bytes()[:999]),
        r"model_final\.pth is truncated or damaged",
    ),
    "half a line": (
        lambda run: damage(run / "evaluations.jsonl", b'{"weights": "a", "si'),
        r"evaluations\.jsonl, line 1",
    ),
    "no text": (lambda run: damage(run / "evaluations.jsonl", b"\xff\xfe"), r"jsonl, line 1"),
    "no object": (lambda run: damage(run / "evaluations.jsonl", b"[3]"), r"jsonl, line 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_names_it(seeds, fault):
    spoil, message = FAULTS[fault]
    folder = spoil(seeds[0])
    with pytest.raises(UserError, match=message) as caught:
        rows_of(seeds[1], folder)
    assert "\n" not in str(caught.value)


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
    run = make_run(tmp_path / "run", tiny_spec(), **{"classes": THREE} | fault)
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


def test_a_run_given_twice_is_refused(seeds, tmp_path):
    copy = make_run(
        tmp_path / "copy",
        tiny_spec(seed=1),
        top1=60.0,
        MODEL__RANDWIRE__SEED=1,
        SEED=10,
        DEVICE="cpu",
    )
    done = run_tool(TOOL, *seeds, copy)
    assert_refused(done, str(seeds[0]), str(copy), "twice")
    with pytest.raises(UserError, match="twice"):
        rows_of(seeds[0], seeds[0])


def test_a_run_that_died_before_its_first_checkpoint_is_left_out(tmp_path):
    (tmp_path / "died").mkdir()
    (tmp_path / "died" / "log.txt").write_text("the loss is nan")
    with pytest.raises(UserError, match="no finished run"):
        read_runs([tmp_path / "died"], warn=lambda line: None)
