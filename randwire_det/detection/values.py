"""Checks of config values for which detectron2 would raise an obscure error, often mid-run."""

import math
import traceback
from collections.abc import Callable

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data.detection_utils import build_augmentation
from detectron2.solver import build_lr_scheduler, build_optimizer

from ..coco.lint import IMAGE_CHECKS
from ..config.files import flat
from ..config.values import check_choices, check_ranges
from ..errors import UsageError, UserError
from ..run.parallel import World

WIDTH = (1, 2**16)  # of a layer; `check_model` limits the size of the whole model
LAYERS = (0, 256)
SHARE = (0, 1)
PIXELS = (1, 2**15)
# Key, or its ending: lowest and highest value.
RANGES = {
    "SOLVER.MAX_ITER": (1, math.inf),
    "SOLVER.IMS_PER_BATCH": (1, 2**16),
    "SOLVER.CHECKPOINT_PERIOD": (1, math.inf),
    "SOLVER.REFERENCE_WORLD_SIZE": (0, 2**16),
    "SOLVER.WARMUP_ITERS": (0, math.inf),
    "SOLVER.WARMUP_FACTOR": (0, math.inf),
    "SOLVER.GAMMA": (0, math.inf),
    "SOLVER.ACCUMULATE": (1, math.inf),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": (0, math.inf),
    "SEED": (-math.inf, 2**31),  # numpy's seeds have 32 bits
    "DATALOADER.NUM_WORKERS": (0, 1024),
    "DATALOADER.REPEAT_THRESHOLD": (0, 1),
    "INPUT.MIN_SIZE_TEST": (0, PIXELS[1]),  # 0: do not resize
    "INPUT.MAX_SIZE_TRAIN": PIXELS,
    "INPUT.MAX_SIZE_TEST": PIXELS,
    "TEST.PATIENCE": (0, math.inf),
    "TEST.DETECTIONS_PER_IMAGE": (-1, math.inf),  # -1: all
    ".OUT_CHANNELS": WIDTH,
    ".STEM_OUT_CHANNELS": WIDTH,
    ".RES2_OUT_CHANNELS": WIDTH,
    ".WIDTH_PER_GROUP": WIDTH,
    ".NUM_GROUPS": WIDTH,
    ".FC_DIM": WIDTH,
    ".CONV_DIM": WIDTH,
    ".CONVS_DIM": WIDTH,
    ".NUM_CLASSES": WIDTH,
    ".NUM_KEYPOINTS": WIDTH,
    ".NUM_CONV": LAYERS,
    ".NUM_CONVS": LAYERS,
    ".NUM_FC": LAYERS,
    ".POOLER_RESOLUTION": (1, 512),
    ".POOLER_SAMPLING_RATIO": (0, 512),
    ".BATCH_SIZE_PER_IMAGE": (1, math.inf),
    ".OFFSET": (0, 1),
    ".POSITIVE_FRACTION": SHARE,
    ".NMS_THRESH": SHARE,
    ".NMS_THRESH_TEST": SHARE,
    ".SCORE_THRESH_TEST": (-1, 1),
    ".PRE_NMS_TOPK_TRAIN": (1, math.inf),
    ".PRE_NMS_TOPK_TEST": (1, math.inf),
    ".POST_NMS_TOPK_TRAIN": (1, math.inf),
    ".POST_NMS_TOPK_TEST": (1, math.inf),
    ".LOSS_WEIGHT": (0, math.inf),
    ".BBOX_REG_LOSS_WEIGHT": (0, math.inf),
    ".SMOOTH_L1_BETA": (0, math.inf),
    ".SMOOTH_L1_LOSS_BETA": (0, math.inf),
}
BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")
CHOICES = {
    "DATASETS.CHECK": ("off", *IMAGE_CHECKS),
    "INPUT.FORMAT": ("RGB", "BGR"),
    "DATALOADER.SAMPLER_TRAIN": (
        "TrainingSampler",
        "RepeatFactorTrainingSampler",
        "RandomSubsetTrainingSampler",
    ),
    "INPUT.CROP.TYPE": ("relative_range", "relative", "absolute", "absolute_range"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "MODEL.FPN.FUSE_TYPE": ("sum", "avg"),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "SOLVER.AMP.DTYPE": ("auto", "fp16", "bf16"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
}
INFINITE = ("SOLVER.CLIP_GRADIENTS.NORM_TYPE",)  # the maximum norm
SCHEDULE = ("LR_SCHEDULER_NAME", "STEPS", "MAX_ITER", "WARMUP_ITERS", "WARMUP_METHOD")
OPTIMIZER = ("MOMENTUM", "NESTEROV", "WEIGHT_DECAY", "WEIGHT_DECAY_NORM", "WEIGHT_DECAY_BIAS")
OPTIMIZER += ("BIAS_LR_FACTOR",)


def value_of(cfg: CfgNode, key: str):
    """The value of a dotted key."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def check_values(cfg: CfgNode) -> None:
    """Check single values.

    Raises:
        UsageError: names the key, its value and what was expected.
    """
    values = flat(cfg)
    check_ranges(values, RANGES, INFINITE)
    check_choices(values, CHOICES)
    if not cfg.SOLVER.BASE_LR > 0:
        raise UsageError(f"SOLVER.BASE_LR {cfg.SOLVER.BASE_LR}: expected a number above 0")
    repeats = cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler"
    if repeats and not cfg.DATALOADER.REPEAT_THRESHOLD:
        raise UsageError(
            "DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler repeats nothing with"
            " DATALOADER.REPEAT_THRESHOLD 0: expected the share of images below which a class is"
            " rare, such as 0.1"
        )
    if not 0 <= cfg.SOLVER.EMA_DECAY < 1:
        raise UsageError(
            f"SOLVER.EMA_DECAY {cfg.SOLVER.EMA_DECAY}: expected a number from 0 to below 1"
        )
    if not cfg.OUTPUT_DIR:
        raise UsageError("OUTPUT_DIR '': expected a folder for what the run writes")
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    low, high = PIXELS
    if not sizes or not all(isinstance(each, int) and low <= each <= high for each in sizes):
        raise UsageError(
            f"INPUT.MIN_SIZE_TRAIN {sizes}: expected sizes in pixels up to {high}, such as (800,)"
        )
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(cfg.MODEL[key]) != 3:
            raise UsageError(f"MODEL.{key} {cfg.MODEL[key]}: expected three numbers, one a channel")
    if not _above_zero(cfg.MODEL.PIXEL_STD):
        raise UsageError(f"MODEL.PIXEL_STD {cfg.MODEL.PIXEL_STD}: expected numbers above 0")
    if len(cfg.INPUT.CROP.SIZE) != 2 or not _above_zero(cfg.INPUT.CROP.SIZE):
        raise UsageError(f"INPUT.CROP.SIZE {cfg.INPUT.CROP.SIZE}: expected two numbers above 0")
    _check_rows(cfg)
    _check_solver(cfg)
    refused_as("INPUT", lambda: build_augmentation(cfg, True))


def _check_rows(cfg: CfgNode) -> None:
    """Check lists that detectron2 reads only in mid-run."""
    for key, value in flat(cfg).items():
        if key.endswith(".BBOX_REG_WEIGHTS"):
            groups = value if value and isinstance(value[0], list | tuple) else [value]
            if not all(len(group) in (4, 5) and _above_zero(group) for group in groups):
                raise UsageError(f"{key} {value}: expected four numbers above 0, of x, y, w and h")
    widths = cfg.MODEL.RPN.CONV_DIMS
    if not all(type(width) is int and (width == -1 or 0 < width <= WIDTH[1]) for width in widths):
        raise UsageError(
            f"MODEL.RPN.CONV_DIMS {widths}: expected numbers of channels up to {WIDTH[1]}, or -1"
        )
    rows = cfg.TEST.EXPECTED_RESULTS
    if not all(isinstance(row, list | tuple) and len(row) == 4 for row in rows):
        raise UsageError(
            f"TEST.EXPECTED_RESULTS {rows}: expected rows such as ['bbox', 'AP', 38.5, 0.2]"
        )
    for split in ("TRAIN", "TEST"):
        files, names = cfg.DATASETS[f"PROPOSAL_FILES_{split}"], cfg.DATASETS[split]
        if cfg.MODEL.LOAD_PROPOSALS and len(files) != len(names):
            raise UsageError(
                f"DATASETS.PROPOSAL_FILES_{split} {files}: MODEL.LOAD_PROPOSALS takes one for each"
                f" of DATASETS.{split} {names}"
            )


def _above_zero(values) -> bool:
    return all(isinstance(value, int | float) and value > 0 for value in values)


def _check_solver(cfg: CfgNode) -> None:
    def named(keys):
        return ", ".join(f"{key} {cfg.SOLVER[key]}" for key in keys)

    for key in ("WEIGHT_DECAY_NORM", "WEIGHT_DECAY_BIAS"):
        value = cfg.SOLVER[key]
        if value is not None and not (isinstance(value, int | float) and value >= 0):
            raise UsageError(f"SOLVER.{key} {value!r}: expected None or 0 or more")
    try:
        build_optimizer(cfg, torch.nn.Linear(1, 1))
    except (ValueError, TypeError) as error:
        raise UsageError(f"SOLVER's optimizer ({named(OPTIMIZER)}): {error}") from None
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    try:
        build_lr_scheduler(cfg, optimizer)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"SOLVER's schedule ({named(SCHEDULE)}): {error}; expected a scheduler of detectron2,"
            " and ascending STEPS below MAX_ITER"
        ) from None


def refused_as(section: str, build: Callable[[], object]) -> object | None:
    """Call `build`, which builds a section of the config, and convert its errors to UsageError.

    Returns:
        None if it fails in a way that says nothing about the values: modules from elsewhere may
        not support the meta device.

    Raises:
        UsageError: gives detectron2's reason, if any, and the line that failed.
    """
    try:
        return build()
    except UserError:
        raise
    except (AssertionError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        if "meta" in str(error):
            return None
        line = traceback.extract_tb(error.__traceback__)[-1].line
        reason = " ".join(f"{error} ({line})".split())
        raise UsageError(f"detectron2 cannot build {section}.* of this config: {reason}") from None
    except Exception:
        return None


def check_same_config(cfg: CfgNode, world: World) -> None:
    """Refuse processes with different configs, as when machines were started differently.

    Raises:
        UsageError: names the keys that differ.
    """
    texts = world.gather([cfg.dump()])
    for text in texts[1:]:
        first, other = (flat(yaml.safe_load(each)) for each in (texts[0], text))
        keys = sorted(key for key in first | other if first.get(key) != other.get(key))
        if keys:
            listed = ", ".join(f"{key} ({first.get(key)} and {other.get(key)})" for key in keys[:5])
            raise UsageError(f"the processes' configs differ in {listed}; start all with the same")
