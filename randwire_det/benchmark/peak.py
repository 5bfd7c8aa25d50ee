"""The peak of one step: `python -m randwire_det.benchmark.peak CASE SETTINGS`, as JSON."""

import ctypes
import json
import sys
from pathlib import Path

import torch

from ..benchmark import networks


def main(case: str, settings: str) -> None:
    options = json.loads(settings)
    device, threads = options.pop("device", "cpu"), options.pop("threads", None)
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    before = reset(device)
    if case in networks.DETECTORS:
        step = networks.detection_step(case, device, **options)
    else:
        what, batch, size = (options.pop(key) for key in ("what", "batch", "size"))
        model = networks.classifier(case, **options).to(device)
        make = networks.training_step if what == "training" else networks.forward
        step = make(model, networks.images(batch, size, device))
    reset(device)  # a fused copy and its original are not in memory together later
    step()
    print(json.dumps({"bytes": peak(device) - before}))


def reset(device: str) -> int:
    """Reset the peak.

    Returns:
        bytes in use now.
    """
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # Exclude what libraries load at their first use.
    warm = torch.randn(8, 64, 32, 32).requires_grad_()
    torch.nn.functional.conv2d(warm, torch.randn(64, 64, 3, 3)).sum().backward()
    del warm
    ctypes.CDLL(None).malloc_trim(0)  # freed memory, such as that of a fused copy's original
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak(device: str) -> int:
    """Bytes at the peak since `reset`."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
