"""CUDA graphs: a call recorded once and replayed, without Python between its kernels."""

from collections.abc import Callable

import torch


def graphed(call: Callable, *inputs: torch.Tensor) -> Callable:
    """A call for CUDA tensors of the shapes of `inputs`, recorded as a CUDA graph.

    The result is overwritten by the next replay. What the call does besides computing tensors, such
    as a choice made in Python, is not repeated.
    """
    held = [each.detach().clone() for each in inputs]
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        for _ in range(3):  # libraries choose and load their kernels
            call(*held)
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call(*held)

    def replay(*given: torch.Tensor):
        for own, each in zip(held, given, strict=True):
            own.copy_(each)
        graph.replay()
        return found

    return replay
