"""CUDA graphs: a call recorded once and replayed, without Python between its kernels."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import UsageError

Result = TypeVar("Result")


def graphed(call: Callable[..., Result], *inputs: Tensor) -> Callable[..., Result]:
    """A call of CUDA tensors as a CUDA graph, for inputs of the shapes and dtypes of `inputs`.

    It is called three times, then recorded, in the current grad mode and autocast. Each later call
    overwrites the result of the one before it. What it does besides computing tensors, such as a
    choice made in Python, is not repeated: inference by `fuse(model)` is what this is meant for.

    Raises:
        UsageError: an input that is not on a CUDA device; then also of a later call, one of another
            shape or dtype.
    """
    for each in inputs:
        if each.device.type != "cuda":
            raise UsageError(f"graphed: an input on {each.device}; expected one on a CUDA device")
    held = [each.detach().clone() for each in inputs]
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        for _ in range(3):  # libraries choose and load their kernels
            call(*held)
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call(*held)

    def replay(*given: Tensor) -> Result:
        for own, each in zip(held, given, strict=True):
            if (own.shape, own.dtype) != (each.shape, each.dtype):
                raise UsageError(
                    f"graphed for {tuple(own.shape)} in {own.dtype}, called with"
                    f" {tuple(each.shape)} in {each.dtype}; record one for it, too"
                )
            own.copy_(each)
        graph.replay()
        return result

    return replay
