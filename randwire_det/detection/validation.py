"""The losses of a detector on its test sets, which detectron2 measures in training alone."""

import copy

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import build_augmentation
from detectron2.utils.events import EventStorage
from torch import nn

from ..coco.datasets import training_dicts
from ..run.parallel import World
from .loader import TestLoader

AS_IN_TESTS = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def validation_losses(cfg: CfgNode, model: nn.Module, world: World) -> dict[str, float]:
    """The mean losses over those images of DATASETS.TEST that have something to learn from.

    Images are resized as in a test, one at a time, and BN and dropout are as in a test. Anchors and
    proposals are sampled as always, but the same ones each time. Model and generators are left as
    they were.

    Args:
        model: not in DDP.

    Returns:
        {name: loss}, with "total_loss"; in rank 0 alone, else {}.

    Raises:
        UserError: no image has anything to learn from, or one cannot be read.
    """
    options = DatasetMapper.from_config(cfg, True)
    options |= {"augmentations": build_augmentation(cfg, False), "recompute_boxes": False}
    dicts = training_dicts(cfg, "TEST")
    loader = TestLoader(cfg, "", world, dicts=dicts, mapper=DatasetMapper(**options))
    model = copy.deepcopy(model).train()  # a copy, as RetinaNet counts what it has seen
    for module in model.modules():
        if isinstance(module, AS_IN_TESTS):
            module.eval()
    found = []
    # The heads log to the current storage.
    with torch.no_grad(), EventStorage(), torch.random.fork_rng():
        for batch in loader:
            torch.manual_seed(int(batch[0]["image_id"]))
            found.append({name: float(loss) for name, loss in model(batch).items()})
    found = world.gather(found)
    if not world.is_first:
        return {}
    means = {name: sum(each[name] for each in found) / len(found) for name in found[0]}
    return {"total_loss": sum(means.values()), **means}
