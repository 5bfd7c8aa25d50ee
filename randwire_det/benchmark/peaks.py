"""Tables of peak memory, each network in a process of its own."""

from . import measure, networks
from .settings import Settings, byte_table

LARGE = (800, 1088)  # of a detector's pictures
INFERENCES = ((1, (224, 224)), (8, (224, 224)), (1, LARGE), (8, LARGE))
NETWORKS = (("small", 78), ("regular", 109), ("regular", 154))  # the paper's: regime and C


def memory(settings: Settings) -> dict:
    """Peak bytes of a training step, weights and gradients included."""
    names = (*networks.BASELINES, networks.RANDWIRE, networks.LEAN, networks.PLAIN)
    at = _at(settings) | {"what": "training", "batch": settings.batch, "size": settings.size}
    peaks = {name: measure.peak_memory(name, **at) for name in names}
    return {"rows": byte_table(peaks, networks.RESNET)}


def inference_memory(settings: Settings) -> dict:
    """Peak bytes of an inference, weights included: a classifier's at batch 1 and 8, at 224 x 224
    and at the size of a detector's pictures."""
    rows = {}
    for batch, size in INFERENCES:
        at = _at(settings) | {"what": "inference", "batch": batch, "size": size}
        peaks = {
            name: measure.peak_memory(name, **at)
            for name in (networks.RESNET, networks.RANDWIRE, networks.FUSED)
        }
        where = f"batch {batch}, {size[0]} x {size[1]}"
        rows |= {
            f"{where}: {name}": row for name, row in byte_table(peaks, networks.RESNET).items()
        }
    return {"rows": rows}


def order(settings: Settings) -> dict:
    """Peak bytes of an inference of one large picture, weights included, with the nodes of stages
    by their indices and in their best order: the paper's networks, seeds 1 to 5."""
    rows = {}
    for regime, channels in NETWORKS:
        for seed in range(1, 6):
            of = {"regime": regime, "channels": channels, "seed": seed}
            at = _at(settings) | of | {"what": "inference", "batch": 1, "size": LARGE}
            by_index, best = (
                measure.peak_memory(name, **at) for name in (networks.BY_INDEX, networks.FUSED)
            )
            rows[f"C={channels}, seed {seed}"] = {
                "by index, MB": by_index / 1e6,
                "best, MB": best / 1e6,
                "ratio": best / by_index,
            }
    return {"rows": rows}


def _at(settings: Settings) -> dict:
    return {
        "channels": settings.channels,
        "device": settings.device,
        "threads": settings.threads,
    }
