#!/usr/bin/env python3
"""Measure RandWire beside ResNet-50: inference, training, memory, detection, building, growth.

All of a table is taken in turn in one process, and counts as ratios; memory is measured in a
process for each network. On a CUDA machine the same code uses the GPU's events and counters.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.errors import UsageError
from randwire_det.run import cli

WHAT = ("forward", "train", "memory", "detect", "build", "growth", "loader")
GROWTH = {
    "nodes": (8, 16, 32, 64, 128),
    "channels": (16, 32, 64, 128),
    "batch": (1, 2, 4, 8, 16),
    "size": (64, 96, 128, 192, 256),
}
GROWTH_AT = {"nodes": 32, "channels": 32, "batch": 4, "size": 128}


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
        result[what] = globals()[what](args)
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


def forward(args) -> dict:
    """Seconds of an inference, and how far from the fastest large product the multiply-adds are."""

    import torch

    from randwire_det.benchmark import measure, networks
    from randwire_det.spec.complexity import complexity

    x = networks.images(args.batch, args.size, args.device)
    models = {name: calibrated(name, args, x) for name in (*networks.BASELINES, networks.RANDWIRE)}
    base = models[networks.RANDWIRE]
    models[networks.PLAIN] = calibrated(networks.PLAIN, args, x)
    models["RandWire, fuse()"] = base.fuse()
    models["RandWire, fuse(bfloat16)"] = base.fuse(torch.bfloat16)
    cases = {name: networks.forward(model, x) for name, model in models.items()}
    if args.compile:
        for name in ("ResNet-50", "RandWire, fuse()"):
            cases[f"{name}, compiled"] = networks.compiled_forward(models[name], x)
    products = measure.products(args.device)
    timings = measure.interleaved(
        cases | {name: call for name, (call, _) in products.items()}, args.rounds, args.device
    )
    rates = {name: macs / timings.pop(name).median for name, (_, macs) in products.items()}
    best, spec = max(rates.values()), base.trunk.spec
    macs = complexity(spec, args.size).macs * args.batch
    rows = table(timings, "ResNet-50")
    for name, row in rows.items():
        if name.startswith("RandWire"):
            row["over_limit"] = row["seconds"] * best / macs
    return {"rows": rows, "best_product": {"multiply_adds_per_second": best, "of": rates}}


def calibrated(name: str, args, x):
    from randwire_det.benchmark import networks

    model = networks.classifier(name, channels=args.channels).to(args.device)
    networks.calibrate(model, x)
    return model


def train(args) -> dict:
    """Seconds of forward and backward, in training mode."""
    from randwire_det.benchmark import measure, networks

    x = networks.images(args.batch, args.size, args.device)
    names = (*networks.BASELINES, networks.RANDWIRE, networks.LEAN, networks.PLAIN)
    models = {name: calibrated(name, args, x) for name in names}
    cases = {name: networks.training_step(model, x) for name, model in models.items()}
    if args.compile:
        import torch

        model = torch.compile(calibrated(networks.RANDWIRE, args, x))
        cases["RandWire, compiled"] = networks.training_step(model, x)
    timings = measure.interleaved(cases, args.rounds, args.device)
    rows = table(timings, "ResNet-50")
    rows[networks.LEAN]["over_standard"] = (
        timings[networks.LEAN].median / timings[networks.RANDWIRE].median
    )
    return {"rows": rows}


def memory(args) -> dict:
    """Peak bytes of a training step, weights and gradients included, each in its own process."""
    from randwire_det.benchmark import measure, networks

    settings = {"batch": args.batch, "size": args.size, "channels": args.channels}
    settings |= {"device": args.device, "threads": args.threads}
    names = (*networks.BASELINES, networks.RANDWIRE, networks.LEAN, networks.PLAIN)
    peaks = {name: measure.peak_memory(name, **settings) for name in names}
    return {"rows": _bytes(peaks, "ResNet-50")}


def _bytes(peaks: dict, baseline: str) -> dict:
    return {name: {"MB": n / 1e6, "ratio": n / peaks[baseline]} for name, n in peaks.items()}


def detect(args) -> dict:
    """A training step of Faster R-CNN, C=109, FrozenBN, FREEZE_AT 2, 2 images of 512 x 512."""
    from randwire_det.benchmark import measure, networks

    cases = {name: networks.detection_step(name, args.device) for name in networks.DETECTORS}
    timings = measure.interleaved(cases, args.rounds, args.device)
    rows = table(timings, next(iter(cases)))
    settings = {"device": args.device, "threads": args.threads}
    peaks = {name: measure.peak_memory(name, **settings) for name in cases}
    for name, peak in _bytes(peaks, next(iter(cases))).items():
        rows[name] |= {"peak_MB": peak["MB"], "peak_ratio": peak["ratio"]}
    return {"rows": rows}


def build(args) -> dict:
    """A fresh process that imports, samples and builds; and networks sampled and counted."""
    from randwire_det.benchmark import measure

    code = (
        "import time; begun = time.perf_counter()\n"
        "from randwire_det import generate\n"
        "from randwire_det.network import RandWireClassifier\n"
        f"spec = generate('ws', seed=1, regime='regular', channels={args.channels}, k=4, p=0.75)\n"
        "RandWireClassifier(spec); print(time.perf_counter() - begun)"
    )
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(3)
    ]
    specs = list(measure.specs_generated(3.0, args.channels))
    return {
        "import_generate_build_seconds": sorted(seconds)[1],
        "specs_generated_and_counted_per_second": len(specs) / sum(specs),
    }


def growth(args) -> dict:
    """Seconds of a training step over N, C, batch and image size, one of them at a time."""
    from randwire_det.benchmark import measure, networks

    found = {}
    for axis, values in GROWTH.items():
        cases = {}
        for value in values:
            at = GROWTH_AT | {axis: value}
            # K=2, since conv2 has but four of eight nodes
            model = networks.classifier(networks.RANDWIRE, at["channels"], at["nodes"], k=2)
            x = networks.images(at["batch"], at["size"], args.device)
            cases[value] = networks.training_step(model.to(args.device), x)
        timings = measure.interleaved(cases, args.rounds, args.device)
        medians = [timings[value].median for value in values]
        found[axis] = {
            "seconds": dict(zip(values, medians, strict=True)),
            "exponent": measure.exponent(values, medians),
        }
    if args.plot:
        plot_growth(found, args.plot)
    return found


def plot_growth(found: dict, path: str) -> None:
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


def table(timings: dict, baseline: str) -> dict:
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
