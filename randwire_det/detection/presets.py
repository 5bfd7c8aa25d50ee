"""Builders of the paper's networks by name alone, for projects whose config has no key of ours.

`MODEL.BACKBONE.NAME: build_randwire_c109_fpn_backbone` is enough. What the config has of
MODEL.RANDWIRE, such as SEED or NORM, counts; where it has none, outputs have a ReLU, as in the
shipped configs.
"""

from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from ..errors import UsageError
from .backbone import (
    build_randwire_backbone,
    build_randwire_fpn_backbone,
    build_retinanet_randwire_fpn_backbone,
)
from .config import add_randwire_config

NETWORKS = {  # WS(4, 0.75) of Tables 2 and 3
    "c78": {"REGIME": "small", "CHANNELS": 78},
    "c109": {"REGIME": "regular", "CHANNELS": 109},
    "c154": {"REGIME": "regular", "CHANNELS": 154},
}
BUILDERS = (
    build_randwire_backbone,
    build_randwire_fpn_backbone,
    build_retinanet_randwire_fpn_backbone,
)
PRESETS = {}  # name of a preset's builder -> (name of the plain builder, keys of MODEL.RANDWIRE)


def refuse_presets(cfg: CfgNode) -> None:
    """Refuse a preset where the keys of MODEL.RANDWIRE must say which network it is.

    Raises:
        UsageError: names the plain builder and the keys.
    """
    name = cfg.MODEL.BACKBONE.NAME
    if name in PRESETS:
        plain, keys = PRESETS[name]
        settings = " ".join(f"MODEL.RANDWIRE.{key} {value}" for key, value in keys.items())
        raise UsageError(
            f"MODEL.BACKBONE.NAME {name} is for other projects; expected here"
            f" MODEL.BACKBONE.NAME {plain} {settings}"
        )


def _register(build: Callable, network: str, keys: dict) -> None:
    def preset(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
        own = cfg.clone()
        own.defrost()
        bare = "RANDWIRE" not in own.MODEL
        add_randwire_config(own)
        own.MODEL.RANDWIRE.RELU_OUTPUTS |= bare
        own.MODEL.RANDWIRE.update(keys)
        return build(own, input_shape)

    preset.__name__ = build.__name__.replace("randwire_", f"randwire_{network}_")
    preset.__doc__ = f"`{build.__name__}` of the paper's {network.upper()} network."
    PRESETS[preset.__name__] = build.__name__, keys
    BACKBONE_REGISTRY.register(preset)


for _network, _keys in NETWORKS.items():
    for _build in BUILDERS:
        _register(_build, _network, _keys)
