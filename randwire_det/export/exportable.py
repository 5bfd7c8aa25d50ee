"""What an exporter takes: a network of tensors in and tensors out, and what reads its pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..run.checkpoint import Checkpoint


@dataclass(frozen=True)
class Exportable:
    """What is exported, and what it is checked against.

    Attributes:
        graph: the network to export, with folded BN; takes one image tensor, returns tensors.
        original: the same network as it was trained.
        example: an image tensor to trace with; batch, height and width may differ at runtime.
        outputs: names of the graph's outputs.
        axes: the dynamic axes of the image, {axis: name}.
        metadata: what an application has to know, as plain data for JSON.
        read: maps a picture's path to an image tensor, as in evaluations.
    """

    graph: nn.Module
    original: nn.Module
    example: Tensor
    outputs: tuple[str, ...]
    axes: dict[int, str]
    metadata: dict
    read: Callable[[Path], Tensor]

    @property
    def is_detector(self) -> bool:
        return self.metadata["kind"] == "detector"


def metadata_of(checkpoint: Checkpoint) -> dict:
    """What every exported file says of its network."""
    spec = checkpoint.spec
    return {
        "kind": checkpoint.kind,
        "network": spec.describe() if spec is not None else None,
        "spec_digest": spec.digest if spec is not None else None,
        "classes": checkpoint.classes,
        "pixels": "float32 from 0 to 255; the network normalises them",
        "written_by": f"randwire_det {__version__}, torch {torch.__version__}",
    }


def channels_first(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 to (3, H, W) float32."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()
