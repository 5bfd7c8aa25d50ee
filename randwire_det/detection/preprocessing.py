"""The preprocessing of a detection config, compared with that of MODEL.WEIGHTS."""

import logging
import os
import zipfile

import torch
from detectron2.config import CfgNode

from ..errors import UserError
from ..run.checkpoint import FORMAT, Preprocessing, check_same_preprocessing

# A child of detectron2's logger, so that a project's log file and console show it, too.
logger = logging.getLogger(f"detectron2.{__name__}")
# Fields of `Preprocessing` that a detection config must share with its weights, not the image size.
PREPROCESSING_KEYS = {
    "channel_order": "INPUT.FORMAT",
    "mean": "MODEL.PIXEL_MEAN",
    "std": "MODEL.PIXEL_STD",
}


def preprocessing_from_config(cfg: CfgNode) -> Preprocessing:
    """The preprocessing of a detection config; `input_size` is that of testing."""
    return Preprocessing(
        channel_order=cfg.INPUT.FORMAT,
        mean=tuple(cfg.MODEL.PIXEL_MEAN),
        std=tuple(cfg.MODEL.PIXEL_STD),
        input_size=cfg.INPUT.MIN_SIZE_TEST,
    )


def without_weights(cfg: CfgNode) -> CfgNode:
    """A copy with an empty MODEL.WEIGHTS, so that the backbone's builder does not read the file."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    return cfg


def warn_of_other_preprocessing(cfg: CfgNode) -> None:
    """Log a warning if MODEL.WEIGHTS is a checkpoint of this package that was trained with another
    preprocessing, which would cost accuracy without an error.

    This is for projects with another checkpointer; `RandWireCheckpointer` raises an error. Other
    defects of the file are left to the loader.
    """
    path = cfg.MODEL.WEIGHTS
    try:
        theirs = _preprocessing_in(path)
        if theirs is not None:
            ours = preprocessing_from_config(cfg)
            check_same_preprocessing(theirs, ours, path, PREPROCESSING_KEYS)
    except UserError as error:
        logger.warning(f"The backbone was trained with another preprocessing: {error}")


def _preprocessing_in(path: str) -> Preprocessing | None:
    """The preprocessing in a checkpoint of this package, None for any other file.

    Tensors are memory-mapped and not read.
    """
    if not os.path.isfile(path) or not zipfile.is_zipfile(path):
        return None
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if data["format"] == FORMAT:
            return Preprocessing.from_dict(data["preprocessing"])
    except Exception:  # the unpickler may raise any exception for damaged or foreign files
        pass
    return None
