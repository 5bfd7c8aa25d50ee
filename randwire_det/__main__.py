"""`python -m randwire_det`: what a report of a bug needs, as text to be pasted."""

import importlib.util
import os
import platform
from importlib import metadata
from pathlib import Path

from . import __version__

PACKAGES = (
    *("torch", "torchvision", "detectron2", "fvcore", "numpy", "networkx", "pycocotools", "pillow"),
    *("matplotlib", "supervision", "submitit", "optuna", "timm"),
)
VARIABLES = ("DETECTRON2_DATASETS", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "WORLD_SIZE")


def facts() -> dict[str, str]:
    """What may matter for a report, by name."""
    found = {
        "randwire_det": f"{__version__}, in {Path(__file__).parent}",
        "python": f"{platform.python_version()} on {platform.platform()}",
        "processors": f"{os.cpu_count()}",
    }
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    found |= _detectron2_ops() | _cuda()
    return found | {name: os.environ.get(name, "not set") for name in VARIABLES}


def _detectron2_ops() -> dict[str, str]:
    """Without them, rotated boxes and deformable convolution do not work."""
    found = importlib.util.find_spec("detectron2")
    folders = found.submodule_search_locations if found else []
    compiled = any(list(Path(folder).glob("_C*.so")) for folder in folders)
    return {"detectron2's compiled ops": "present" if compiled else "none"}


def _cuda() -> dict[str, str]:
    try:
        import torch
    except ImportError as error:
        return {"CUDA": f"torch cannot be imported: {error}"}
    if not torch.cuda.is_available():
        return {"CUDA": f"none available; torch is built for {torch.version.cuda or 'CPUs'}"}
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    versions = f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return {"CUDA": f"{versions}: {', '.join(names)}"}


if __name__ == "__main__":
    print("\n".join(f"{name}: {value}" for name, value in facts().items()))
