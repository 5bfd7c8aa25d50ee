"""From a spec to torch: trunk, classifier, and their fused copies and CUDA graphs for inference."""

from .classifier import RandWireClassifier
from .fusing import fuse
from .graphs import graphed
from .trunk import RandWire

__all__ = ["RandWire", "RandWireClassifier", "fuse", "graphed"]
