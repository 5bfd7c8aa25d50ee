"""The network as plain data: graphs, specs, their counts and pictures. Imports no torch."""

from .generator import generate
from .graphs import Dag
from .spec import CONV3X3, NODE_OPS, SEP_CONV3X3, NetworkSpec, StageSpec

__all__ = ["CONV3X3", "NODE_OPS", "SEP_CONV3X3", "Dag", "NetworkSpec", "StageSpec", "generate"]
