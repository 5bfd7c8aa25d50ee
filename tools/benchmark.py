#!/usr/bin/env python3
"""Measure RandWire beside ResNet-50: inference, training, memory, detection, whole processes.

All of a table is taken in turn in one process, and counts as ratios; memory is measured in a
process for each network. On a CUDA machine the same code uses the GPU's events and counters.
"""

import importlib
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.errors import UsageError
from randwire_det.run import cli

# What can be measured, and the module of `randwire_det.benchmark` that has it.
WHAT = {
    "forward": "classifiers",
    "train": "classifiers",
    "amp": "classifiers",
    "latency": "classifiers",
    "small": "classifiers",
    "miniature": "classifiers",
    "memory": "peaks",
    "inference_memory": "peaks",
    "order": "peaks",
    "detect": "detectors",
    "predict": "detectors",
    "build": "processes",
    "startup": "processes",
    "growth": "growth",
    "loader": None,  # of pretraining: below
}


def parse_args():
    parser = cli.parser(__doc__, "python tools/benchmark.py --what forward,train,memory")
    parser.add_argument("--what", default="forward,train,memory,detect,build", help=", ".join(WHAT))
    parser.add_argument("--rounds", type=int, default=7, help="of each case; the median counts")
    parser.add_argument("--batch", type=int, default=8, help="images")
    parser.add_argument("--size", type=int, default=224, help="height and width, pixels")
    parser.add_argument("--channels", type=int, default=109, help="C of Table 1")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the CPU")
    parser.add_argument("--device", default="cuda", help="or cpu; the CPU where there is no CUDA")
    parser.add_argument("--compile", action="store_true", help="torch.compile, too: takes minutes")
    parser.add_argument("--plot", metavar="PNG", help="where the picture of the growth goes")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    args = parser.parse_args()
    args.what = args.what.split(",")
    for what in args.what:
        if what not in WHAT:
            raise UsageError(f"--what {what}: expected some of {','.join(WHAT)}")
    for name in ("rounds", "batch", "size", "channels", "threads"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} {getattr(args, name)}: expected 1 or more")
    if args.plot is not None:
        path = Path(args.plot)
        if "growth" not in args.what or path.suffix != ".png" or not path.parent.is_dir():
            raise UsageError(
                f"--plot {path}: expected a .png in a folder that exists, and growth in --what"
            )
    return args


def main():
    args = parse_args()
    import logging

    import torch

    args.device = cli.choose_device(args.device, logging.getLogger("benchmark"))
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    result = {"machine": machine(args)}
    if not args.json:
        print("\n".join(f"{key}: {value}" for key, value in result["machine"].items()))
    for what in args.what:
        print(f"measuring {what} ...", file=sys.stderr)
        result[what] = measured(what, args)
        if not args.json:
            print("\n".join(as_text(what, result[what])), flush=True)
    if args.json:
        print(json.dumps(result, indent=1))


def machine(args) -> dict:
    import torch
    import torchvision

    return {
        "processor": _processor(args.device),
        "threads": args.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "settings": f"C={args.channels}, WS(4, 0.75) seed 1, batch {args.batch},"
        f" {args.size} x {args.size}, fp32, {args.rounds} rounds",
    }


def _processor(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if "model name" in line), "CPU")


def measured(what: str, args) -> dict:
    from randwire_det.benchmark.settings import Settings

    module = WHAT[what]
    if module is None:
        return loader(args)
    settings = Settings(**{name: getattr(args, name) for name in Settings._fields})
    return getattr(importlib.import_module(f"randwire_det.benchmark.{module}"), what)(settings)


def loader(args) -> dict:
    """Images a second that training images are read at, from JPEGs of noise, by workers."""
    import numpy as np
    from benchmark_loader import images_per_second
    from PIL import Image

    from pretrain.config import get_cfg
    from pretrain.data import open_data

    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for part in ("train", "val"):
            (Path(folder) / part / "noise").mkdir(parents=True)
            for number in range(64):
                coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
                coarse.resize((500, 375)).save(f"{folder}/{part}/noise/{number}.jpg", quality=90)
        cfg = get_cfg()
        cfg.DATA.ROOT, cfg.DATA.INDEX_DIR = folder, f"{folder}/index"
        data, _ = open_data(cfg)
        return {
            f"{workers} workers": images_per_second(data, 32, workers, 2, 4.0)
            for workers in (0, 1, args.threads)
        }


def as_text(what: str, content: dict) -> list[str]:
    lines = ["", what]
    for name, row in content.get("rows", {}).items():
        cells = "  ".join(f"{key} {value:.3f}" for key, value in row.items())
        lines.append(f"  {name:38s} {cells}")
    return lines + [f"  {key}: {_short(each)}" for key, each in content.items() if key != "rows"]


def _short(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(each)}" for key, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    cli.run(main)
