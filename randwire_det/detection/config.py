"""The config keys this package adds to detectron2's."""

import detectron2.config
from detectron2.config import CfgNode

from ..config_files import merge_config
from ..spec_config import add_memory_config, add_spec_config


def add_randwire_config(cfg: CfgNode) -> None:
    """Add `MODEL.RANDWIRE` with the paper's C=109, WS(4, 0.75), seed 1, as defaults."""
    node = cfg.MODEL.RANDWIRE = CfgNode()
    add_spec_config(node)
    # Stages handed to the neck, from conv1 to conv5.
    node.OUT_FEATURES = ["conv2", "conv3", "conv4", "conv5"]
    # FrozenBN, BN, SyncBN or GN. GN takes gcd(32, channels) groups, since C need not divide by 32.
    # Stages up to MODEL.BACKBONE.FREEZE_AT are frozen whatever stands here.
    node.NORM = "FrozenBN"
    add_memory_config(node)
    node.MEMORY = "lean"  # under a frozen BN it takes hardly more time


def get_cfg() -> CfgNode:
    """detectron2's config with all keys that tools/train_net.py reads."""
    cfg = detectron2.config.get_cfg()
    add_randwire_config(cfg)
    # Data sets of one's own that need no code: rows of [name, annotation file, image folder].
    # Relative paths start at the folder that the environment variable DETECTRON2_DATASETS names,
    # ./datasets by default, as in detectron2.
    cfg.DATASETS.COCO = []
    # How much of the images is looked at before a run: "none" (that they are there), "headers"
    # (their sizes, too), "decode" (every pixel); "off" leaves out the annotations as well.
    cfg.DATASETS.CHECK = "headers"
    # Share of the averaged weights that stays in an iteration, 0.9998 say; 0 keeps no average.
    cfg.SOLVER.EMA_DECAY = 0.0
    # Write report/report.html after the last evaluation: errors by kind, curves, a gallery.
    cfg.TEST.REPORT = True
    return cfg


def read_config(config_file: str, overrides: list[str]) -> CfgNode:
    """`get_cfg` with a YAML file, shipped or one's own, and `KEY VALUE` pairs merged into it.

    Raises:
        UsageError: as `config_files.merge_config`.
    """
    cfg = get_cfg()
    merge_config(cfg, config_file, overrides)
    return cfg
