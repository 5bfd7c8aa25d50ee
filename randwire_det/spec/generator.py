"""The stochastic network generator g(theta, s) of section 3.4: parameters and a seed to a spec.

The regimes are Table 1 of the paper. Every stage takes the same seed: with it the parameter and
FLOP counts of Tables 2 and 3 come out (README, "our reading"). So conv3, conv4 and conv5 share one
graph, and conv2 of the regular regime is the N/2-node graph of that seed.
"""

import inspect
import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import networkx as nx

from ..errors import UserError, brief
from .graphs import (
    Dag,
    barabasi_albert,
    check_nodes,
    check_seed,
    erdos_renyi,
    real,
    watts_strogatz,
)
from .own_graphs import own_stages
from .spec import CONV3X3, MAX_CHANNELS, NODE_OPS, SEP_CONV3X3, NetworkSpec, StageSpec
from .special_graphs import chain, densenet_like, nago, resnet_like, ring, ws_flex

# Number of nodes, the model's parameters, seed -> Dag. The paper's three come first.
GRAPH_MODELS: dict[str, Callable[..., Dag]] = {
    "er": erdos_renyi,
    "ba": barabasi_albert,
    "ws": watts_strogatz,
    "ring": ring,
    "ws_flex": ws_flex,
    "nago": nago,
    "chain": chain,
    "resnet": resnet_like,
    "densenet": densenet_like,
}
OWN_GRAPH = "graph"  # the generator that takes a user's graph
GENERATORS = (*GRAPH_MODELS, OWN_GRAPH)
# What a graph model may take besides N and the seed.
PARAMETERS = tuple(
    dict.fromkeys(
        name
        for model in GRAPH_MODELS.values()
        for name in inspect.signature(model).parameters
        if name not in ("n", "seed")
    )
)
# The keys of a spec's provenance that `generate` takes, in the order they are listed.
PROVENANCE = (
    *("generator", "regime", "channels", "nodes", *PARAMETERS),
    *("seed", "seed_per_stage"),
)


class StagePlan(NamedTuple):
    """A row of Table 1."""

    channels: Fraction  # as a multiple of C
    nodes: Fraction | None  # as a multiple of N; None is a single convolution
    stride: int = 2


_HALF, _NO_GRAPH = Fraction(1, 2), None
REGIMES: dict[str, tuple[StagePlan, ...]] = {
    "small": (
        StagePlan(_HALF, _NO_GRAPH),
        StagePlan(Fraction(1), _NO_GRAPH),
        StagePlan(Fraction(1), Fraction(1)),
        StagePlan(Fraction(2), Fraction(1)),
        StagePlan(Fraction(4), Fraction(1)),
    ),
    "regular": (
        StagePlan(_HALF, _NO_GRAPH),
        StagePlan(Fraction(1), _HALF),
        StagePlan(Fraction(2), Fraction(1)),
        StagePlan(Fraction(4), Fraction(1)),
        StagePlan(Fraction(8), Fraction(1)),
    ),
    # For pictures of 32 x 32 pixels; not the paper's. Public RandWires on CIFAR-10 keep the
    # resolution in conv1 and conv2, and halve it in two random stages of 2C and 4C channels.
    "cifar": (
        StagePlan(Fraction(1), _NO_GRAPH, stride=1),
        StagePlan(Fraction(1), _NO_GRAPH, stride=1),
        StagePlan(Fraction(2), Fraction(1)),
        StagePlan(Fraction(4), Fraction(1)),
    ),
}


def generate(
    generator: str,
    *,
    seed: int,
    regime: str,
    channels: float,
    nodes: int = 32,
    op: str = SEP_CONV3X3,
    k: int | None = None,
    p: float | None = None,
    m: int | None = None,
    degree: float | None = None,
    mid_nodes: int | None = None,
    mid_p: float | None = None,
    bottom_nodes: int | None = None,
    bottom_k: int | None = None,
    bottom_p: float | None = None,
    graph=None,
    seed_per_stage: bool = False,
) -> NetworkSpec:
    """Sample one network, for example `generate("ws", seed=1, regime="regular", channels=109,
    k=4, p=0.75)`.

    Args:
        generator: the paper's "er" (takes p), "ba" (takes m), "ws" (takes k and p); "ring" (k),
            "ws_flex" (degree, p), "nago" (k, p, mid_nodes, mid_p, bottom_nodes, bottom_k,
            bottom_p), the fixed wirings "chain" (k), "resnet" and "densenet"; or "graph" (graph).
        seed: s, a whole number >= 0; the paper uses 1 to 5. Fixed wirings ignore it.
        regime: "small" or "regular", the columns of Table 1; "cifar" for 32 x 32 pictures.
        channels: C of Table 1; the paper's are 78 (small), 109 and 154 (regular). It may be a
            fraction, to match a given complexity; the widths of stages are rounded, halves down.
        nodes: N of Table 1; the paper's is 32. The generator "graph" ignores it.
        op: the operation of every node, one of `NODE_OPS` (Figure 6).
        k, p, m, degree, mid_nodes, mid_p, bottom_nodes, bottom_k, bottom_p: parameters of the
            graph model; see its function in `graphs` and `special_graphs`.
        graph: a graph of your own, for all random stages or by stage name; see `own_stages`.
        seed_per_stage: give every stage a graph of its own instead of the same seed's.

    Raises:
        UserError: an unknown name, a missing or superfluous parameter, or a bad value.
    """
    given = {"k": k, "p": p, "m": m, "degree": degree, "mid_nodes": mid_nodes, "mid_p": mid_p}
    given |= {"bottom_nodes": bottom_nodes, "bottom_k": bottom_k, "bottom_p": bottom_p}
    theta = _graph_parameters(generator, given, graph)
    if not isinstance(regime, str) or regime not in REGIMES:
        raise UserError(f"regime {brief(regime)}: expected one of {', '.join(REGIMES)}")
    if not isinstance(op, str) or op not in NODE_OPS:
        raise UserError(f"op {brief(op)}: expected one of {', '.join(NODE_OPS)}")
    width = real(channels)
    if width is None or not 1 <= width <= MAX_CHANNELS:
        raise UserError(f"C={brief(channels)}: expected a number >= 1, at most {MAX_CHANNELS}")
    channels = int(width) if width == int(width) else width
    nodes, seed = check_nodes(nodes), check_seed(seed)
    if not isinstance(seed_per_stage, bool):
        raise UserError(f"seed_per_stage={brief(seed_per_stage)}: expected True or False")
    plans = {f"conv{i}": plan for i, plan in enumerate(REGIMES[regime], 1)}
    shares = {name: plan.nodes for name, plan in plans.items() if plan.nodes is not None}
    wired = list(shares)
    if generator == OWN_GRAPH:
        dags = _own_graphs(graph, wired)
        nodes = dags[wired[-1]].num_nodes
    else:
        sizes = {name: max(1, int(nodes * share)) for name, share in shares.items()}
        # A stage's own seed: no two (seed, stage) pairs share one, as stage numbers have one digit.
        seeds = {name: 10 * seed + int(name[-1]) if seed_per_stage else seed for name in wired}
        dags = {name: _sample(generator, name, sizes[name], seeds[name], theta) for name in wired}
    stages = tuple(
        StageSpec(
            name,
            max(1, math.ceil(Fraction(channels) * plan.channels - _HALF)),
            dags.get(name),
            op if name in dags else CONV3X3,
            plan.stride,
        )
        for name, plan in plans.items()
    )
    arguments = ", ".join(f"{name.upper()}={value}" for name, value in theta.items())
    seeding = "a seed per stage from seed" if seed_per_stage else "seed"
    provenance = {
        "generator": generator,
        "seed": seed,
        "seed_per_stage": seed_per_stage,
        "regime": regime,
        "nodes": nodes,
        "channels": channels,
        **theta,
        "networkx": nx.__version__,
        "description": f"{generator.upper()}({arguments}) {regime} N={nodes} {seeding} {seed}"
        + (f", nodes of {op}" if op != SEP_CONV3X3 else ""),
    }
    return NetworkSpec(stages, provenance)


def parameters_of(generator: str) -> tuple[str, ...]:
    """The names among `PARAMETERS` that a random graph model takes; none for a user's graph.

    Raises:
        UserError: no such model.
    """
    if not isinstance(generator, str) or generator not in GENERATORS:
        raise UserError(f"generator {brief(generator)}: expected one of {', '.join(GENERATORS)}")
    if generator == OWN_GRAPH:
        return ()
    arguments = inspect.signature(GRAPH_MODELS[generator]).parameters
    return tuple(name for name in arguments if name in PARAMETERS)


def _graph_parameters(generator: str, given: dict, graph) -> dict:
    """The parameters the graph model takes: all of them, and no other."""
    takes = parameters_of(generator)
    needed = (OWN_GRAPH,) if generator == OWN_GRAPH else takes
    for name, value in {**given, OWN_GRAPH: graph}.items():
        if (value is not None) != (name in needed):
            problem = "is missing" if name in needed else f"is given ({brief(value)})"
            raise UserError(
                f"generator {generator!r} takes {' and '.join(needed) or 'no parameter'}, but"
                f" {name} {problem}"
            )
    # Python's own numbers, which a checkpoint can hold; what is no number is refused by the model.
    numbers = {name: real(given[name]) for name in takes}
    return {name: given[name] if each is None else each for name, each in numbers.items()}


def _sample(generator: str, stage: str, nodes: int, seed: int, theta: dict) -> Dag:
    try:
        return GRAPH_MODELS[generator](nodes, seed=seed, **theta)
    except UserError as error:
        raise UserError(f"{stage}: {error}") from None


def _own_graphs(graph, wired: list[str]) -> dict[str, Dag]:
    """The user's graphs by the name of each random stage."""
    found = own_stages(graph)
    if isinstance(found, Dag):
        return dict.fromkeys(wired, found)
    if found.keys() != set(wired):
        raise UserError(
            f"graphs for {', '.join(map(str, found))}: expected one for each random stage:"
            f" {', '.join(wired)}"
        )
    return found
