"""From a spec to torch: the trunk, the classifier around it, and a fused copy of either."""

from .classifier import RandWireClassifier
from .fusing import fuse
from .trunk import RandWire

__all__ = ["RandWire", "RandWireClassifier", "fuse"]
