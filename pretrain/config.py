"""Every key of the pretraining config with its default, which is the paper's where it has one."""

from fvcore.common.config import CfgNode

from randwire_det.errors import UsageError
from randwire_det.spec_config import add_spec_config


def get_cfg() -> CfgNode:
    """A fresh config with every default; YAML files and `KEY VALUE` pairs are merged into it."""
    cfg = CfgNode()

    cfg.MODEL = CfgNode()
    add_spec_config(cfg.MODEL)
    cfg.MODEL.HEAD_CHANNELS = 1280  # of the 1x1 convolution in the classifier's head
    cfg.MODEL.DROPOUT = 0.0  # before fc; 0.2 in the paper's regular regime
    cfg.MODEL.WEIGHTS = ""  # the checkpoint that --eval-only evaluates

    cfg.INPUT = CfgNode()
    cfg.INPUT.SIZE = 224  # height and width in training, pixels
    cfg.INPUT.MIN_SCALE = 0.08  # a training crop covers this share of the image's area, or more
    cfg.INPUT.FLIP = True  # mirror half of the training images
    cfg.INPUT.TEST_RESIZE = 256  # the shorter side of a test image, before the centre crop
    cfg.INPUT.TEST_SIZE = None  # the centre crop; None means SIZE (Table 4 tests with 320)
    cfg.INPUT.MEAN = [123.675, 116.28, 103.53]  # per channel, in the order RGB, scale 0..255
    cfg.INPUT.STD = [58.395, 57.12, 57.375]

    cfg.DATA = CfgNode()
    cfg.DATA.ROOT = "datasets/imagenet"  # holds {train,val}/<class>/<image>
    cfg.DATA.NUM_WORKERS = 4  # processes that read images; 0 reads in the main process

    cfg.SOLVER = CfgNode()
    cfg.SOLVER.EPOCHS = 100
    cfg.SOLVER.BATCH_SIZE = 256
    cfg.SOLVER.BASE_LR = 0.1  # for 256 images; scales linearly with BATCH_SIZE, as in [11]
    cfg.SOLVER.WARMUP_EPOCHS = 5  # from 0 to the scaled learning rate; in [11] from the unscaled
    cfg.SOLVER.MOMENTUM = 0.9
    cfg.SOLVER.NESTEROV = True  # the paper does not say; [11], whose details it takes over, does
    cfg.SOLVER.WEIGHT_DECAY = 5e-5  # not on norm layers, as in [11], nor on aggregation weights
    cfg.SOLVER.LABEL_SMOOTHING = 0.1

    cfg.TEST = CfgNode()
    cfg.TEST.PERIOD = 1  # epochs between evaluations; the last epoch always ends with one

    cfg.SEED = 0  # of initial weights, order, augmentation and dropout; not of the wiring
    cfg.DEVICE = "cuda"  # or "cpu"; the CPU where there is no CUDA device
    cfg.OUTPUT_DIR = "output/pretrain"
    cfg.LOG_PERIOD = 50  # iterations
    cfg.CHECKPOINT_PERIOD = 1  # epochs
    return cfg


# key: (lowest, highest or None); what the generator and Dropout check themselves is not here.
_RANGES = {
    "MODEL.HEAD_CHANNELS": (1, None),
    "MODEL.DROPOUT": (0, 1),
    "INPUT.SIZE": (1, None),
    "INPUT.MIN_SCALE": (0, 1),
    "INPUT.TEST_RESIZE": (1, None),
    "DATA.NUM_WORKERS": (0, None),
    "SOLVER.EPOCHS": (1, None),
    "SOLVER.BATCH_SIZE": (2, None),  # batch normalisation compares images
    "SOLVER.BASE_LR": (0, None),
    "SOLVER.WARMUP_EPOCHS": (0, None),
    "SOLVER.MOMENTUM": (0, 1),
    "SOLVER.WEIGHT_DECAY": (0, None),
    "SOLVER.LABEL_SMOOTHING": (0, 1),
    "TEST.PERIOD": (1, None),
    "SEED": (0, None),
    "LOG_PERIOD": (1, None),
    "CHECKPOINT_PERIOD": (1, None),
}


def test_size(cfg: CfgNode) -> int:
    """Height and width of a test image, in pixels."""
    return cfg.INPUT.SIZE if cfg.INPUT.TEST_SIZE is None else cfg.INPUT.TEST_SIZE


def flatten(node: dict, prefix: str = "") -> dict:
    """{"A": {"B": 1}} to {"A.B": 1}."""
    flat = {}
    for key, value in node.items():
        flat |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def check(cfg: CfgNode) -> None:
    """Refuse values that would fail late or do nonsense.

    Raises:
        UsageError: naming the key, its value and what is expected.
    """
    flat = flatten(cfg)
    for key, (low, high) in _RANGES.items():
        if not (low <= flat[key] and (high is None or flat[key] <= high)):
            expected = f">= {low}" if high is None else f"from {low} to {high}"
            raise UsageError(f"{key} {flat[key]}: expected {expected}")
    if cfg.SOLVER.WARMUP_EPOCHS >= cfg.SOLVER.EPOCHS:
        raise UsageError(
            f"SOLVER.WARMUP_EPOCHS {cfg.SOLVER.WARMUP_EPOCHS}: expected fewer than"
            f" SOLVER.EPOCHS {cfg.SOLVER.EPOCHS}"
        )
    if cfg.DEVICE != "cpu" and not cfg.DEVICE.startswith("cuda"):
        raise UsageError(f"DEVICE {cfg.DEVICE!r}: expected cuda or cpu")
    size = test_size(cfg)
    if type(size) is not int or not 1 <= size <= cfg.INPUT.TEST_RESIZE:
        raise UsageError(
            f"a centre crop of {size} pixels (INPUT.TEST_SIZE, or INPUT.SIZE where that is None):"
            f" expected at most INPUT.TEST_RESIZE {cfg.INPUT.TEST_RESIZE}"
        )
    for key, lowest in (("INPUT.MEAN", 0), ("INPUT.STD", 1e-6)):
        values = flat[key]
        numbers = all(type(value) in (int, float) and value >= lowest for value in values)
        if len(values) != 3 or not numbers:
            raise UsageError(f"{key} {values}: expected three numbers, one per RGB channel")
