"""Tables of peak memory, each network in a process of its own."""

from . import measure, networks
from .settings import Settings, byte_table

INFERENCES = ((1, (224, 224)), (8, (224, 224)), (1, (800, 1088)), (8, (800, 1088)))


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


def _at(settings: Settings) -> dict:
    return {
        "channels": settings.channels,
        "device": settings.device,
        "threads": settings.threads,
    }
