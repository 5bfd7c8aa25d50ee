"""Counts any network by what its layers do, to set others beside a RandWire."""

import torch
from torch import nn

from ..spec.complexity import Complexity


@torch.no_grad()
def count_module(model: nn.Module, input_size: int) -> Complexity:
    """Parameters, multiply-adds and activations for one RGB image.

    As for a RandWire (`spec.complexity`), multiply-adds and activations are those of convolutions
    and fully connected layers. A RandWire's weighted aggregation is no layer, and is not counted.

    Args:
        model: a classifier; on the meta device, where nothing is computed, this takes a second.
        input_size: height and width of the image, in pixels.
    """
    parameters = list(model.parameters())
    counts = [Complexity(params=sum(parameter.numel() for parameter in parameters))]

    def add(module, inputs, output):
        positions = output[0, 0].numel()  # each uses every weight once
        counts.append(Complexity(0, module.weight.numel() * positions, output.numel()))

    hooks = [
        module.register_forward_hook(add)
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    model.eval()(torch.empty(1, 3, input_size, input_size, device=parameters[0].device))
    for hook in hooks:
        hook.remove()
    return sum(counts, Complexity())
