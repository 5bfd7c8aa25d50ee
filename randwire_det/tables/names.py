"""Names of networks and detectors in tables, and the settings that distinguish them.

A name is the paper's, followed by everything that differs from the paper, except seeds.
"""

from fvcore.common.config import CfgNode

from ..config.network_keys import add_spec_config
from ..spec.generator import GRAPH_MODELS, PROVENANCE, parameters_of
from ..spec.spec import SEP_CONV3X3, NetworkSpec
from .paper import TABLE5, TABLE5_IMAGES

RESNET_BUILDERS = (
    *("build_resnet_backbone", "build_resnet_fpn_backbone"),
    "build_retinanet_resnet_fpn_backbone",
)
RANDWIRE = "MODEL.RANDWIRE."  # what the config keys of a network begin with


def randwire_name(spec: NetworkSpec) -> str:
    """For example "RandWire-WS(4, 0.75), C=109"; the digest if the provenance is unknown."""
    made_by = spec.provenance
    if (generator := made_by.get("generator")) not in GRAPH_MODELS:
        return f"RandWire, wiring {spec.digest[:12]}"
    theta = ", ".join(str(made_by.get(name)) for name in parameters_of(generator))
    model = generator.upper() if generator in ("er", "ba", "ws", "nago") else generator
    parts = [f"RandWire-{model}({theta})" if theta else f"RandWire-{model}"]
    parts.append(f"C={made_by.get('channels')}")
    if made_by.get("regime") != ("small" if made_by.get("channels") == 78 else "regular"):
        parts.append(f"{made_by.get('regime')} regime")
    if made_by.get("nodes") != 32:
        parts.append(f"N={made_by.get('nodes')}")
    if made_by.get("seed_per_stage"):
        parts.append("a graph per stage")
    if spec.node_ops != (SEP_CONV3X3,):
        parts.append(f"nodes of {' and '.join(spec.node_ops)}")
    return ", ".join(parts)


def wiring_settings(spec: NetworkSpec) -> dict:
    """The generator's settings by config key, without the seed; the digest if they are unknown."""
    made_by = spec.provenance
    if made_by.get("generator") not in GRAPH_MODELS:
        return {"wiring": spec.digest[:12]}
    keys = [key for key in PROVENANCE if key in made_by and key != "seed"]
    settings = {RANDWIRE + key.upper(): made_by[key] for key in keys}
    return settings | {RANDWIRE + "OP": ", ".join(spec.node_ops)}


def spec_keys() -> list[str]:
    """The config keys that choose a network, which `wiring_settings` replaces."""
    node = CfgNode()
    add_spec_config(node)
    return [RANDWIRE + key for key in node]


def network_name(cfg: CfgNode, spec: NetworkSpec | None) -> str:
    """The network of a detectron2 config: its name in Table 5, then everything that differs.

    For example "RandWire-WS, C=109", "RandWire-ER(0.2), C=78", "ResNet-50, width 0.25". A backbone
    of another kind has the name it is registered by.

    Args:
        spec: of the RandWire that the config builds, None of another backbone.
    """
    if spec:
        # In the tables of the paper, WS without more is WS(4, 0.75).
        return randwire_name(spec).replace("WS(4, 0.75)", "WS")
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
    """The detector of a detectron2 config: "Faster R-CNN FPN", "RetinaNet", ..."""
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


def paper_row(cfg: CfgNode, network: str, dataset: str) -> dict[str, float] | None:
    """The paper's row for `network`, if the config trains and tests as the paper does.

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
        and abs(images - TABLE5_IMAGES) < cfg.SOLVER.IMS_PER_BATCH
        and detector_name(cfg) == "Faster R-CNN FPN"
        and cfg.MODEL.WEIGHTS != ""
        and cfg.INPUT.MIN_SIZE_TEST == 800
    )
    return TABLE5.get(network) if as_in_the_paper else None
