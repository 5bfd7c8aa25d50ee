"""What a benchmark runs at, and tables of its timings."""

from typing import NamedTuple

from .measure import Timing


class Settings(NamedTuple):
    """Arguments of tools/benchmark.py.

    Attributes:
        rounds: of each case; the median counts.
        batch, size: images, and their height and width.
        channels: C of Table 1.
        threads: of the CPU.
        device: "cpu" or a CUDA device.
        compile: whether to measure torch.compile, too.
        plot: path of the picture of the growth, or None.
    """

    rounds: int = 7
    batch: int = 8
    size: int = 224
    channels: int = 109
    threads: int = 2
    device: str = "cpu"
    compile: bool = False
    plot: str | None = None


def table(timings: dict[str, Timing], baseline: str) -> dict[str, dict[str, float]]:
    """{name: seconds, spread and ratio to the baseline}."""
    return {
        name: {
            "seconds": each.median,
            "least": each.least,
            "most": each.most,
            "ratio": each.median / timings[baseline].median,
        }
        for name, each in timings.items()
    }


def byte_table(peaks: dict[str, int], baseline: str) -> dict[str, dict[str, float]]:
    """{name: MB and ratio to the baseline}."""
    return {name: {"MB": n / 1e6, "ratio": n / peaks[baseline]} for name, n in peaks.items()}
