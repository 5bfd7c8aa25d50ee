"""The config in a detector's checkpoint."""

import logging

import detectron2
from detectron2.config import CfgNode

from ..config.files import known_values, merge_values
from ..config.network_keys import SPEC_ITSELF
from ..errors import UsageError, UserError
from ..run.checkpoint import Checkpoint
from ..strict import load_yaml
from .config import get_cfg

logger = logging.getLogger(__name__)


def config_of(checkpoint: Checkpoint) -> CfgNode:
    """The config of a detector's checkpoint, with the checkpoint's wiring as MODEL.RANDWIRE.SPEC.

    Unknown keys (the file may come from another version of detectron2) are left out with a warning.

    Raises:
        UserError: the file has no config, or its config cannot be read.
    """
    path, text = checkpoint.path, checkpoint.config
    if not isinstance(text, str):
        raise UserError(
            f"{path} is of an older randwire_det and does not hold its config; tools/train_net.py"
            " --resume with a higher SOLVER.MAX_ITER writes a file that does"
        )
    cfg = get_cfg()
    try:
        values = load_yaml(text)
        if not isinstance(values, dict):
            raise UsageError("expected KEY: VALUE lines")
        values, unknown = known_values(cfg, values)
        merge_values(cfg, values, "its config")
    except (UserError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: its config cannot be read ({reason}); take another checkpoint of the run"
        ) from None
    if unknown:
        logger.warning(
            f"{path}: detectron2 {detectron2.__version__} and this randwire_det do not know these"
            f" keys of its config, left out: {', '.join(unknown)}"
        )
    cfg.MODEL.WEIGHTS = ""
    if checkpoint.spec is not None:
        # Another networkx may sample another graph from the same seed.
        cfg.MODEL.RANDWIRE.SPEC = SPEC_ITSELF + checkpoint.spec.to_json()
    return cfg
