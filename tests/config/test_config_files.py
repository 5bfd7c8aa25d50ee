"""Config files: found by bare name, safe to read, and every mistake met with one helpful line."""

import os
from itertools import pairwise

import pytest
from fvcore.common.config import CfgNode

from randwire_det.config.files import SHIPPED, config_path, merge_config
from randwire_det.errors import UserError

SHIPPED_NAMES = sorted(str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*.yaml"))


def defaults():
    model = {"DEPTH": 3, "NAME": "plain", "SEEDS": [1, 2]}
    return CfgNode({"MODEL": model, "SOLVER": {"BASE_LR": 0.1, "AMP": False}, "OUTPUT": "."})


@pytest.fixture
def merged(tmp_path, monkeypatch):
    """A function: file contents by name (the first is the one given) and overrides, to a config."""
    monkeypatch.chdir(tmp_path)

    def merge(files, *overrides):
        for name, text in files.items():
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        cfg = defaults()
        merge_config(cfg, next(iter(files)), list(overrides))
        return cfg

    return merge


@pytest.fixture
def refusal(merged):
    """The same, to the one line with which it is refused."""

    def message(files, *overrides):
        with pytest.raises(UserError) as caught:
            merged(files, *overrides)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return message


# --- where a config is found


def test_configs_are_shipped():
    assert SHIPPED_NAMES


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_a_shipped_config_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_path(name) == str(SHIPPED / name)


def test_a_real_path_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / SHIPPED_NAMES[0]
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("{}")
    found = config_path(SHIPPED_NAMES[0])
    assert (tmp_path / found).samefile(mine)
    assert config_path(str(mine)) == str(mine)


def test_an_unknown_config_is_met_with_the_nearest_or_all_shipped_ones(tmp_path):
    typo = SHIPPED_NAMES[0].replace(".yaml", "s.yaml")
    with pytest.raises(UserError, match=f"'{typo}' not found; did you mean {SHIPPED_NAMES[0]}"):
        config_path(typo)
    (tmp_path / "blood.yaml").write_text("{}")
    with pytest.raises(UserError, match=f"did you mean {tmp_path}/blood.yaml"):
        config_path(str(tmp_path / "blod.yaml"))
    with pytest.raises(UserError, match="not found; shipped configs: ") as caught:
        config_path("what")
    assert all(name in str(caught.value) for name in SHIPPED_NAMES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [".", "no/such.yaml", "/no/such.yaml", "\0"])
def test_what_is_no_file_is_refused(name):
    with pytest.raises(UserError, match="not found"):
        config_path(name)


def test_no_name_at_all_says_what_is_missing():
    with pytest.raises(UserError, match="--config-file"):
        config_path("")


# --- what is merged


@pytest.mark.parametrize(
    ("section", "tool"), [("DATA", "pretrain_imagenet.py"), ("DATASETS", "train_net.py")]
)
def test_a_config_of_another_tool_is_told_by_its_sections(refusal, section, tool):
    message = refusal({"a.yaml": f"SOLVER: {{EPOCHS: 3}}\n{section}: {{ROOT: there}}\n"})
    assert "SOLVER.EPOCHS" in message and f"tools/{tool}" in message


def test_file_and_overrides_are_merged_in_order(merged):
    text = "MODEL:\n  DEPTH: 5\n  NAME: file\nSOLVER: {BASE_LR: 0.5}\n"
    cfg = merged({"a.yaml": text}, "MODEL.DEPTH", "7", "SOLVER.AMP", "True", "MODEL.SEEDS", "[3]")
    expected = defaults()
    expected.MODEL = CfgNode({"DEPTH": 7, "NAME": "file", "SEEDS": [3]})
    expected.SOLVER = CfgNode({"BASE_LR": 0.5, "AMP": True})
    assert cfg == expected


def test_a_base_is_relative_to_the_file_and_overridden_by_it(tmp_path, merged):
    (tmp_path / "sub").mkdir()
    files = {
        "sub/a.yaml": "_BASE_: ../b.yaml\nMODEL: {DEPTH: 5}\n",
        "b.yaml": "_BASE_: sub/c.yaml\nMODEL: {DEPTH: 6, NAME: b}\n",
        "sub/c.yaml": "MODEL: {NAME: c, SEEDS: [9]}\n",
    }
    model = merged(files).MODEL
    assert dict(model) == {"DEPTH": 5, "NAME": "b", "SEEDS": [9]}


def test_a_new_key_is_taken_where_the_node_allows_it(tmp_path):
    (tmp_path / "a.yaml").write_text("FREE: {ANYTHING: 1}\n")
    cfg = CfgNode()
    cfg.FREE = CfgNode(new_allowed=True)
    merge_config(cfg, str(tmp_path / "a.yaml"), [])
    assert cfg.FREE.ANYTHING == 1


# --- what is refused


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("MODEL: {DEPHT: 3}", "MODEL.DEPTH"),
        ("MODEL: {depth: 3}", "MODEL.DEPTH"),
        ("MODELL: {NAME: x}", "MODEL.NAME"),
        ("SOLVER: {LR: 3.0}", "SOLVER.BASE_LR"),
        ("OUTPTU: x", "OUTPUT"),
        ("MODEL: {NAME: {X: 1}}", "MODEL.NAME"),
        ("_BASE_: b.yaml", "SOLVER.AMP"),
    ],
)
def test_an_unknown_key_is_met_with_the_nearest(refusal, typo, meant):
    message = refusal({"a.yaml": typo, "b.yaml": "SOLVER: {AMPS: True}"})
    assert ("b.yaml" if "_BASE_" in typo else "a.yaml") in message
    assert meant in message.partition("did you mean")[2]


@pytest.mark.parametrize("in_base", [False, True])
@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("MODEL: {DEPTH: 5}\nMODEL: {NAME: x}", "line 2: YAML refused: duplicate key MODEL"),
        ("MODEL:\n  DEPTH: 5\n  NAME: x\n  DEPTH: 6", "line 4: YAML refused: duplicate key DEPTH"),
        ("MODEL: &a {NAME: *a}", "*a"),
        ("MODEL: {SEEDS: &a [1, *a]}", "*a"),
        (
            "MODEL:\n  SEEDS:\n  - &a [1, 1]\n"
            + "".join(f"  - &{b} [*{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnop")),
            "values",
        ),
        ("SOLVER: {BASE_LR: .nan}", "SOLVER.BASE_LR is not a number"),
        (f"SOLVER: {{BASE_LR: {'9' * 4000}}}", "SOLVER.BASE_LR is a number of more than 63 bits"),
        (f"MODEL: {{SEEDS: [1, {'9' * 4000}]}}", "MODEL.SEEDS is a number of more than 63 bits"),
        (f"SOLVER: {{BASE_LR: {'9' * 5000}}}", "5000 digits"),
        ("OUTPUT: 2024-13-45", "month"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_yaml_that_does_not_say_one_thing_is_refused(refusal, in_base, text, hint):
    files = {"b.yaml" if in_base else "a.yaml": text}
    message = refusal({"a.yaml": "_BASE_: b.yaml"} | files)
    assert hint in message
    assert ("b.yaml" if in_base else "a.yaml") in message
    assert len(message) < 1200


def test_aliases_and_merge_keys_that_say_one_thing_are_taken(tmp_path):
    """A run's own config.yaml has aliases of lists."""
    cfg = CfgNode({"A": {"X": 0, "Y": [0]}, "B": {"X": 0, "Y": [0]}})
    text = "A: &a {X: 1, Y: &y [5]}\nB: {<<: *a, X: 2, Y: *y}"
    (tmp_path / "a.yaml").write_text(text)
    merge_config(cfg, str(tmp_path / "a.yaml"), [])
    assert cfg == CfgNode({"A": {"X": 1, "Y": [5]}, "B": {"X": 2, "Y": [5]}})


@pytest.mark.parametrize("value", ["9" * 4000, "9" * 5000, "[" * 500, "~" * 100_000 + "1"])
def test_an_endless_override_is_refused_in_a_line_of_bounded_length(refusal, value):
    message = refusal({"a.yaml": "{}"}, "SOLVER.BASE_LR", value)
    assert "SOLVER.BASE_LR" in message
    assert len(message) < 1200


def test_bases_that_fork_are_read_once_each(merged):
    """Thirty levels of two bases each are a billion files otherwise."""
    levels = 30
    files = {
        f"{n}.yaml": f"_BASE_: [{n + 1}.yaml, {n + 1}.yaml]\nMODEL: {{SEEDS: [{n}]}}\n"
        for n in range(levels)
    }
    cfg = merged(files | {f"{levels}.yaml": "MODEL: {DEPTH: 9}"})
    assert (cfg.MODEL.SEEDS, cfg.MODEL.DEPTH) == ([0], 9)


def test_of_bases_that_share_one_neither_changes_the_other(merged):
    files = {
        "a.yaml": "_BASE_: [b.yaml, c.yaml]",
        "b.yaml": "_BASE_: d.yaml\nMODEL: {NAME: b}",
        "c.yaml": "_BASE_: d.yaml\nMODEL: {SEEDS: [3]}",
        "d.yaml": "MODEL: {NAME: d, SEEDS: [4]}",
    }
    assert dict(merged(files).MODEL) == {"DEPTH": 3, "NAME": "d", "SEEDS": [3]}


def test_a_chain_of_bases_without_an_end_is_refused(refusal):
    files = {f"{n}.yaml": f"_BASE_: {n + 1}.yaml" for n in range(2000)}
    assert "_BASE_" in refusal(files)


@pytest.mark.parametrize("base", ["pipe", "/dev/zero", "."])
def test_a_base_that_is_no_regular_file_is_refused_and_not_waited_for(refusal, tmp_path, base):
    os.mkfifo(tmp_path / "pipe")
    message = refusal({"a.yaml": f"_BASE_: {base}"})
    assert "a.yaml" in message and "pipe or a device" in message


@pytest.mark.parametrize("key", ["MODEL.DEPHT", "MODEL..DEPTH", "MODEL.DEPTH.X", "MODEL.DEPTH "])
def test_an_unknown_override_is_met_with_the_nearest(refusal, key):
    message = refusal({"a.yaml": "{}"}, key, "4")
    assert key in message
    assert "MODEL.DEPTH" in message.partition("did you mean")[2]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("MODEL: {DEPTH: deep}", "MODEL.DEPTH"),
        ("MODEL: {DEPTH: true}", "MODEL.DEPTH"),
        ("MODEL: {DEPTH: 3.5}", "MODEL.DEPTH"),
        ("MODEL: {DEPTH: [3]}", "MODEL.DEPTH"),
        ("MODEL: {SEEDS: 3}", "MODEL.SEEDS"),
        ("SOLVER: {AMP: 1}", "SOLVER.AMP"),
        ("SOLVER: {BASE_LR: {}}", "SOLVER.BASE_LR"),
        ("MODEL: 5", "MODEL"),
        ("MODEL:", "MODEL"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused(refusal, text, key):
    message = refusal({"a.yaml": text})
    assert "a.yaml" in message
    assert key in message


@pytest.mark.parametrize(
    ("pair", "cure"),
    [
        (["MODEL.SEEDS", "7"], 'MODEL.SEEDS is a list, such as "(7,)", got 7'),
        (["MODEL.DEPTH", "ten"], "MODEL.DEPTH is a whole number, got 'ten'"),
        (["SOLVER.AMP", "yes"], "SOLVER.AMP is True or False, got 'yes'"),
        (["SOLVER.BASE_LR", "high"], "SOLVER.BASE_LR is a number, got 'high'"),
        (["MODEL.NAME", "5"], "MODEL.NAME is text, got 5"),
    ],
)
def test_what_type_is_expected_is_said(refusal, pair, cure):
    message = refusal({"a.yaml": "{}"}, *pair)
    assert cure in message and " ".join(pair) in message


@pytest.mark.parametrize(
    "pair",
    [("MODEL.DEPTH", "deep"), ("SOLVER.AMP", "true"), ("MODEL", "5"), ("MODEL.DEPTH", "1\n2")],
    ids=str,
)
def test_an_override_of_a_wrong_type_is_refused(refusal, pair):
    assert pair[0] in refusal({"a.yaml": "{}"}, *pair)


@pytest.mark.parametrize("overrides", [["MODEL.DEPTH"], ["MODEL.DEPTH", "4", "OUTPUT"]])
def test_overrides_come_in_pairs(refusal, overrides):
    message = refusal({"a.yaml": "{}"}, *overrides)
    assert "KEY VALUE" in message
    assert overrides[-1] in message


def test_an_option_among_the_overrides_is_named(refusal):
    assert "--resume" in refusal({"a.yaml": "{}"}, "OUTPUT", "--resume")


@pytest.mark.parametrize(
    "text",
    [
        '{KEY}: !!python/object/apply:os.mkdir ["{marker}"]',
        '{KEY}: !!python/object/apply:subprocess.check_call [[mkdir, "{marker}"]]',
        '{KEY}: !!python/object/new:os.mkdir ["{marker}"]',
        '!!python/object/apply:os.mkdir ["{marker}"]',
    ],
)
@pytest.mark.parametrize("in_base", [False, True])
def test_yaml_that_would_run_code_is_refused_and_not_run(refusal, tmp_path, text, in_base):
    marker = tmp_path / "went off"
    bomb = text.replace("{marker}", str(marker)).replace("{KEY}", "OUTPUT")
    files = {"a.yaml": "_BASE_: b.yaml", "b.yaml": bomb} if in_base else {"a.yaml": bomb}
    assert "refused" in refusal(files)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("MODEL:\n  DEPTH: 5\n NAME: x\n", 3),
        ("OUTPUT: x\nMODEL:\n\tDEPTH: 1\n", 3),
        ('OUTPUT: "x\n', 2),
        ("OUTPUT: x\n\n\nMODEL: @\n", 4),
    ],
)
def test_broken_yaml_is_refused_with_its_line(refusal, text, line):
    assert f"a.yaml, line {line}:" in refusal({"a.yaml": text})


def test_broken_yaml_in_a_base_names_the_base(refusal):
    message = refusal({"a.yaml": "_BASE_: b.yaml\n", "b.yaml": "OUTPUT: x\n\nMODEL: @\n"})
    assert "b.yaml, line 3:" in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "5",
        "hello",
        "- a\n- b\n",
        b"OUTPUT: \xe9\n",
        bytes(range(256)),
        "[" * 1000,
    ],
    ids=lambda text: repr(text)[:12],
)
@pytest.mark.parametrize("in_base", [False, True])
def test_a_file_without_keys_is_refused_by_name(refusal, text, in_base):
    name = "b.yaml" if in_base else "a.yaml"
    assert name in refusal({"a.yaml": "_BASE_: b.yaml\nOUTPUT: x", name: text})


@pytest.mark.parametrize(
    "base", ["missing.yaml", "[missing.yaml]", ".", "a.yaml", "3", "", "{a: 1}", "[3]"]
)
def test_a_base_that_cannot_be_read_is_refused(refusal, base):
    message = refusal({"a.yaml": f"_BASE_: {base}\nOUTPUT: x\n"})
    assert "a.yaml" in message
    if "missing" in base:
        assert "missing.yaml" in message


@pytest.mark.parametrize(("mine", "base"), [("5", "{DEPTH: 3}"), ("{DEPTH: 3}", "5")])
def test_a_base_that_does_not_fit_is_refused(refusal, mine, base):
    files = {"a.yaml": f"_BASE_: b.yaml\nMODEL: {mine}\n", "b.yaml": f"MODEL: {base}\n"}
    message = refusal(files)
    assert "a.yaml" in message
    assert "MODEL" in message
