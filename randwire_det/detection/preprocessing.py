"""What a detection config does to an image, against what the weights of MODEL.WEIGHTS expect."""

import logging
import os
import zipfile

import torch
from detectron2.config import CfgNode

from ..errors import UserError
from ..run.checkpoint import FORMAT, Preprocessing, check_same_preprocessing

# Below detectron2's logger, so that a project's log file and console show it, too.
logger = logging.getLogger(f"detectron2.{__name__}")
# What of `Preprocessing` a detection config sets; its image size is the detector's own.
PREPROCESSING_KEYS = {
    "channel_order": "INPUT.FORMAT",
    "mean": "MODEL.PIXEL_MEAN",
    "std": "MODEL.PIXEL_STD",
}


def preprocessing_from_config(cfg: CfgNode) -> Preprocessing:
    """What a detection config does to an image; its input size is that of tests."""
    return Preprocessing(
        channel_order=cfg.INPUT.FORMAT,
        mean=tuple(cfg.MODEL.PIXEL_MEAN),
        std=tuple(cfg.MODEL.PIXEL_STD),
        input_size=cfg.INPUT.MIN_SIZE_TEST,
    )


def without_weights(cfg: CfgNode) -> CfgNode:
    """A copy with an empty MODEL.WEIGHTS, whose file the backbone's builder then leaves alone."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    return cfg


def warn_of_other_preprocessing(cfg: CfgNode) -> None:
    """Log a warning where MODEL.WEIGHTS is a file of this package that was trained on images
    prepared in another way, which costs accuracy without an error.

    This is for projects with a checkpointer of their own; `RandWireCheckpointer` refuses. Whatever
    else is wrong with the file is left to whoever loads it.
    """
    path = cfg.MODEL.WEIGHTS
    try:
        theirs = _preprocessing_in(path)
        if theirs is not None:
            ours = preprocessing_from_config(cfg)
            check_same_preprocessing(theirs, ours, path, PREPROCESSING_KEYS)
    except UserError as error:
        logger.warning(f"The backbone will see other images than it was trained on: {error}")


def _preprocessing_in(path: str) -> Preprocessing | None:
    """Of a file of this package, None of any other. Tensors are mapped and not read."""
    if not os.path.isfile(path) or not zipfile.is_zipfile(path):
        return None
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if data["format"] == FORMAT:
            return Preprocessing.from_dict(data["preprocessing"])
    except Exception:  # of broken or foreign files the unpickler may raise anything at all
        pass
    return None
