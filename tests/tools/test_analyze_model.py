"""tools/analyze_model.py, run as its user runs it."""

import csv
import json
import re
import subprocess
import sys
from statistics import fmean, mean, stdev
from unittest.mock import ANY

import pytest
from conftest import REPO, assert_refused, run_python, run_tool

from randwire_det import generate
from randwire_det.spec import NODE_OPS
from randwire_det.spec.complexity import complexity
from randwire_det.spec.generator import PARAMETERS
from randwire_det.spec.measures import measures

TOOL = "analyze_model.py"
WS = ("--generator", "ws", "--k", "4", "--p", "0.75")
# FACTS of the published wiring, sample std over seeds 1 to 5: params and multiply-adds in M, and
# how the paper's Tables 2 and 3 print them.
PAPER = {
    ("small", "78"): ("5.60 ± 0.08", "583.8 ± 6.3", "5.6 ± 0.1", "583 ± 6.2"),
    ("regular", "109"): ("31.93 ± 0.66", "4005 ± 89", "31.9 ± 0.66", "4000 ± 90"),
    ("regular", "154"): ("61.51 ± 1.32", "7865 ± 175", "61.5 ± 1.32", "7900 ± 180"),
}


def analyze(*args):
    done = run_tool(TOOL, *args, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def as_printed(centre, std, like):
    digits = [len(part.partition(".")[2]) for part in like.split(" ± ")]
    return f"{centre:.{digits[0]}f} ± {std:.{digits[1]}f}"


@pytest.mark.parametrize("network", PAPER, ids=str)
def test_the_papers_figures(network):
    regime, channels = network
    params, macs, *papers = PAPER[network]
    arguments = (*WS, "--regime", regime, "--channels", channels)
    result = analyze(*arguments)
    assert as_printed(result["params_mean"], result["params_std"], params) == params
    assert as_printed(result["macs_mean"], result["macs_std"], macs) == macs
    for unit in ("params", "macs"):
        values = result[f"{unit}_m"]
        assert len(values) == 5
        assert result[f"{unit}_mean"] == pytest.approx(mean(values))
        assert result[f"{unit}_std"] == pytest.approx(stdev(values))

    table = run_tool(TOOL, *arguments).stdout
    (ours,) = re.findall("mean .*", table)
    (theirs,) = re.findall("paper .*", table)
    for figure, line in ((params, ours), (macs, ours), (papers[0], theirs), (papers[1], theirs)):
        assert figure in line


@pytest.mark.parametrize(
    "change", [("--p", "0.5"), ("--nodes", "16"), ("--input-size", "96"), ("--channels", "110")]
)
def test_no_figure_of_the_paper_stands_beside_another_network(change):
    done = run_tool(TOOL, *WS, *change)
    (theirs,) = re.findall("paper .*", done.stdout)
    assert "no figure" in theirs
    assert "±" not in theirs


def test_the_seeds_are_the_rows():
    result = analyze(*WS, "--channels", "8", "--nodes", "10", "--seeds", "7", "3")
    table = run_tool(TOOL, *WS, "--channels", "8", "--nodes", "10", "--seeds", "7", "3").stdout
    rows = [line.split() for line in table.splitlines()[1:3]]
    assert result["seeds"] == [7, 3]
    assert [row[0] for row in rows] == ["7", "3"]
    assert [row[-1] for row in rows] == [digest[:12] for digest in result["digests"]]
    assert [float(row[1]) for row in rows] == [round(value, 2) for value in result["params_m"]]


def test_one_seed_has_no_spread():
    result = analyze(*WS, "--seeds", "1")
    assert result["params_std"] is result["macs_std"] is None
    assert [result["params_mean"]] == result["params_m"]
    (ours,) = re.findall("mean .*\\d  ", run_tool(TOOL, *WS, "--seeds", "1").stdout)
    assert "±" not in ours
    assert "nan" not in ours


def test_the_same_seed_twice_has_no_spread_either():
    result = analyze(*WS, "--channels", "8", "--seeds", "3", "3")
    assert len(result["params_m"]) == 2
    assert result["params_std"] == result["macs_std"] == 0


@pytest.mark.parametrize(
    ("generator", "theta"), [("er", ("--p", "0.2")), ("ba", ("--m", "5")), ("ws", WS[2:])]
)
def test_every_generator_and_option(generator, theta):
    plain = ("--generator", generator, *theta, "--channels", "8", "--nodes", "16")
    base = analyze(*plain)
    assert len(set(base["digests"])) == 5
    assert analyze(*plain, "--seed-per-stage")["digests"] != base["digests"]
    assert analyze(*plain, "--num-classes", "10")["params_mean"] < base["params_mean"]
    assert analyze(*plain, "--input-size", "96")["macs_mean"] < base["macs_mean"]
    assert analyze(*plain, "--regime", "small")["params_mean"] < base["params_mean"]


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("--k", "3", "--p", "0.75"), ("K=3", "even")),
        (("--k", "32", "--p", "0.75"), ("K=32", "K < N")),
        (("--k", "4"), ("p is missing",)),
        ((), ("k is missing",)),
        ((*WS, "--m", "3"), ("m is given",)),
        (("--generator", "er", "--p", "1.5"), ("P=1.5", "0 <= P <= 1")),
        (("--generator", "er", "--p", "nan"), ("P=nan",)),
        (("--generator", "ba", "--m", "0"), ("M=0", "1 <= M < N")),
        ((*WS, "--seeds", "1", "-2"), ("seed=-2",)),
        ((*WS, "--seeds", "-2", "--seed-per-stage"), ("seed=-2",)),
        ((*WS, "--nodes", "0"), ("N=0",)),
        ((*WS, "--channels", "0"), ("C=0",)),
        ((*WS, "--input-size", "0"), ("input size 0",)),
        ((*WS, "--num-classes", "-5"), ("-5",)),
    ],
    ids=lambda value: " ".join(value),
)
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
def test_a_mistake_is_one_line(arguments, fragments, form):
    assert_refused(run_tool(TOOL, *arguments, *form), *fragments)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--k", "four"), "--k"),
        (("--seeds",), "--seeds"),
        (("--generator", "xx"), "er"),
        (("--channel", "78"), "--channel"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_a_bad_option_is_named_without_a_traceback(arguments, fragment):
    done = run_tool(TOOL, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert fragment in done.stderr.splitlines()[-1]


def test_help_states_every_default_and_an_example_that_runs():
    text = run_tool(TOOL, "--help").stdout
    options = re.split(r"\n  (?=--)", text)[1:]
    assert len(options) > 8
    for option in options:
        name = option.split()[0]
        # Parameters have none: which of them are needed depends on the generator.
        if name[2:].replace("-", "_") not in PARAMETERS:
            assert "(default: " in " ".join(option.split()), f"{name} states no default"
    command = re.search(r"example:\s+(python .*)", text, re.S).group(1).split()
    done = subprocess.run(
        [sys.executable, *command[1:]], cwd=REPO, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0
    assert "31.93 ± 0.66" in done.stdout


def test_a_reader_that_leaves_early_gets_no_traceback():
    """As with `| head -1`: a thousand rows are more than a pipe holds."""
    command = [sys.executable, REPO / "tools" / TOOL, *WS, "--nodes", "10", "--seeds"]
    seeds = map(str, range(1500))
    with subprocess.Popen(
        [*command, *seeds], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert "seed" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


def test_it_runs_from_any_folder(tmp_path):
    assert run_tool(TOOL, *WS, "--seeds", "1", cwd=tmp_path).returncode == 0


def test_it_counts_without_importing_torch():
    done = run_python("-X", "importtime", REPO / "tools" / TOOL, *WS, "--seeds", "1")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "networkx" in imported
    assert not {"torch", "torchvision", "detectron2"} & imported


@pytest.mark.parametrize(("regime", "channels"), [("small", 78), ("regular", 109)])
def test_every_operation_is_matched_within_one_percent(regime, channels):
    rows = analyze(*WS, "--regime", regime, "--channels", channels, "--match")
    assert [row["op"] for row in rows] == list(NODE_OPS)
    assert rows[0] == {"op": NODE_OPS[0], "channels": channels, "macs_m": ANY, "ratio": 1}
    for row in rows:
        assert abs(row["ratio"] - 1) < 0.01
        arguments = ("--op", row["op"], "--channels", row["channels"], "--regime", regime)
        assert analyze(*WS, *arguments)["macs_mean"] == pytest.approx(row["macs_m"])


def test_a_miniature_is_matched_with_its_own_head():
    small = (*WS, "--regime", "small", "--nodes", 8, "--input-size", 48, "--num-classes", 10)
    head = ("--head-channels", 64)
    (row,) = analyze(*small, "--channels", 16, *head, "--match", "conv3x3")
    arguments = {"regime": "small", "nodes": 8, "k": 4, "p": 0.75}
    networks = [
        generate("ws", seed=seed, channels=row["channels"], op="conv3x3", **arguments)
        for seed in range(1, 6)
    ]
    counted = fmean(complexity(network, 48, 10, 64).macs for network in networks)
    assert row["macs_m"] == pytest.approx(counted / 1e6) and abs(row["ratio"] - 1) < 0.01
    assert row["channels"] < analyze(*small, "--channels", 16, "--match", "conv3x3")[0]["channels"]


def test_measures_as_table_csv_plot_and_sheet(tmp_path):
    files = {name: tmp_path / "new" / name for name in ("w.csv", "w.png", "w.svg")}
    done = run_tool(
        *(TOOL, "--wirings", "WS(4, 0.75)", "ring(4)", "--seeds", "1-3", "--nodes", 12),
        *("--csv", files["w.csv"], "--plot", files["w.png"], "--sheet", files["w.svg"]),
    )
    assert done.returncode == 0
    rows = list(csv.DictReader(files["w.csv"].open()))
    assert [(row["wiring"], row["seed"]) for row in rows] == [
        (name, str(seed)) for name in ("WS(4, 0.75)", "ring(4)") for seed in (1, 2, 3)
    ]
    spec = generate("ws", seed=2, regime="regular", channels=109, nodes=12, k=4, p=0.75)
    own = {name: float(rows[1][name]) for name in measures(spec)}
    assert own == pytest.approx(measures(spec))
    assert int(rows[1]["macs"]) == complexity(spec).macs
    depth = fmean(float(row["depth"]) for row in rows[:3])
    assert f" {depth:.2f} " in done.stdout.splitlines()[1]
    assert files["w.png"].read_bytes().startswith(b"\x89PNG")
    drawing = files["w.svg"].read_text()
    assert drawing.count("WS(4, 0.75), seed") == 3  # matplotlib writes each text as a comment


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--wirings", "XY(3)"), "wiring 'XY(3)': expected one of er, ba, ws"),
        (("--wirings", "WS(4)"), "wiring 'WS(4)': expected ws(K, P)"),
        (("--wirings", "ER(x)"), "expected er(P)"),
        (("--wirings", "ER(2)"), "ER(P=2)"),
        (("--wirings", "resnet(2)"), "expected resnet alone"),
        (("--wirings", "ring(4)", "--plot", "x.txt"), "--plot x.txt"),
        (("--wirings", "ring(4)", "--axes", "depth", "size"), "--axes size: expected two of seed"),
        (("--csv", "x.csv"), "--csv x.csv: needs --wirings"),
    ],
)
def test_a_mistake_of_measuring_is_one_line(arguments, fragment, tmp_path):
    done = run_tool(TOOL, *arguments, "--seeds", 1, cwd=tmp_path)
    assert_refused(done, fragment)
    assert not list(tmp_path.iterdir())
