"""All keys of the pretraining config with their defaults, the paper's where it states them."""

import argparse
import math

from fvcore.common.config import CfgNode

from randwire_det.config.files import flat, merge_config
from randwire_det.config.network_keys import add_memory_config, add_spec_config
from randwire_det.config.values import check_choices, check_ranges
from randwire_det.errors import UsageError
from randwire_det.run.trackers import add_track_config, check_trackers


def get_cfg() -> CfgNode:
    """A config with the defaults of all keys."""
    cfg = CfgNode()

    cfg.MODEL = CfgNode()
    # randwire, or one of torchvision's networks as a baseline: resnet50, resnext50_32x4d, ...,
    # resnet18_cifar for pictures of 32 x 32, or mobilenet_v2
    cfg.MODEL.NAME = "randwire"
    cfg.MODEL.WIDTH = 1.0  # of a baseline: its channels, as a multiple of torchvision's
    cfg.MODEL.RANDWIRE = CfgNode()
    add_spec_config(cfg.MODEL.RANDWIRE)
    add_memory_config(cfg.MODEL.RANDWIRE)
    cfg.MODEL.HEAD_CHANNELS = 1280  # of the 1x1 convolution in the classifier's head
    cfg.MODEL.DROPOUT = 0.0  # before fc; 0.2 in the paper's regular regime
    # Probability per mini-batch of dropping one edge into a node with several; 0.1 in the paper's
    # regular regime.
    cfg.MODEL.EDGE_DROP = 0.0
    cfg.MODEL.SYNC_BN = False  # batch statistics over all processes; needs CUDA
    cfg.MODEL.WEIGHTS = ""  # the checkpoint that --eval-only evaluates

    cfg.INPUT = CfgNode()
    cfg.INPUT.SIZE = 224  # height and width in training, pixels
    cfg.INPUT.MIN_SCALE = 0.08  # a training crop covers this share of the image's area, or more
    cfg.INPUT.FLIP = True  # mirror half of the training images
    cfg.INPUT.TRIVIAL_AUGMENT = False  # torchvision's TrivialAugmentWide, after crop and flip
    cfg.INPUT.RANDOM_ERASE = 0.0  # probability of torchvision's RandomErasing, filled with MEAN
    cfg.INPUT.TEST_RESIZE = 256  # the shorter side of a test image, before the centre crop
    cfg.INPUT.TEST_SIZE = None  # the centre crop; None means SIZE (Table 4 tests with 320)
    cfg.INPUT.MEAN = [123.675, 116.28, 103.53]  # per channel, in the order RGB, scale 0..255
    cfg.INPUT.STD = [58.395, 57.12, 57.375]

    cfg.DATA = CfgNode()
    cfg.DATA.ROOT = "datasets/imagenet"  # holds {train,val}/<class>/<image>
    cfg.DATA.NUM_WORKERS = 4  # per rank, to read images; 0 reads in the main process
    cfg.DATA.PREFETCH = 2  # batches that each worker keeps ready
    cfg.DATA.ON_BAD_IMAGE = "raise"  # or "skip": train on the next image instead, test without it
    # Where lists of the images are stored, so that a start need not list all folders again.
    cfg.DATA.INDEX_DIR = "~/.cache/randwire_det"

    cfg.SOLVER = CfgNode()
    cfg.SOLVER.EPOCHS = 100
    cfg.SOLVER.BATCH_SIZE = 256  # per iteration, over all ranks and ACCUMULATE parts
    cfg.SOLVER.ACCUMULATE = 1  # parts of each rank's share of the batch, to save memory
    cfg.SOLVER.BASE_LR = 0.1  # for 256 images; scales linearly with BATCH_SIZE, as in [11]
    cfg.SOLVER.WARMUP_EPOCHS = 5  # from WARMUP_LR, in even steps, to the scaled learning rate
    cfg.SOLVER.WARMUP_LR = 0.0  # in [11] it is BASE_LR: at 256 images there is no warm-up
    cfg.SOLVER.MOMENTUM = 0.9
    cfg.SOLVER.NESTEROV = True  # as in [11]; the paper does not say
    cfg.SOLVER.WEIGHT_DECAY = 5e-5  # not on norm layers, as in [11], nor on aggregation weights
    cfg.SOLVER.LABEL_SMOOTHING = 0.1
    # alpha of torchvision's MixUp and CutMix, 0 is off; with both, each batch takes one at random
    cfg.SOLVER.MIXUP = 0.0
    cfg.SOLVER.CUTMIX = 0.0
    # Decay per iteration; above 0 the averaged weights are evaluated, and saved as well.
    cfg.SOLVER.EMA_DECAY = 0.0
    cfg.SOLVER.AMP = "none"  # or "bf16", "fp16": autocast around forward and loss

    cfg.TEST = CfgNode()
    cfg.TEST.PERIOD = 1  # epochs between evaluations; the last epoch always ends with one

    cfg.TRACK = CfgNode()
    add_track_config(cfg.TRACK)
    cfg.SEED = 0  # of initial weights, order, augmentation and dropout; not of the wiring
    cfg.DEVICE = "cuda"  # or "cpu", which is used if there is no CUDA device
    cfg.OUTPUT_DIR = "output/pretrain"
    cfg.COMPILE = False  # torch.compile
    cfg.LOG_PERIOD = 50  # iterations
    cfg.CHECKPOINT_PERIOD = 1.0  # epochs; 0.1 is ten times an epoch
    cfg.CHECKPOINTS_KEPT = 2  # the newest ones, besides model_best.pth and model_final.pth
    return cfg


def read_config(args: argparse.Namespace) -> CfgNode:
    """The config of a command line of `arguments.py`: defaults, YAML file, `KEY VALUE` pairs.

    Raises:
        UsageError: an unknown key, a value of a wrong type, or a missing or malformed file.
    """
    cfg = get_cfg()
    merge_config(cfg, args.config_file, args.overrides)
    cfg.freeze()
    return cfg


# Lowest and highest value; the generator and Dropout check theirs.
_RANGES = {
    "MODEL.WIDTH": (1 / 64, 64),
    "MODEL.HEAD_CHANNELS": (1, 2**16),
    "MODEL.DROPOUT": (0, 1),
    "MODEL.EDGE_DROP": (0, 1),
    "INPUT.SIZE": (1, 2**14),
    "INPUT.MIN_SCALE": (0, 1),
    "INPUT.RANDOM_ERASE": (0, 1),
    "INPUT.TEST_RESIZE": (1, 2**14),
    "DATA.NUM_WORKERS": (0, 1024),
    "DATA.PREFETCH": (1, 1024),
    "SOLVER.EPOCHS": (1, math.inf),
    "SOLVER.BATCH_SIZE": (2, math.inf),  # batch normalisation needs several images
    "SOLVER.ACCUMULATE": (1, math.inf),
    "SOLVER.BASE_LR": (0, math.inf),
    "SOLVER.WARMUP_EPOCHS": (0, math.inf),
    "SOLVER.WARMUP_LR": (0, math.inf),
    "SOLVER.MOMENTUM": (0, 1),
    "SOLVER.WEIGHT_DECAY": (0, math.inf),
    "SOLVER.LABEL_SMOOTHING": (0, 1),
    "SOLVER.MIXUP": (0, math.inf),
    "SOLVER.CUTMIX": (0, math.inf),
    "SOLVER.EMA_DECAY": (0, 1),
    "TEST.PERIOD": (1, math.inf),
    "SEED": (0, math.inf),
    "LOG_PERIOD": (1, math.inf),
    "CHECKPOINT_PERIOD": (0, math.inf),
    "CHECKPOINTS_KEPT": (1, math.inf),
}
_CHOICES = {
    "DEVICE": ("cuda", "cpu"),
    "DATA.ON_BAD_IMAGE": ("raise", "skip"),
    "MODEL.RANDWIRE.MEMORY": ("standard", "lean"),
    "SOLVER.AMP": ("none", "bf16", "fp16"),
}


def test_size(cfg: CfgNode) -> int:
    """Height and width of a test image, in pixels."""
    return cfg.INPUT.SIZE if cfg.INPUT.TEST_SIZE is None else cfg.INPUT.TEST_SIZE


def check(cfg: CfgNode, processes: int = 1) -> None:
    """Refuse values that would fail late or make no sense.

    Args:
        processes: of the training, which share each batch equally.

    Raises:
        UsageError: names the key, its value and what is expected.
    """
    values = flat(cfg)
    check_ranges(values, _RANGES)
    check_choices(values, _CHOICES)
    check_trackers(cfg)
    parts = processes * cfg.SOLVER.ACCUMULATE
    if cfg.SOLVER.BATCH_SIZE % parts or 2 * parts > cfg.SOLVER.BATCH_SIZE:
        raise UsageError(
            f"SOLVER.BATCH_SIZE {cfg.SOLVER.BATCH_SIZE}: expected a multiple of {parts}, and two"
            f" images or more in each part ({processes} processes x SOLVER.ACCUMULATE"
            f" {cfg.SOLVER.ACCUMULATE})"
        )
    if not cfg.OUTPUT_DIR:
        raise UsageError("OUTPUT_DIR '': expected a folder for what the run writes")
    if cfg.SOLVER.WARMUP_EPOCHS >= cfg.SOLVER.EPOCHS:
        raise UsageError(
            f"SOLVER.WARMUP_EPOCHS {cfg.SOLVER.WARMUP_EPOCHS}: expected fewer than"
            f" SOLVER.EPOCHS {cfg.SOLVER.EPOCHS}"
        )
    if cfg.MODEL.NAME != "randwire":
        for key in ("MODEL.DROPOUT", "MODEL.EDGE_DROP"):
            if values[key] > 0:
                raise UsageError(
                    f"{key} {values[key]}: expected 0 with MODEL.NAME {cfg.MODEL.NAME}"
                )
    size = test_size(cfg)
    if type(size) is not int or not 1 <= size <= cfg.INPUT.TEST_RESIZE:
        raise UsageError(
            f"a centre crop of {size} pixels (INPUT.TEST_SIZE, or INPUT.SIZE where that is None):"
            f" expected at most INPUT.TEST_RESIZE {cfg.INPUT.TEST_RESIZE}"
        )
    for key, lowest in (("INPUT.MEAN", 0), ("INPUT.STD", 1e-6)):
        three = values[key]
        numbers = all(type(value) in (int, float) and lowest <= value for value in three)
        if len(three) != 3 or not numbers:
            raise UsageError(
                f"{key} {three}: expected three numbers from {lowest:g} up, one per RGB channel"
            )
