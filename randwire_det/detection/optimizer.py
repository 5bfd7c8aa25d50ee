"""detectron2's optimizer, without weight decay on the aggregation weights."""

import detectron2.solver
import torch
from detectron2.config import CfgNode
from torch import nn


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """`detectron2.solver.build_optimizer`, but without weight decay on aggregation weights.

    Decay would pull their sigmoid to one half. detectron2 exempts only norm layers
    (SOLVER.WEIGHT_DECAY_NORM).
    """
    optimizer = detectron2.solver.build_optimizer(cfg, model)
    aggregation = {
        parameter
        for name, parameter in model.named_parameters()
        if name.rpartition(".")[2] == "edge_logits"
    }
    for group in list(optimizer.param_groups):
        exempt = [parameter for parameter in group["params"] if parameter in aggregation]
        if exempt:
            group["params"] = [each for each in group["params"] if each not in aggregation]
            optimizer.add_param_group(group | {"params": exempt, "weight_decay": 0.0})
    return optimizer
