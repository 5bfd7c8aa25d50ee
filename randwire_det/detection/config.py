"""The config keys this package adds to detectron2's."""

import detectron2.config
from detectron2.config import CfgNode

from ..config.files import flat, merge_config
from ..config.network_keys import add_memory_config, add_spec_config
from ..errors import UsageError
from ..run.trackers import add_track_config


def add_randwire_config(cfg: CfgNode) -> None:
    """Add all keys of this package, in place. `MODEL.RANDWIRE` defaults to the paper's C=109
    network, WS(4, 0.75), with seed 1.

    A key that exists already keeps its value.
    """
    _add_missing(cfg, _our_keys())


def _our_keys() -> CfgNode:
    ours = CfgNode()
    ours.MODEL = CfgNode()
    node = ours.MODEL.RANDWIRE = CfgNode()
    add_spec_config(node)
    # Output stages, from conv1 to conv5; res2 to res5 are conv2 to conv5 under a ResNet's names.
    node.OUT_FEATURES = ["conv2", "conv3", "conv4", "conv5"]
    # What an FPN puts out above its last level: "" for what the builder says; maxpool, as Faster
    # R-CNN; p6p7, from the last stage, as RetinaNet; p6p7_from_fpn, from the FPN's last level, as
    # FCOS; p6_from_fpn; or none.
    node.TOP_BLOCK = ""
    # A ReLU on every output. A stage ends in BN, and each reader in Table 1 begins with a ReLU, but
    # FPN's convolutions do not. RandWire's shipped configs set it; files from before the key have
    # none.
    node.RELU_OUTPUTS = False
    # 32, 16 or 8, the furthest that maps shrink: late stages are dilated instead, with the same
    # weights, as for DeepLab or DC5. For OP sep_conv3x3 and conv3x3.
    node.OUTPUT_STRIDE = 32
    # FrozenBN, BN, SyncBN or GN. GN takes gcd(32, channels) groups, since C need not divide by 32.
    # Stages up to MODEL.BACKBONE.FREEZE_AT are frozen whatever the value.
    node.NORM = "FrozenBN"
    add_memory_config(node)
    node.MEMORY = "lean"  # hardly slower with a frozen BN

    ours.DATASETS = CfgNode()
    # COCO-format data sets to register: rows of [name, annotation file, image folder]. Relative
    # paths are relative to the environment variable DETECTRON2_DATASETS, ./datasets by default.
    ours.DATASETS.COCO = []
    # What is checked of the images before a run: "none" (that they exist), "headers" (their sizes,
    # too) or "decode" (every pixel). "off" does not check the annotations either.
    ours.DATASETS.CHECK = "headers"
    ours.TRACK = CfgNode()
    add_track_config(ours.TRACK)
    ours.SOLVER = CfgNode()
    # Parts of each process' share of IMS_PER_BATCH that go through the model one after the other,
    # to save memory. Losses are means over a part, and BN's statistics those of a part.
    ours.SOLVER.ACCUMULATE = 1
    ours.SOLVER.AMP = CfgNode()
    # Of AMP.ENABLED: fp16, with a scaled loss, or bf16; auto is fp16 on CUDA and bf16 elsewhere.
    ours.SOLVER.AMP.DTYPE = "auto"
    # Decay of the exponential moving average of the weights per iteration, such as 0.9998; 0: none.
    ours.SOLVER.EMA_DECAY = 0.0
    ours.TEST = CfgNode()
    # Write report/report.html after the last evaluation: errors by type, curves, a gallery.
    ours.TEST.REPORT = True
    # What is best of the evaluations every EVAL_PERIOD iterations: bbox/AP, segm/AP50, ... (of
    # several test sets with the set's name before it), or validation/total_loss. That model is kept
    # as model_best.pth; "" keeps none.
    ours.TEST.BEST_METRIC = ""
    # Evaluations without a better one after which the training ends; 0: it runs to MAX_ITER.
    ours.TEST.PATIENCE = 0
    # With every evaluation measure the losses on DATASETS.TEST, as validation/total_loss and more.
    ours.TEST.LOSS = False
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
        prefix: of the required keys; "" for all.

    Raises:
        UsageError: names the first missing key.
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
    """`get_cfg` with a YAML file (a path or a shipped name) and `KEY VALUE` pairs merged into it.

    Raises:
        UsageError: as `merge_config`.
    """
    cfg = get_cfg()
    merge_config(cfg, config_file, overrides)
    return cfg
