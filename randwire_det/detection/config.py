"""The config keys this package adds to detectron2's."""

from detectron2.config import CfgNode

from ..spec_config import add_spec_config


def add_randwire_config(cfg: CfgNode) -> None:
    """Add `MODEL.RANDWIRE` with the paper's C=109, WS(4, 0.75), seed 1, as defaults."""
    node = cfg.MODEL.RANDWIRE = CfgNode()
    add_spec_config(node)
    # Stages handed to the neck, from conv1 to conv5.
    node.OUT_FEATURES = ["conv2", "conv3", "conv4", "conv5"]
    # FrozenBN, BN, SyncBN or GN. GN takes gcd(32, channels) groups, since C need not divide by 32.
    # Stages up to MODEL.BACKBONE.FREEZE_AT are frozen whatever stands here.
    node.NORM = "FrozenBN"
