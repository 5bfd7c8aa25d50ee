"""Graph damage (Figure 5) of a trained classifier."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn

from randwire_det.config import same_result
from randwire_det.config.files import known_values, merge_overrides, merge_values
from randwire_det.config.network_keys import SPEC_ITSELF, stored_values
from randwire_det.errors import UsageError, UserError
from randwire_det.network.damage import Removal, damaged
from randwire_det.run.checkpoint import Checkpoint, check_same_preprocessing
from randwire_det.run.classes import check_same_classes
from randwire_det.tables.damage import Subject, test_config

from . import data, recipe, resume
from .config import check, get_cfg


def classifier_subject(
    checkpoint: Checkpoint, overrides: list[str], device: str, images: int | None = None
) -> Subject:
    """A classifier on DATA.ROOT/val, as --eval-only tests it; the metric is top-1.

    Args:
        checkpoint: of a RandWire.
        overrides: KEY VALUE pairs that change the checkpoint's config.
        images: test on so many, evenly spaced in the order of the classes; None for all.

    Raises:
        UserError: bad input, as of `commands.evaluate_only`.
    """
    cfg = config_of(checkpoint, overrides)
    check(cfg)
    preprocessing = recipe.preprocessing_from_cfg(cfg)
    check_same_preprocessing(
        checkpoint.preprocessing, preprocessing, checkpoint.path, recipe.PREPROCESSING_KEYS
    )
    val_data = data.open_val(cfg)
    val_folder = str(Path(cfg.DATA.ROOT) / "val")
    check_same_classes(checkpoint.path, checkpoint.classes or [], val_folder, val_data.classes)
    resume.check_same_network(checkpoint, cfg, checkpoint.spec)
    model = recipe.build_model(cfg, checkpoint.spec, len(val_data.classes))
    resume.load_weights(checkpoint.path, checkpoint.weights_to_use, model)
    model.to(device, memory_format=torch.channels_last).eval()
    normalise = data.Normalise(preprocessing).to(device)
    loader = data.Loader(val_data, workers=cfg.DATA.NUM_WORKERS, prefetch=cfg.DATA.PREFETCH)
    tested = data.in_order(len(val_data))
    if images is not None:
        if not 1 <= images <= len(val_data):
            raise UsageError(
                f"--images {images}: expected 1 to {len(val_data)}, as in {val_folder}"
            )
        tested = tested[np.linspace(0, len(val_data) - 1, images).round().astype(int)]

    def evaluate(removed: list[Removal]) -> list[float]:
        batches = (
            tested[at : at + cfg.SOLVER.BATCH_SIZE]
            for at in range(0, len(tested), cfg.SOLVER.BATCH_SIZE)
        )
        return _top1(model, normalise, loader(batches), removed)

    return Subject(
        spec=checkpoint.spec,
        metric="top-1",
        images=len(tested),
        identity={
            "checkpoint": checkpoint.path,
            "weights": checkpoint.weights_digest,
            "test set": val_data.digest,
            "config": test_config(cfg, same_result.PRETRAINING),
        },
        evaluate=evaluate,
    )


def config_of(checkpoint: Checkpoint, overrides: list[str]) -> CfgNode:
    """The config of a checkpoint of pretraining, with its wiring as MODEL.RANDWIRE.SPEC.

    Raises:
        UserError: the file has no config that can be read.
    """
    path, cfg, nested = checkpoint.path, get_cfg(), {}
    try:
        values = stored_values(checkpoint.config)
    except (UserError, AttributeError):
        raise UserError(
            f"{path}: holds no config that can be read; expected a run's file"
        ) from None
    for key, value in values.items():
        *parts, last = key.split(".")
        node = nested
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = value
    known, _ = known_values(cfg, nested)
    merge_values(cfg, known, path)
    cfg.MODEL.RANDWIRE.SPEC = SPEC_ITSELF + checkpoint.spec.to_json()
    merge_overrides(cfg, overrides)
    cfg.freeze()
    return cfg


@torch.inference_mode()
def _top1(
    model: nn.Module, normalise: data.Normalise, batches: Iterator[data.Batch], removed: list
) -> list[float]:
    """Top-1 in percent: intact, then after each removal. Logits of NaN or infinity are wrong."""
    hits, images = torch.zeros(1 + len(removed), dtype=torch.int64), 0
    for batch in batches:
        if not len(batch.labels):
            continue
        images += len(batch.labels)
        pictures = normalise(batch.images)
        labels = batch.labels.to(pictures.device)
        for position, features in enumerate(damaged(model.trunk, pictures, removed)):
            (last,) = features.values()
            logits = model.head(last)
            finite = logits.isfinite().all(dim=1)
            hits[position] += (finite & (logits.argmax(dim=1) == labels)).sum().cpu()
    if not images:
        raise UserError("no test image can be read: is the disk there?")
    return (100 * hits.double() / images).tolist()
