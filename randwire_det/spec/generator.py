"""The stochastic network generator g(theta, s) of section 3.4: parameters and a seed to a spec.

The regimes are Table 1 of the paper. Every stage takes the same seed: with it the parameter and
FLOP counts of Tables 2 and 3 come out (README, "our reading"). So conv3, conv4 and conv5 share one
graph, and conv2 of the regular regime is the N/2-node graph of that seed.
"""

import inspect

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
    whole,
)
from .spec import MAX_CHANNELS, SEP_CONV3X3, NetworkSpec, StageSpec

GRAPH_MODELS = {"er": erdos_renyi, "ba": barabasi_albert, "ws": watts_strogatz}
REGIMES = ("small", "regular")


def generate(
    generator: str,
    *,
    seed: int,
    regime: str,
    channels: int,
    nodes: int = 32,
    k: int | None = None,
    p: float | None = None,
    m: int | None = None,
    seed_per_stage: bool = False,
) -> NetworkSpec:
    """Sample one network, for example `generate("ws", seed=1, regime="regular", channels=109,
    k=4, p=0.75)`.

    Args:
        generator: "er" (takes p), "ba" (takes m) or "ws" (takes k and p).
        seed: s, a whole number >= 0; the paper uses 1 to 5.
        regime: "small" or "regular", the columns of Table 1.
        channels: C of Table 1; the paper's are 78 (small), 109 and 154 (regular).
        nodes: N of Table 1; the paper's is 32.
        k, p, m: K, P, M of the random graph model.
        seed_per_stage: give every stage a graph of its own instead of the same seed's.

    Raises:
        UserError: an unknown name, a missing or superfluous parameter, or a bad value.
    """
    theta = _graph_parameters(generator, {"k": k, "p": p, "m": m})
    if not isinstance(regime, str) or regime not in REGIMES:
        raise UserError(f"regime {brief(regime)}: expected one of {', '.join(REGIMES)}")
    given, channels = channels, whole(channels)
    if channels is None or not 1 <= channels <= MAX_CHANNELS:
        raise UserError(
            f"C={brief(given)}: expected a whole number of channels >= 1, at most {MAX_CHANNELS}"
        )
    nodes, seed = check_nodes(nodes), check_seed(seed)
    if not isinstance(seed_per_stage, bool):
        raise UserError(f"seed_per_stage={brief(seed_per_stage)}: expected True or False")

    def wired(name: str, width: int, num_nodes: int) -> StageSpec:
        # A stage's own seed: no two (seed, stage) pairs share one, as stage numbers have one digit.
        stage_seed = 10 * seed + int(name[-1]) if seed_per_stage else seed
        try:
            dag: Dag = GRAPH_MODELS[generator](num_nodes, seed=stage_seed, **theta)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        return StageSpec(name, width, dag, SEP_CONV3X3)

    conv1 = StageSpec("conv1", max(1, channels // 2))
    if regime == "small":
        stages = (
            conv1,
            StageSpec("conv2", channels),
            wired("conv3", channels, nodes),
            wired("conv4", 2 * channels, nodes),
            wired("conv5", 4 * channels, nodes),
        )
    else:
        stages = (
            conv1,
            wired("conv2", channels, max(1, nodes // 2)),
            wired("conv3", 2 * channels, nodes),
            wired("conv4", 4 * channels, nodes),
            wired("conv5", 8 * channels, nodes),
        )
    arguments = ", ".join(f"{name.upper()}={value}" for name, value in theta.items())
    seeds = "a seed per stage from seed" if seed_per_stage else "seed"
    provenance = {
        "generator": generator,
        "seed": seed,
        "seed_per_stage": seed_per_stage,
        "regime": regime,
        "nodes": nodes,
        "channels": channels,
        **theta,
        "networkx": nx.__version__,
        "description": f"{generator.upper()}({arguments}) {regime} N={nodes} {seeds} {seed}",
    }
    return NetworkSpec(stages, provenance)


def parameters_of(generator: str) -> tuple[str, ...]:
    """The names among k, p, m that a random graph model takes.

    Raises:
        UserError: no such model.
    """
    if not isinstance(generator, str) or generator not in GRAPH_MODELS:
        raise UserError(f"generator {brief(generator)}: expected one of {', '.join(GRAPH_MODELS)}")
    arguments = inspect.signature(GRAPH_MODELS[generator]).parameters
    return tuple(name for name in arguments if name not in ("n", "seed"))


def _graph_parameters(generator: str, given: dict) -> dict:
    """The parameters the graph model takes: all of them, and no other."""
    takes = parameters_of(generator)
    for name, value in given.items():
        if (value is not None) != (name in takes):
            problem = "is missing" if name in takes else f"is given ({brief(value)})"
            raise UserError(
                f"generator {generator!r} takes {' and '.join(takes)}, but {name} {problem}"
            )
    # Python's own numbers, which a checkpoint can hold; what is no number is refused by the model.
    numbers = {name: real(given[name]) for name in takes}
    return {name: given[name] if each is None else each for name, each in numbers.items()}
