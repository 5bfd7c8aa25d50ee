"""Seconds of a training step over the size of the network and of its input."""

import sys

from . import measure, networks
from .settings import Settings

GROWTH = {
    "nodes": (8, 16, 32, 64, 128),
    "channels": (16, 32, 64, 128),
    "batch": (1, 2, 4, 8, 16),
    "size": (64, 96, 128, 192, 256),
}
GROWTH_AT = {"nodes": 32, "channels": 32, "batch": 4, "size": 128}


def growth(settings: Settings) -> dict:
    """Seconds of a training step over N, C, batch and image size, one of them at a time."""
    found = {}
    for axis, values in GROWTH.items():
        cases = {}
        for value in values:
            at = GROWTH_AT | {axis: value}
            # K=2, since conv2 has but four of eight nodes
            model = networks.classifier(
                networks.RANDWIRE, channels=at["channels"], nodes=at["nodes"], k=2
            )
            x = networks.images(at["batch"], at["size"], settings.device)
            cases[value] = networks.training_step(model.to(settings.device), x)
        timings = measure.interleaved(cases, settings.rounds, settings.device)
        medians = [timings[value].median for value in values]
        found[axis] = {
            "seconds": dict(zip(values, medians, strict=True)),
            "exponent": measure.exponent(values, medians),
        }
    if settings.plot:
        _plot(found, settings.plot)
    return found


def _plot(found: dict, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(13, 3.2), sharey=True)
    for axis, (name, each) in zip(axes, found.items(), strict=True):
        axis.loglog(list(each["seconds"]), list(each["seconds"].values()), "o-")
        axis.set_title(f"{name}: exponent {each['exponent']:.2f}")
        axis.set_xlabel(name)
        axis.set_xticks(list(each["seconds"]), [str(value) for value in each["seconds"]])
        axis.set_xticks([], minor=True)
        axis.grid(which="both", alpha=0.3)
    axes[0].set_ylabel("training step, seconds")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    print(f"{path} is written", file=sys.stderr)
