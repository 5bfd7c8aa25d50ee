"""A network as plain data: the edge list is the architecture, everything else is provenance.

A `NetworkSpec` says which operations a trunk performs and how the data flows, without any weight
(section 3.1: "symbolic"). It is JSON-able, versioned and validated, and its digest covers exactly
what defines the function, so that one string tells whether two files are equal.
"""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property

from ..errors import LONGEST, UserError, brief
from ..printing import one_line
from ..strict import load_json
from .graphs import Dag

SPEC_VERSION = 1
MAX_CHANNELS = 10**9  # C of Table 1; what memory cannot hold is refused where it is built
CONV3X3 = "conv3x3"
SEP_CONV3X3 = "sep_conv3x3"
MAX_POOL3X3 = "max_pool3x3"
AVG_POOL3X3 = "avg_pool3x3"
# The transformation of a node (section 3.2 and "Node operations" in 4.1, Figure 6): a 3x3
# separable convolution, a 3x3 convolution, or a 3x3 pooling and a 1x1 convolution.
NODE_OPS = (SEP_CONV3X3, CONV3X3, MAX_POOL3X3, AVG_POOL3X3)


@dataclass(frozen=True)
class StageSpec:
    """One stage of Table 1: a single convolution, or a random wiring.

    Attributes:
        name: "conv1", "conv2", ...
        channels: output channels of the stage, and of every node in it.
        dag: the wiring, or None for a single convolution.
        op: the transformation of every node; "conv3x3" where `dag` is None.
        stride: of the convolutions right after the stage's input, 1 or 2.
    """

    name: str
    channels: int
    dag: Dag | None = None
    op: str = CONV3X3
    stride: int = 2

    def __post_init__(self):
        where = f"stage {brief(self.name)}"
        if not isinstance(self.name, str):
            raise UserError(f"{where}: expected a name")
        if type(self.channels) is not int or not 1 <= self.channels <= 8 * MAX_CHANNELS:
            raise UserError(
                f"{where}: channels {brief(self.channels)}, expected a whole number >= 1, at most"
                f" {8 * MAX_CHANNELS}"
            )
        if type(self.stride) is not int or self.stride not in (1, 2):
            raise UserError(f"{where}: stride {brief(self.stride)}, expected 1 or 2")
        if self.dag is not None and not isinstance(self.dag, Dag):
            raise UserError(f"{where}: wiring {brief(self.dag)}, expected a Dag, or None")
        ops = (CONV3X3,) if self.dag is None else NODE_OPS
        if not isinstance(self.op, str) or self.op not in ops:
            raise UserError(f"{where}: op {brief(self.op)}, expected one of {', '.join(ops)}")

    def to_dict(self) -> dict:
        plain = {
            "name": self.name,
            "channels": self.channels,
            "op": self.op,
            "stride": self.stride,
        }
        if self.dag is not None:
            plain["num_nodes"] = self.dag.num_nodes
            plain["edges"] = [list(edge) for edge in self.dag.edges]
        return plain

    @classmethod
    def from_dict(cls, plain: dict) -> "StageSpec":
        wiring = {"num_nodes", "edges"}
        if not isinstance(plain, dict) or not wiring & plain.keys():
            wiring = set()
        _expect_keys(plain, {"name", "channels", "op", "stride"} | wiring, "a stage of the spec")
        dag = None
        if wiring:
            edges = plain["edges"]
            if not isinstance(edges, list) or not all(isinstance(edge, list) for edge in edges):
                raise UserError(
                    f"stage {brief(plain['name'])}: edges must be a list of [source, target]"
                )
            dag = Dag(plain["num_nodes"], tuple(map(tuple, edges)))
        return cls(plain["name"], plain["channels"], dag, plain["op"], plain["stride"])


@dataclass(frozen=True)
class NetworkSpec:
    """A RandWire trunk: stages conv1, conv2, ... in order, each halving the resolution.

    Attributes:
        stages: the stages, conv1 first.
        provenance: where the wiring came from (generator, seed, versions). Not in the digest, and
            not compared: two specs are equal when they define the same function.
    """

    stages: tuple[StageSpec, ...]
    provenance: dict = field(default_factory=dict, compare=False)

    def __post_init__(self):
        is_list = isinstance(self.stages, tuple | list)
        if not is_list or not all(isinstance(each, StageSpec) for each in self.stages):
            raise UserError(f"stages {brief(self.stages)}: expected a tuple of StageSpec")
        names = [stage.name for stage in self.stages]
        expected = [f"conv{i}" for i in range(1, len(names) + 1)]
        if not names or names != expected:
            raise UserError(f"stages {brief(names)}: expected conv1, conv2, ... in order")
        if not isinstance(self.provenance, dict):
            raise UserError(f"provenance {brief(self.provenance)}: expected a dict")

    @property
    def stage_names(self) -> tuple[str, ...]:
        return tuple(stage.name for stage in self.stages)

    @property
    def node_ops(self) -> tuple[str, ...]:
        """The operations of the random stages' nodes, each once, in order of depth."""
        return tuple(dict.fromkeys(stage.op for stage in self.stages if stage.dag is not None))

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, over the stages alone: what defines the function."""
        stages = [stage.to_dict() for stage in self.stages]
        canonical = json.dumps(stages, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def describe(self) -> str:
        """One line for logs and errors: where the wiring came from, widths and digest."""
        source = self.provenance.get("description")
        if not isinstance(source, str):
            source = "wiring of unknown provenance"
        source = one_line(source[:LONGEST])
        widths = "-".join(str(stage.channels) for stage in self.stages)
        return f"{source}, channels {widths}, digest {self.digest[:12]}"

    def to_dict(self) -> dict:
        return {
            "version": SPEC_VERSION,
            "stages": [stage.to_dict() for stage in self.stages],
            "provenance": dict(self.provenance),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, plain: dict) -> "NetworkSpec":
        """The spec of plain data.

        Raises:
            UserError: another version, an unknown or missing key, or a value that breaks a rule.
        """
        _expect_keys(plain, {"version", "stages", "provenance"}, "a network spec")
        if type(plain["version"]) is not int or plain["version"] != SPEC_VERSION:
            raise UserError(
                f"network spec of version {brief(plain['version'])}; this randwire_det reads"
                f" version {SPEC_VERSION}"
            )
        if not isinstance(plain["stages"], list) or not isinstance(plain["provenance"], dict):
            raise UserError("a network spec holds a list of stages and an object of provenance")
        stages = tuple(StageSpec.from_dict(stage) for stage in plain["stages"])
        return cls(stages, plain["provenance"])

    @classmethod
    def from_json(cls, text: str | bytes) -> "NetworkSpec":
        try:
            plain = load_json(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"a network spec must be JSON: {one_line(str(error))[:LONGEST]}"
            ) from None
        return cls.from_dict(plain)


def _shown(key) -> str:
    return one_line(key[:LONGEST]) if isinstance(key, str) else brief(key)


def _expect_keys(plain, keys, what):
    if not isinstance(plain, dict):
        raise UserError(f"{what} must be an object, got {type(plain).__name__}")
    for problem, names in (("unknown", plain.keys() - keys), ("missing", keys - plain.keys())):
        if names:
            listed = ", ".join(sorted(_shown(each) for each in names))
            raise UserError(f"{what}: {problem} key {listed}; expected {', '.join(sorted(keys))}")
