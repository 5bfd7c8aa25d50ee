"""Rebuilds a detector from its checkpoint: config, network, weights and class names."""

import logging
from pathlib import Path

import detectron2
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from ..config.files import known_values, merge_overrides
from ..config.network_keys import SPEC_ITSELF
from ..errors import UsageError, UserError
from ..run.checkpoint import KINDS, Checkpoint, fits, load_checkpoint
from ..strict import load_yaml
from .checks import check_model
from .config import get_cfg

logger = logging.getLogger(__name__)


def load_detector(path: str | Path, device: str) -> tuple[nn.Module, CfgNode, list[str] | None]:
    """Rebuild the detector of a checkpoint that tools/train_net.py wrote; see `build_detector`.

    Raises:
        UserError: the file is missing or damaged, or as `build_detector`.
    """
    return build_detector(load_checkpoint(path, kinds=KINDS), device)


def build_detector(
    checkpoint: Checkpoint, device: str, overrides: list[str] | None = None
) -> tuple[nn.Module, CfgNode, list[str] | None]:
    """Rebuild the detector of a checkpoint, with its averaged weights if it has any.

    Args:
        device: of the model, such as "cuda" or "cpu".
        overrides: KEY VALUE pairs that change the checkpoint's config.

    Returns:
        the model in eval mode; its config; its class names in the order of the outputs, None if the
        file has none.

    Raises:
        UserError: the file is not a detector's, or has no config; the config cannot be built here;
            a tensor is missing, unexpected or not finite.
    """
    path = checkpoint.path
    if checkpoint.kind != "detector":
        kind = "trunk" if checkpoint.kind == "trunk" else "classifier"
        raise UserError(
            f"{path} is a {kind}, not a detector: it can start a training of one by"
            f" tools/train_net.py as MODEL.WEIGHTS {path}"
        )
    cfg = config_of(checkpoint)
    merge_overrides(cfg, overrides or [])
    cfg.MODEL.DEVICE = device
    try:
        check_model(cfg)
    except UsageError as error:
        raise UserError(f"{path}: its config cannot be built here: {error}") from None
    model = build_model(cfg)
    ours, theirs = model.state_dict(), checkpoint.weights_to_use
    # load_state_dict would not notice missing BN statistics: detectron2 substitutes defaults.
    unfit = sorted(
        name
        for name in ours.keys() | theirs.keys()
        if name not in ours or name not in theirs or not fits(theirs[name], ours[name])
    )
    if unfit:
        raise UserError(
            f"{path} does not hold the detector of its config: {len(unfit)} tensors are missing, of"
            f" another shape or number type, or too many, such as {unfit[0]}; take another"
            " checkpoint of the run"
        )
    model.load_state_dict(theirs)
    return model.eval(), cfg, checkpoint.classes


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
            raise ValueError("expected KEY: VALUE lines")
        values, unknown = known_values(cfg, values)
        cfg.merge_from_other_cfg(CfgNode(values))
    # yacs raises the latter two for values of a wrong type.
    except (ValueError, AssertionError, TypeError) as error:
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
