"""The detectron2 side: importing it registers the backbones, `add_randwire_config` adds keys."""

from . import presets
from .backbone import (
    RandWireBackbone,
    build_randwire_backbone,
    build_randwire_fpn_backbone,
    build_retinanet_randwire_fpn_backbone,
)
from .checkpointer import RandWireCheckpointer
from .config import add_randwire_config
from .optimizer import build_optimizer

__all__ = [
    "RandWireBackbone",
    "RandWireCheckpointer",
    "add_randwire_config",
    "build_optimizer",
    "build_randwire_backbone",
    "build_randwire_fpn_backbone",
    "build_retinanet_randwire_fpn_backbone",
    "presets",
]
