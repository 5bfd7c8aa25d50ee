"""A classifier as an exporter takes it: pixels to logits."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from randwire_det.export.exportable import Exportable, channels_first, metadata_of
from randwire_det.network.fusing import fuse
from randwire_det.run.checkpoint import Checkpoint, Preprocessing
from randwire_det.run.pictures import read_picture

from . import recipe, resume
from .augment import val_transform
from .config import test_size
from .damage import config_of


class ClassifierGraph(nn.Module):
    """A classifier that takes pixels.

    Args:
        model: takes normalised images.
        preprocessing: of the model.
    """

    def __init__(self, model: nn.Module, preprocessing: Preprocessing):
        super().__init__()
        self.model = model
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name)).view(3, 1, 1)
            self.register_buffer(name, values)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) float32 of 0 to 255 to logits (B, classes)."""
        return self.model((image - self.mean) / self.std)


def exportable_classifier(checkpoint: Checkpoint) -> Exportable:
    """The classifier of a checkpoint, on the CPU.

    Raises:
        UserError: the file does not hold what its config says.
    """
    cfg = config_of(checkpoint, [])
    model = recipe.build_model(cfg, checkpoint.spec, len(checkpoint.classes))
    resume.load_weights(checkpoint.path, checkpoint.weights_to_use, model)
    model.eval()
    preprocessing, size, transform = checkpoint.preprocessing, test_size(cfg), val_transform(cfg)

    def read(path: Path) -> Tensor:
        return channels_first(np.asarray(transform(read_picture(path), 0)))[None]

    return Exportable(
        graph=ClassifierGraph(fuse(model), preprocessing),
        original=ClassifierGraph(model, preprocessing),
        example=torch.zeros(2, 3, size, size),
        outputs=("logits",),
        axes={0: "batch", 2: "height", 3: "width"},
        metadata=metadata_of(checkpoint)
        | {
            "channel_order": preprocessing.channel_order,
            "resize_shorter_side": cfg.INPUT.TEST_RESIZE,
            "centre_crop": size,
            "interpolation": preprocessing.interpolation,
        },
        read=read,
    )
