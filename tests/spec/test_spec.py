"""NetworkSpec: what its digest covers, that JSON carries it whole, and that bad data is refused."""

import copy
import dataclasses
import json
import random

import numpy as np
import pytest
from conftest import THETA, tiny_spec

from randwire_det.errors import UserError
from randwire_det.spec import NetworkSpec, StageSpec
from randwire_det.spec.graphs import Dag

# What stands where something else should: every JSON type, and values past every limit.
ODD_VALUES = [
    *(None, True, False, 0, 1, 2, -1, 7, 10**30, 0.0, 1.0, 1.5, -2.5, 1e400, float("nan")),
    *("", "1", "conv1", "conv2", "conv3x3", "sep_conv3x3", "\n", "\x00", "é"),
    *([], {}, [[]], [None], [0, 1], [[0, 1]], [[1, 0]], [["0", "1"]], [[[0], 1]], {"edges": []}),
    *([{}], {"name": "conv1"}, [{"name": "conv1"}], [[0, 1, 2]], [[0, 1], [0, 1]], [0.5] * 3),
]


def plain_spec():
    return json.loads(tiny_spec("er", p=0.3).to_json())


def places(node, path=()):
    """The path of every value in plain data, containers included."""
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in inner:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def holder(plain, path):
    for key in path[:-1]:
        plain = plain[key]
    return plain


def stages(**last):
    """conv1 and a wired conv2 with nodes 0 -> 1 and the isolated node 2."""
    conv2 = {"name": "conv2", "channels": 4, "dag": Dag(3, ((0, 1),)), "op": "sep_conv3x3"}
    return StageSpec("conv1", 2), StageSpec(**conv2 | last)


@pytest.mark.parametrize("generator", THETA)
@pytest.mark.parametrize("regime", ["small", "regular"])
def test_json_round_trip(generator, regime):
    spec = tiny_spec(generator, regime=regime)
    again = NetworkSpec.from_json(spec.to_json())
    assert again == spec
    assert again.digest == spec.digest
    assert again.provenance == spec.provenance
    assert again.describe() == spec.describe()
    assert again.to_json() == spec.to_json()
    for old, new in zip(spec.stages, again.stages, strict=True):
        if old.dag is not None:
            assert new.dag.predecessors == old.dag.predecessors


def test_provenance_is_neither_in_the_digest_nor_compared():
    one, two = NetworkSpec(stages(), {"seed": 1}), NetworkSpec(stages(), {"seed": 2})
    assert one == two
    assert hash(one) == hash(two)
    assert one.digest == two.digest


@pytest.mark.parametrize(
    "change",
    [
        {"dag": Dag(3, ((0, 2),))},
        {"dag": Dag(3, ((0, 1), (0, 2)))},
        {"dag": Dag(4, ((0, 1),))},  # one more isolated node
        {"dag": Dag(2, ((0, 1),))},
        {"dag": None, "op": "conv3x3"},
        {"channels": 5},
        {"stride": 1},
    ],
    ids=str,
)
def test_whatever_defines_the_function_is_in_the_digest(change):
    one, two = NetworkSpec(stages()), NetworkSpec(stages(**change))
    assert one != two
    assert one.digest != two.digest


def test_the_op_is_in_the_digest():
    """A single 3x3 convolution, and a wiring of one node that could be no less separable."""
    single = NetworkSpec((StageSpec("conv1", 2), StageSpec("conv2", 4)))
    wired = NetworkSpec(stages(dag=Dag(1, ())))
    assert single.digest != wired.digest


def test_the_order_of_edges_does_not_matter():
    forward, reverse = Dag(4, ((0, 1), (2, 3))), Dag(4, ((2, 3), (0, 1)))
    assert NetworkSpec(stages(dag=forward)).digest == NetworkSpec(stages(dag=reverse)).digest


def test_a_spec_is_frozen_and_hashable():
    spec = tiny_spec()
    for thing, name in (
        (spec, "stages"),
        (spec.stages[0], "channels"),
        (spec.stages[2].dag, "edges"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, ())
    assert len({spec, tiny_spec(), tiny_spec(seed=2)}) == 2


def test_describe_names_source_widths_and_digest():
    spec = tiny_spec("ba", channels=6, seed=4)
    for part in ("BA", "M=2", "small", "seed 4", "3-6-6-12-24", spec.digest[:12]):
        assert part in spec.describe()
    assert "\n" not in spec.describe()
    assert NetworkSpec(stages()).digest[:12] in NetworkSpec(stages()).describe()


@pytest.mark.parametrize("path", [(), ("stages", 0), ("stages", 2)], ids=str)
def test_an_unknown_key_is_named(path):
    plain = plain_spec()
    holder(plain, (*path, "x"))["surplus"] = 1
    with pytest.raises(UserError, match="surplus"):
        NetworkSpec.from_dict(plain)


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in places(plain_spec())
        if isinstance(path[-1], str) and "provenance" not in path
    ]
    + [("provenance",)],
    ids=str,
)
def test_a_missing_key_is_named(path):
    plain = plain_spec()
    del holder(plain, path)[path[-1]]
    with pytest.raises(UserError, match=path[-1]):
        NetworkSpec.from_dict(plain)


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_another_version_is_refused_by_name(version):
    with pytest.raises(UserError, match="version") as caught:
        NetworkSpec.from_dict(plain_spec() | {"version": version})
    assert repr(version) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("channels", value) for value in (0, -1, 1.5, "4", True, None, [4])),
        *(("stride", value) for value in (0, 3, 2.0, "2", True, None, [2])),
        *(("op", value) for value in ("conv", "", "Conv2d", 3, None, ["sep_conv3x3"], {})),
        *(("num_nodes", value) for value in (0, -1, 1, 1.5, "10", True, None, [10])),
        *(("edges", value) for value in (None, "01", 3, {}, [0, 1], [[0, 1, 2]], [["0", "1"]])),
        *(("edges", value) for value in ([[1, 0]], [[0, 99]], [[0, 1], [0, 1]], [[0.0, 1.0]])),
        *(("name", value) for value in ("conv1", "conv9", "", 3, None, ["conv3"])),
        *(("name", value) for value in ("x" * 10**5, np.array([1, 2]))),
        *((name, np.array([1, 2])) for name in ("channels", "stride", "op", "num_nodes")),
        *((name, 1) for name in ("x" * 10**5, "y\n")),
        pytest.param("channels", 10**5000, id="huge channels"),
        pytest.param("name", 10**5000, id="huge name"),
    ],
)
def test_a_bad_value_in_a_stage_is_refused(key, value):
    plain = plain_spec()
    plain["stages"][2][key] = value
    with pytest.raises(UserError) as caught:
        NetworkSpec.from_dict(plain)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "[]", "3", '"spec"', "NaN", "{'version': 1}", "\x00", '{"version": 1}'),
        '{"version": 1, "stages": [], "provenance": {}}',
        '{"version": 1, "stages": {}, "provenance": {}}',
        '{"version": 1, "stages": [3], "provenance": {}}',
        tiny_spec().to_json()[:-1],
        f'{{"{"a" * 10_000}": 1, "{"a" * 10_000}": 2}}',
        tiny_spec().to_json() * 2,
        b'{"version": "\xff"}',
        "[" * 100_000,
        '{"version": ' + "9" * 5000 + "}",
        tiny_spec().to_json().replace('"version": 1', '"version": true'),
        tiny_spec().to_json().replace('"version": 1', '"version": 1.0'),
        tiny_spec().to_json().replace('"version": 1', '"version": 2, "version": 1'),
        tiny_spec().to_json().replace('"channels": 4', '"channels": 4, "channels": 4', 1),
        tiny_spec().to_json().replace('"num_nodes": 10', f'"num_nodes": {10**9}'),
        tiny_spec().to_json().replace('"num_nodes": 10', f'"num_nodes": {"9" * 4000}'),
        None,
        3,
    ],
    ids=lambda text: repr(text)[:20],
)
def test_text_that_is_no_spec_is_refused(text):
    with pytest.raises(UserError) as caught:
        NetworkSpec.from_json(text)
    assert len(str(caught.value)) < 400


def test_a_damaged_spec_is_refused_or_read_as_it_stands():
    """Fuzz: no value of a spec may raise anything but UserError, or be read as something else."""
    rng, original = random.Random(0), tiny_spec("er", p=0.3)
    outcomes = {"refused": 0, "read": 0}
    for path in places(plain_spec()):
        for value in rng.sample(ODD_VALUES, 12):
            plain = plain_spec()
            holder(plain, path)[path[-1]] = copy.deepcopy(value)
            try:
                spec = NetworkSpec.from_dict(copy.deepcopy(plain))
            except UserError:
                outcomes["refused"] += 1
                continue
            outcomes["read"] += 1
            for stage in plain["stages"]:
                if "edges" in stage:
                    stage["edges"].sort(key=lambda edge: edge[::-1])
            as_read, as_written = spec.to_dict()["stages"], plain["stages"]
            # As text, for 1 == 1.0 == True.
            assert json.dumps(as_read, sort_keys=True) == json.dumps(as_written, sort_keys=True)
            same = as_read == original.to_dict()["stages"]
            assert (spec.digest == original.digest) == same
            assert NetworkSpec.from_json(spec.to_json()) == spec
    assert min(outcomes.values()) > 50


@pytest.mark.parametrize(
    "source", [None, 5, ["a"], "x" * 10**5, "a\n\x1b[31mb"], ids=lambda each: repr(each)[:9]
)
def test_describe_is_one_line_whatever_the_provenance(source):
    spec = NetworkSpec(tiny_spec().stages, {"description": source})
    assert spec.describe().isprintable()
    assert len(spec.describe()) < 400
    assert spec.digest[:12] in spec.describe()


@pytest.mark.parametrize("provenance", [None, "ws", 3, ["a"]])
def test_a_provenance_that_is_no_dict_is_refused(provenance):
    with pytest.raises(UserError, match="provenance"):
        NetworkSpec(tiny_spec().stages, provenance)
