"""The config keys this package adds to detectron2's."""

import detectron2.config
from detectron2.config import CfgNode

from ..config.files import flat, merge_config
from ..config.network_keys import add_memory_config, add_spec_config
from ..errors import UsageError


def add_randwire_config(cfg: CfgNode) -> None:
    """Add all keys of this package, in place: `MODEL.RANDWIRE` with the paper's C=109, WS(4, 0.75),
    seed 1, as defaults, and those of `RandWireTrainer` and tools/train_net.py.

    A key of the same name that a project has added before keeps its value.
    """
    _add_missing(cfg, _our_keys())


def _our_keys() -> CfgNode:
    ours = CfgNode()
    ours.MODEL = CfgNode()
    node = ours.MODEL.RANDWIRE = CfgNode()
    add_spec_config(node)
    # Stages handed to the neck, from conv1 to conv5.
    node.OUT_FEATURES = ["conv2", "conv3", "conv4", "conv5"]
    # FrozenBN, BN, SyncBN or GN. GN takes gcd(32, channels) groups, since C need not divide by 32.
    # Stages up to MODEL.BACKBONE.FREEZE_AT are frozen whatever stands here.
    node.NORM = "FrozenBN"
    add_memory_config(node)
    node.MEMORY = "lean"  # under a frozen BN it takes hardly more time

    ours.DATASETS = CfgNode()
    # Data sets of one's own that need no code: rows of [name, annotation file, image folder].
    # Relative paths start at the folder that the environment variable DETECTRON2_DATASETS names,
    # ./datasets by default, as in detectron2.
    ours.DATASETS.COCO = []
    # How much of the images is looked at before a run: "none" (that they are there), "headers"
    # (their sizes, too), "decode" (every pixel); "off" leaves out the annotations as well.
    ours.DATASETS.CHECK = "headers"
    ours.SOLVER = CfgNode()
    # Share of the averaged weights that stays in an iteration, 0.9998 say; 0 keeps no average.
    ours.SOLVER.EMA_DECAY = 0.0
    ours.TEST = CfgNode()
    # Write report/report.html after the last evaluation: errors by kind, curves, a gallery.
    ours.TEST.REPORT = True
    return ours


def _add_missing(cfg: CfgNode, ours: CfgNode) -> None:
    for key, value in ours.items():
        if isinstance(value, CfgNode) and key in cfg:
            _add_missing(cfg[key], value)
        elif key not in cfg:
            cfg[key] = value


def require_randwire_keys(cfg: CfgNode, prefix: str = "") -> None:
    """Refuse a config without the keys of `add_randwire_config`.

    Args:
        prefix: of the keys that are needed; "" for all.

    Raises:
        UsageError: names the first key that is missing.
    """
    present = flat(cfg)
    for key in flat(_our_keys()):
        if key.startswith(prefix) and key not in present:
            raise UsageError(
                f"this config has no {key}: call randwire_det.detection.add_randwire_config(cfg)"
                " right after detectron2.config.get_cfg()"
            )


def get_cfg() -> CfgNode:
    """detectron2's config with all keys of this package."""
    cfg = detectron2.config.get_cfg()
    add_randwire_config(cfg)
    return cfg


def read_config(config_file: str, overrides: list[str]) -> CfgNode:
    """`get_cfg` with a YAML file, shipped or one's own, and `KEY VALUE` pairs merged into it.

    Raises:
        UsageError: as `config_files.merge_config`.
    """
    cfg = get_cfg()
    merge_config(cfg, config_file, overrides)
    return cfg
