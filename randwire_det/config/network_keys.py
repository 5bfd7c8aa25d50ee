"""The config keys that choose a network, the same for pretraining and detection."""

import os
from functools import cache

from fvcore.common.config import CfgNode

from ..errors import UsageError, UserError
from ..run.checkpoint import load_checkpoint
from ..run.memory import require_memory
from ..spec.complexity import complexity
from ..spec.generator import (
    GRAPH_MODELS,
    OWN_GRAPH,
    PARAMETERS,
    PROVENANCE,
    generate,
    parameters_of,
)
from ..spec.spec import SEP_CONV3X3, NetworkSpec
from ..strict import load_yaml, read_regular
from .files import flat

SPEC_ITSELF = "json:"  # yacs would read bare JSON as a dict


def add_spec_config(node: CfgNode) -> None:
    """Add the keys of a network, with the defaults of the paper's C=109, to `node`."""
    # er (takes P), ba (M), ws (K, P), ring (K), ws_flex (DEGREE, P), nago (K, P, MID_NODES, MID_P,
    # BOTTOM_NODES, BOTTOM_K, BOTTOM_P), chain (K), resnet, densenet, or graph (GRAPH).
    node.GENERATOR = "ws"
    node.REGIME = "regular"  # small or regular, the columns of Table 1; cifar for 32 x 32 pictures
    node.CHANNELS = 109  # C; a fraction is allowed, to match a complexity
    node.NODES = 32  # N
    # Of a node: sep_conv3x3, conv3x3, max_pool3x3 or avg_pool3x3 (Figure 6).
    node.OP = SEP_CONV3X3
    node.K = 4
    node.P = 0.75
    node.M = 5
    node.DEGREE = 4.0  # average degree
    node.MID_NODES = 2
    node.MID_P = 0.7
    node.BOTTOM_NODES = 4
    node.BOTTOM_K = 2
    node.BOTTOM_P = 0.5
    node.GRAPH = ""  # a JSON file with a graph of your own; docs/experiments.md has its format
    node.SEED = 1
    node.SEED_PER_STAGE = False  # give every stage a graph of its own
    # The network of a spec's JSON file or of a checkpoint, instead of the keys above. Or the spec
    # itself: SPEC_ITSELF followed by its JSON.
    node.SPEC = ""


def add_memory_config(node: CfgNode) -> None:
    """Add the memory mode of a training step, which does not affect the network."""
    # standard; or lean, which saves less than half as many activations and recomputes the rest.
    node.MEMORY = "standard"


def stored_values(text: str) -> dict:
    """The pretraining config in a checkpoint, as {"A.B": value}.

    Older files have the keys of MODEL.RANDWIRE directly under MODEL; they are renamed.

    Raises:
        UserError or AttributeError: `text` is not YAML of KEY: VALUE lines.
    """
    node = CfgNode()
    add_spec_config(node)
    add_memory_config(node)
    renamed = {f"MODEL.{key}": f"MODEL.RANDWIRE.{key}" for key in node}
    return {renamed.get(key, key): value for key, value in flat(load_yaml(text)).items()}


def spec_from_config(node: CfgNode) -> NetworkSpec:
    """The network that the keys of `add_spec_config` choose.

    Raises:
        UsageError: a bad value, or a network that this machine's memory cannot hold.
        UserError: a SPEC file that cannot be read.
    """
    if node.SPEC.startswith(SPEC_ITSELF):
        spec, named = NetworkSpec.from_json(node.SPEC.removeprefix(SPEC_ITSELF)), "SPEC"
    elif node.SPEC:
        spec, named = read_spec(node.SPEC), f"SPEC {node.SPEC}"
    else:
        spec, named = _sampled(node), f"CHANNELS {node.CHANNELS} and NODES {node.NODES}"
    parameters = complexity(spec, num_classes=None).params
    require_memory(parameters, f"the network of the config ({named})")
    return spec


def _sampled(node: CfgNode) -> NetworkSpec:
    try:
        return generate(
            node.GENERATOR,
            seed=node.SEED,
            regime=node.REGIME,
            channels=node.CHANNELS,
            nodes=node.NODES,
            op=node.OP,
            graph=node.GRAPH if node.GENERATOR == OWN_GRAPH else None,
            seed_per_stage=node.SEED_PER_STAGE,
            **{name: getattr(node, name.upper()) for name in parameters_of(node.GENERATOR)},
        )
    except UserError as error:
        own = (OWN_GRAPH,) if node.GENERATOR == OWN_GRAPH else PARAMETERS
        if node.GENERATOR in GRAPH_MODELS:
            own = parameters_of(node.GENERATOR)
        keys = ("generator", "regime", "channels", "nodes", "op", *own, "seed")
        chosen = ", ".join(f"{key.upper()} {node[key.upper()]}" for key in keys)
        raise UsageError(f"the network of the config ({chosen}): {error}") from None


def read_spec(path: str) -> NetworkSpec:
    """The spec in a JSON file or in a checkpoint. An unchanged checkpoint is read once per process.

    Raises:
        UserError: the file is missing, is neither, or holds another kind of network.
    """
    if not path.endswith(".json"):
        status = os.stat(path) if os.path.isfile(path) else None
        return _spec_in_checkpoint(path, status and (status.st_ino, status.st_mtime_ns))
    try:
        return NetworkSpec.from_json(read_regular(path))
    except OSError as error:
        raise UsageError(f"spec {path}: {error.strerror}") from None
    except UserError as error:
        raise UserError(f"spec {path}: {error}") from None


@cache
def _spec_in_checkpoint(path: str, version: tuple[int, int] | None) -> NetworkSpec:
    """Cached, because a command builds the network of its config several times.

    Args:
        version: inode and modification time, so that a file that was replaced is read again.
    """
    spec = load_checkpoint(path).spec
    if spec is None:
        raise UserError(f"spec {path}: this checkpoint holds no RandWire")
    return spec


def check_same_spec(theirs: NetworkSpec, ours: NetworkSpec, path: str) -> None:
    """Refuse weights of another network, naming both networks and the keys to change.

    Args:
        theirs: the spec in the checkpoint at `path`.
        ours: the spec of the network that the config builds.

    Raises:
        UserError: the specs differ.
    """
    if theirs == ours:
        return
    changes = [
        f"MODEL.RANDWIRE.{key.upper()} {theirs.provenance[key]}"
        for key in PROVENANCE
        if key in theirs.provenance and theirs.provenance[key] != ours.provenance.get(key)
    ]
    if len(theirs.node_ops) == 1 and theirs.node_ops != ours.node_ops:
        changes.append(f"MODEL.RANDWIRE.OP {theirs.node_ops[0]}")
    # The same keys may sample another graph in another networkx; the file itself never does.
    advice = " ".join(changes) or f"MODEL.RANDWIRE.SPEC {path}"
    if theirs.provenance.get("generator") == OWN_GRAPH:  # whose file is not in the provenance
        advice = f"MODEL.RANDWIRE.SPEC {path}"
    raise UserError(
        f"{path} holds weights of another network: {theirs.describe()}; the config builds"
        f" {ours.describe()}. To use these weights set {advice}"
    )
