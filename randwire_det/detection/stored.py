"""Rebuilds a detector from its checkpoint: config, network, weights and class names."""

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from ..config.files import merge_overrides
from ..errors import UsageError, UserError
from ..run.checkpoint import KINDS, Checkpoint, fits, load_checkpoint
from .checks import check_model
from .stored_config import config_of


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
