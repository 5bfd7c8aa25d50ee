"""Measures interleaved times, the hardware's fastest product, and peak memory."""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from ..errors import UserError


class Timing(NamedTuple):
    """Seconds of one call, over the rounds."""

    median: float
    least: float
    most: float


def interleaved(
    cases: dict[str, Callable[[], object]], rounds: int, device: str = "cpu"
) -> dict[str, Timing]:
    """Time every case once per round, so that a slowdown of the machine affects all of them.

    The order changes each round, as a case is affected by the memory and the caches that the
    previous one left. A warm-up round, which allocates memory and selects kernels, is not counted.
    """
    seconds = {name: [] for name in cases}
    shuffled = random.Random(0)
    for number in range(rounds + 1):
        for name in shuffled.sample(list(cases), len(cases)):
            took = _seconds(cases[name], device)
            if number:
                seconds[name].append(took)
    return {
        name: Timing(statistics.median(each), min(each), max(each))
        for name, each in seconds.items()
    }


def _seconds(call: Callable[[], object], device: str) -> float:
    if not device.startswith("cuda"):
        begun = time.perf_counter()
        call()
        return time.perf_counter() - begun
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    call()
    ended.record()
    ended.synchronize()
    return begun.elapsed_time(ended) / 1000


def products(device: str) -> dict[str, tuple[Callable[[], object], float]]:
    """Large fp32 products, as call and multiply-adds; the best rate is taken as the hardware's."""
    found = {}
    for size in (2048, 4096):
        one, other = torch.randn(2, size, size, device=device)
        found[f"{size} x {size} matrix product"] = (lambda a=one, b=other: a @ b, size**3)
    for channels, size in ((224, 28), (448, 14), (512, 28)):
        data = torch.randn(8, channels, size, size, device=device)
        data = data.contiguous(memory_format=torch.channels_last)
        weight = torch.randn(channels, channels, 1, 1, device=device)
        call = torch.no_grad()(lambda d=data, w=weight: torch.nn.functional.conv2d(d, w))
        macs = 8 * size**2 * channels**2
        found[f"1x1 convolution, {channels} channels, {size} x {size}"] = (call, macs)
    return found


def peak_memory(case: str, **settings) -> int:
    """Peak bytes of a training step or an inference (`what`), measured in a separate process.

    Includes the model: weights, gradients and maps. On the CPU it is resident memory.

    Raises:
        UserError: the process failed, usually for lack of memory.
    """
    command = [sys.executable, "-m", "randwire_det.benchmark.peak", case, json.dumps(settings)]
    # Otherwise glibc keeps freed memory, whose holes would count as the network's. Below a weight's
    # size: of 1 MB, the original of a fused copy leaves holes of two fifths of the copy.
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"the peak of {case} could not be measured: {last}")
    return json.loads(done.stdout.splitlines()[-1])["bytes"]


def exponent(sizes: list[float], values: list[float]) -> float:
    """The exponent b of the least-squares fit values = a * sizes ** b."""
    x, y = (torch.tensor(each, dtype=torch.float64).log() for each in (sizes, values))
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def specs_generated(seconds: float, channels: int) -> Iterator[float]:
    """Seconds for each WS(4, 0.75) network sampled and counted within `seconds`, seeds from 1."""
    from ..spec.complexity import complexity
    from ..spec.generator import generate

    end, seed = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        seed, begun = seed + 1, time.perf_counter()
        complexity(generate("ws", seed=seed, regime="regular", channels=channels, k=4, p=0.75))
        yield time.perf_counter() - begun
