"""What a config is called in the paper's terms, and whether Table 5 has a row for it."""

from detectron2.config import CfgNode

from ..config.network_keys import spec_from_config
from ..tables.names import randwire_name
from ..tables.table5 import TABLE5
from .checks import builds_randwire

RESNET_BUILDERS = (
    *("build_resnet_backbone", "build_resnet_fpn_backbone"),
    "build_retinanet_resnet_fpn_backbone",
)
PAPERS_IMAGES = 90_000 * 16  # of the 1x schedule


def network_name(cfg: CfgNode) -> str:
    """As in Table 5, and then whatever is not as in the paper; seeds are not part of it.

    For example "RandWire-WS, C=109", "RandWire-ER(0.2), C=78", "ResNet-50, width 0.25". A backbone
    of another kind has the name it is registered by.
    """
    if builds_randwire(cfg):
        # In the tables of the paper, WS without more is WS(4, 0.75).
        return randwire_name(spec_from_config(cfg.MODEL.RANDWIRE)).replace("WS(4, 0.75)", "WS")
    if cfg.MODEL.BACKBONE.NAME not in RESNET_BUILDERS:
        return cfg.MODEL.BACKBONE.NAME
    return _resnet_name(cfg.MODEL.RESNETS)


def _resnet_name(node: CfgNode) -> str:
    groups, width, stem = node.NUM_GROUPS, node.WIDTH_PER_GROUP, node.STEM_OUT_CHANNELS
    name = f"{'ResNeXt' if groups > 1 else 'ResNet'}-{node.DEPTH}"
    # The paper's, as torchvision's: ResNeXt 32x4d. Here the width of a group is scaled, too.
    usual = (32, 4 * stem // 64) if groups > 1 else (1, stem)
    if usual != (groups, width):
        name += f" {groups}x{width}d"
    if stem != 64:
        name += f", width {stem / 64:g}"
    expansion = 4 if node.DEPTH >= 50 else 1
    if stem * expansion != node.RES2_OUT_CHANNELS:
        name += f", RES2_OUT_CHANNELS {node.RES2_OUT_CHANNELS}"
    if any(node.DEFORM_ON_PER_STAGE):
        name += ", deformable"
    return name


def detector_name(cfg: CfgNode) -> str:
    """For example "Faster R-CNN FPN", "Cascade Mask R-CNN FPN", "Faster R-CNN C4", "RetinaNet"."""
    architecture, heads = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME
    if architecture != "GeneralizedRCNN":
        return architecture
    masks, keypoints = cfg.MODEL.MASK_ON, cfg.MODEL.KEYPOINT_ON
    found = [name for name, on in (("Mask", masks), ("Keypoint", keypoints)) if on]
    neck = ["FPN"] if "fpn" in cfg.MODEL.BACKBONE.NAME else []
    match heads:
        case "StandardROIHeads":
            parts = [*(found or ["Faster"]), "R-CNN", *neck]
        case "CascadeROIHeads":
            parts = ["Cascade", *found, "R-CNN", *neck]
        case "Res5ROIHeads":
            parts = [*(found or ["Faster"]), "R-CNN", "C4"]
        case _:
            parts = [architecture, heads, *neck]
    return " ".join(parts)


def paper_row(cfg: CfgNode, dataset: str) -> dict[str, float] | None:
    """The paper's row of the config's network, where what was done is what the paper did.

    That is Faster R-CNN with FPN, fine-tuned on coco_2017_train for as many images as the 1x
    schedule has, and tested on coco_2017_val at 800 pixels.

    Returns:
        AP by the names in `coco.metrics.METRICS`, or None.
    """
    # Scaled to another number of processes, iterations are rounded.
    images = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH
    as_in_the_paper = (
        dataset == "coco_2017_val"
        and list(cfg.DATASETS.TRAIN) == ["coco_2017_train"]
        and abs(images - PAPERS_IMAGES) < cfg.SOLVER.IMS_PER_BATCH
        and detector_name(cfg) == "Faster R-CNN FPN"
        and cfg.MODEL.WEIGHTS != ""
        and cfg.INPUT.MIN_SIZE_TEST == 800
    )
    return TABLE5.get(network_name(cfg)) if as_in_the_paper else None
