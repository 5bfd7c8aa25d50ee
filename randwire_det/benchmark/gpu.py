"""Times and peak memory on a GPU as rows beside ResNet-50's: tools/gpu_check.py."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..network import graphed
from . import networks
from .measure import interleaved
from .peak import peak, reset

TRAINED = (networks.RESNET, networks.RANDWIRE, networks.LEAN, networks.PLAIN)
PRECISIONS = ("tf32", "bf16")


class Row(NamedTuple):
    """One case: milliseconds of a call, the median of the rounds, the least and the most.

    Attributes:
        how: eager, CUDA graph, or compiled.
        ratio: of the medians, to the first network run in the same way.
        peak_gb: of the call, weights and gradients included; None on a CPU.
        compile_s: seconds of the first call.
    """

    what: str
    how: str
    network: str
    channels: int
    batch: int
    precision: str
    ms: float
    least: float
    most: float
    ratio: float
    peak_gb: float | None
    compile_s: float | None


def measured(
    what: str,
    device: str,
    *,
    channels: int,
    batch: int,
    precision: str,
    names: Sequence[str] = (networks.RESNET, networks.RANDWIRE),
    compiled: bool = False,
    rounds: int = 10,
    size: int = 224,
) -> Iterator[Row]:
    """Rows of one setting, as it runs and, on a GPU, recorded as a CUDA graph.

    Args:
        what: "inference", RandWire fused, or "training", a forward and a backward.
        precision: of `PRECISIONS`; bf16 by autocast, the fused RandWire's weights in it, too.
    """
    x = networks.images(batch, size, device)
    cases, peaks, seconds = {}, {}, {}
    how, cuda = "compiled" if compiled else "eager", device.startswith("cuda")
    for name in names:
        before = reset(device) if cuda else 0
        call = CALLS[what](name, channels, x, precision, compiled)
        begun = time.perf_counter()
        call()
        peaks[name] = (peak(device) - before) / 1e9 if cuda else None
        seconds[name] = time.perf_counter() - begun if compiled else None
        cases[how, name] = call
        if cuda:
            cases[f"{how}, CUDA graph", name] = graphed(call)
    timings = interleaved(cases, rounds, device)
    for (way, name), timing in timings.items():
        yield Row(
            *(what, way, name, channels, batch, precision),
            *(1000 * seconds for seconds in timing),
            timing.median / timings[way, names[0]].median,
            peaks[name],
            seconds[name],
        )


@contextmanager
def tf32(enabled: bool = True) -> Iterator[None]:
    """TF32 for convolutions and matrix products, as most people train, or none."""
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [each.allow_tf32 for each in switches]
    try:
        for each in switches:
            each.allow_tf32 = enabled
        yield
    finally:
        for each, value in zip(switches, before, strict=True):
            each.allow_tf32 = value


def line(row: Row) -> str:
    """A row as text."""
    more = f", peak {row.peak_gb:.2f} GB" if row.peak_gb is not None else ""
    more += f", first call {row.compile_s:.0f} s" if row.compile_s is not None else ""
    return (
        f"{row.what}, C={row.channels}, batch {row.batch}, {row.precision}, {row.how},"
        f" {row.network}: {row.ms:.2f} ms ({row.least:.2f} to {row.most:.2f}),"
        f" {row.ratio:.2f} of ResNet-50's{more}"
    )


def _inference(name, channels, x: Tensor, precision: str, compiled: bool) -> Callable[[], Tensor]:
    half = precision == "bf16"
    model = _calibrated(name, channels, x.device.type)
    if name == networks.RANDWIRE:
        model = model.fuse(torch.bfloat16 if half else None)
    model = torch.compile(model) if compiled else model

    @torch.no_grad()
    def call():
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            return model(x)

    return call


@cache
def _calibrated(name: str, channels: int, device: str) -> torch.nn.Module:
    model = networks.classifier(name, channels=channels).to(device)
    networks.calibrate(model, networks.images(8, 128, device), batches=1)
    return model.eval()


def _training(name, channels, x: Tensor, precision: str, compiled: bool) -> Callable[[], None]:
    model = networks.classifier(name, channels=channels).to(x.device)
    step = networks.training_step(torch.compile(model) if compiled else model, x)

    def call():
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            step()

    return call


CALLS = {"inference": _inference, "training": _training}
