"""generate(): the paper's networks, pinned for good, and Table 1 line by line."""

import inspect
import json
from fractions import Fraction

import networkx as nx
import numpy as np
import pytest
from conftest import THETA, run_python, tiny_spec

from randwire_det import NetworkSpec, generate
from randwire_det.errors import UserError

# SHA-256 of the stages of WS(4, 0.75), N=32, for seeds 1 to 5. Everyone's published weights stand
# on these: if one changes, a checkpoint trained before no longer fits.
GOLDEN = {
    ("small", 78): (
        "2764385b8aafe73b5d1d2f68730bc6300d9f298b6a1ec627b9c0399fc5ad53dd",
        "6aa9b75b287b104f4cd5df6f254bda471e827d94edc93d4f39ee398511dc4591",
        "d448a826c0ba14073a1ee373d575d6474ae39b8615b74361cc1362ef6aa5dfaa",
        "f0d7d6e195a261e16385ff48db463aeb90fb0627d79737a212213a2b64a7d81d",
        "544c1f6d9604cf6bf2fffc9f371fe1f0dcae790ce6de94b563342ab40d8e38b0",
    ),
    ("regular", 109): (
        "82e6c9e21725a3ff055d489097ce1d3e53bce31791265477572a1a0ae7f67701",
        "47788f7fe70f11360ba517f31a9fc48daef6aa41fe61075a4682b82bc7816e18",
        "58622b39d00f399283fa58d8b83f97290e494e90e2664f1b321137912a0074a9",
        "08854b9439ed67e91757ef7a14ce200f0d15cb7fd50c1a450a475c587a27bffd",
        "9d0bb211200c44eec4de6dddeb1fbd1c20d97d51c7aee97b7dfc0aecf6f378d4",
    ),
    ("regular", 154): (
        "bcc637e8cc0cdce24ee7138eb390ef2a6374f98b38e7bbaec16c86aa918d9b0a",
        "7b9a3a3c83ea8de5c807f81711731609922fd5d871d75daf527963121dc341ec",
        "f308619d1f6069da18f4940734c019fdabd09ffa7b46560bf77514a607325b6d",
        "4fcbc189f70b8c294fde690260d9b5523bbf23aef4d5c45e923562ffe18861a4",
        "0457af1faad9254396a55364ab5a76645e0eb2d585febc5e54aa078f94d08449",
    ),
}
# Table 1: channels as multiples of C, nodes as multiples of N, per stage.
TABLE_1 = {
    "small": {
        "conv1": (1 / 2, 0),
        "conv2": (1, 0),
        "conv3": (1, 1),
        "conv4": (2, 1),
        "conv5": (4, 1),
    },
    "regular": {
        "conv1": (1 / 2, 0),
        "conv2": (1, 1 / 2),
        "conv3": (2, 1),
        "conv4": (4, 1),
        "conv5": (8, 1),
    },
}


def papers(regime, channels, seed, **changes):
    theta = {"k": 4, "p": 0.75}
    return generate("ws", seed=seed, regime=regime, channels=channels, **theta | changes)


def wirings(spec):
    return [stage.dag for stage in spec.stages if stage.dag is not None]


@pytest.mark.parametrize(
    ("regime", "channels", "seed", "digest"),
    [(*network, seed, d) for network, all_ in GOLDEN.items() for seed, d in enumerate(all_, 1)],
)
def test_the_papers_networks_never_change(regime, channels, seed, digest):
    assert papers(regime, channels, seed).digest == digest


@pytest.mark.parametrize("seed", range(1, 6))
def test_the_published_wiring(seed):
    """The reading that gives Tables 2 and 3: this networkx call, the same seed in every stage."""
    for regime, sizes in (("small", (32, 32, 32)), ("regular", (16, 32, 32, 32))):
        for dag, n in zip(wirings(papers(regime, 78, seed)), sizes, strict=True):
            graph = nx.connected_watts_strogatz_graph(n, 4, 0.75, seed=seed)
            assert dag.num_nodes == n
            assert set(dag.edges) == {tuple(sorted(edge)) for edge in graph.edges}


@pytest.mark.parametrize("generator", THETA)
@pytest.mark.parametrize(("regime", "channels", "nodes"), [("small", 78, 32), ("regular", 109, 16)])
def test_table_1(generator, regime, channels, nodes):
    spec = tiny_spec(generator, regime=regime, channels=channels, nodes=nodes)
    assert spec.stage_names == tuple(TABLE_1[regime])
    for stage, (width, size) in zip(spec.stages, TABLE_1[regime].values(), strict=True):
        assert abs(stage.channels - width * channels) <= 1 / 2  # C/2 of an odd C is rounded
        assert stage.stride == 2
        assert (stage.dag.num_nodes if stage.dag else 0) == size * nodes
        assert stage.op == ("sep_conv3x3" if stage.dag else "conv3x3")


@pytest.mark.parametrize("generator", THETA)
def test_one_seed_for_all_stages_by_default(generator):
    *conv2, conv3, conv4, conv5 = wirings(tiny_spec(generator, regime="regular", nodes=12))
    assert conv3 == conv4 == conv5
    assert conv2 == [wirings(tiny_spec(generator, nodes=6))[0]]


@pytest.mark.parametrize("generator", THETA)
def test_a_seed_per_stage_gives_every_stage_its_own_wiring(generator):
    specs = [tiny_spec(generator, seed=seed, nodes=12, seed_per_stage=True) for seed in range(20)]
    drawn = [dag for spec in specs for dag in wirings(spec)]
    assert len(set(drawn)) == len(drawn)
    assert specs[3] == tiny_spec(generator, seed=3, nodes=12, seed_per_stage=True)


@pytest.mark.parametrize("generator", THETA)
def test_another_seed_is_another_network(generator):
    assert len({tiny_spec(generator, seed=seed).digest for seed in range(10)}) == 10


def test_provenance_tells_how_to_generate_the_network_again():
    spec = tiny_spec("ws", seed=3, seed_per_stage=True)
    known = {
        key: value
        for key, value in spec.provenance.items()
        if key not in ("networkx", "description")
    }
    assert generate(**known) == spec
    assert spec.provenance["networkx"] == nx.__version__


@pytest.mark.parametrize("p", [0, 0.0, 1])
def test_a_probability_of_zero_is_not_a_missing_one(p):
    assert wirings(tiny_spec("er", p=p))[0].num_nodes == 10


@pytest.mark.parametrize("generator", THETA)
@pytest.mark.parametrize("parameter", ["k", "p", "m"])
def test_theta_must_be_what_the_model_takes(generator, parameter):
    value = 4 if parameter == "k" else 1
    change = {parameter: None if parameter in THETA[generator] else value}
    with pytest.raises(UserError, match=rf"\b{parameter} is (missing|given)") as caught:
        tiny_spec(generator, **change)
    assert generator in str(caught.value)


@pytest.mark.parametrize(
    ("change", "value", "rule"),
    [
        ({"generator": "wz"}, "wz", "er, ba, ws"),
        ({"generator": "WS"}, "WS", "er, ba, ws"),
        ({"regime": "large"}, "large", "small, regular"),
        *(({"seed_per_stage": bad}, bad, "True or False") for bad in ("yes", 1, None)),
        ({"nodes": 10**9}, 10**9, "at most"),
        ({"channels": 10**10}, 10**10, "at most"),
        ({"seed": 2**128}, 2**128, "below 2^128"),
        ({"regime": None}, None, "small, regular"),
        *(({"channels": bad}, bad, ">= 1") for bad in (0, -1, 0.5, "78", True, None)),
        *(({"nodes": bad}, bad, ">= 1") for bad in (0, -1, 7.5, "32", True, None)),
        ({"k": 5}, 5, "even"),
        ({"p": 2}, 2, "0 <= P <= 1"),
        *(({"seed": bad}, bad, ">= 0") for bad in (-1, 1.5, "1", None, True, [1])),
        *(
            ({"seed": bad, "seed_per_stage": True}, bad, ">= 0")
            for bad in (-1, 1.5, "1", None, True, [1])
        ),
    ],
    ids=str,
)
def test_a_bad_argument_is_named_with_its_rule(change, value, rule):
    with pytest.raises(UserError) as caught:
        tiny_spec(**{"generator": "ws"} | change)
    assert repr(value) in str(caught.value)
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [10**5000, -(10**5000), Fraction(10**400, 3), "x" * 10**5, np.array([1, 2])],
    ids=["huge", "far below zero", "fraction", "long", "array"],
)
def test_what_has_no_short_text_is_refused_in_one_line(value):
    fitting = {"seed": 1, "regime": "small", "channels": 4, "nodes": 10}
    for generator in ("ws", "ba"):  # each with a parameter that the other does not take
        arguments = {"generator": generator, **fitting, **THETA[generator]}
        for name in inspect.signature(generate).parameters:
            with pytest.raises(UserError) as caught:
                generate(**arguments | {name: value})
            assert len(str(caught.value)) < 300
            assert str(caught.value).isprintable()


def test_a_generator_that_is_no_name_is_refused():
    with pytest.raises(UserError, match=r"generator \['ws'\]: expected one of er, ba, ws"):
        generate(["ws"], seed=1, regime="small", channels=4)


@pytest.mark.parametrize("kind", [np.int64, np.uint8], ids=str)
def test_numpy_numbers_are_as_good_as_pythons(kind, tmp_path):
    """Kept as they are, they could not be written into a checkpoint."""
    names = {"channels": kind(4), "nodes": kind(10), "seed": kind(1)}
    for generator, theta in (
        ("ws", {"k": kind(4), "p": np.float32(0.75)}),
        ("er", {"p": np.float64(0.3)}),
        ("ba", {"m": kind(2)}),
    ):
        spec = tiny_spec(generator, **names, **theta)
        assert spec == tiny_spec(generator, **{k: v.item() for k, v in theta.items()})
        assert NetworkSpec.from_json(spec.to_json()).provenance == spec.provenance
        assert {type(value) for value in spec.provenance.values()} <= {int, float, str, bool}


def test_a_stage_too_small_for_its_wiring_is_named():
    with pytest.raises(UserError, match=r"conv2: .*K=4.*N=3"):
        tiny_spec("ws", regime="regular", nodes=6)


def test_a_fresh_process_generates_the_same_without_torch():
    """Under other hash seeds too; and the face of the package costs no import of torch."""
    code = (
        "import json, sys, randwire_det, randwire_det.spec.complexity\n"
        "spec = randwire_det.generate(**json.loads(sys.argv[1]))\n"
        "randwire_det.spec.complexity.complexity(spec)\n"
        "heavy = [name for name in ('torch', 'torchvision', 'detectron2') if name in sys.modules]\n"
        "print(json.dumps([spec.to_json(), spec.digest, heavy]))"
    )
    arguments = {
        "generator": "ws",
        "seed": 3,
        "regime": "regular",
        "channels": 109,
        "k": 4,
        "p": 0.75,
    }
    for hash_seed in ("1", "99"):
        done = run_python("-c", code, json.dumps(arguments), env={"PYTHONHASHSEED": hash_seed})
        text, digest, heavy = json.loads(done.stdout)
        assert heavy == []
        assert NetworkSpec.from_json(text) == generate(**arguments)
        assert digest == generate(**arguments).digest
