"""Renames the tensors of torchvision's ResNets to detectron2's names."""

import re

from torch import Tensor


def detectron2_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of a torchvision ResNet with detectron2's names.

    fc and BN's counters are omitted: no feature depends on them, and FrozenBN has no counters.
    """
    renamed = {}
    for name, tensor in weights.items():
        if name.startswith("fc.") or name.endswith("num_batches_tracked"):
            continue
        stage = re.match(r"layer(\d)\.", name)
        name = f"res{int(stage[1]) + 1}.{name[stage.end() :]}" if stage else f"stem.{name}"
        name = re.sub(r"\bbn(\d)", r"conv\1.norm", name)
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        renamed[name] = tensor
    return renamed
