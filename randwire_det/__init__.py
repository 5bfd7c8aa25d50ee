"""Randomly wired neural networks (Xie et al. 2019) as a detectron2 backbone.

This face is torch-free: graphs, specs and their complexity. The network is in
`randwire_det.network`, the detectron2 side in `randwire_det.detection`.
"""

from .errors import UsageError, UserError
from .spec.generator import generate
from .spec.spec import NetworkSpec

__all__ = ["NetworkSpec", "UsageError", "UserError", "generate"]
__version__ = "0.1.0"
