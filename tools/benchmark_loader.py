#!/usr/bin/env python3
"""Measure how fast the training images of a config are read, and how many workers a rate takes."""

import itertools
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pretrain.arguments import add_config_arguments
from randwire_det.errors import UsageError
from randwire_det.run import cli


def parse_args():
    parser = cli.parser(
        __doc__,
        "python tools/benchmark_loader.py --config-file pretrain/randwire_ws_c109.yaml"
        " --rate 3000 --workers 1,8,16 DATA.ROOT datasets/imagenet",
    )
    add_config_arguments(parser)
    parser.add_argument("--rate", type=float, default=3000, help="to feed, images/s")
    parser.add_argument(
        "--seconds", type=float, default=10, help="to measure each number of workers"
    )
    parser.add_argument(
        "--workers",
        type=cli.several(int),
        default="0,1,2,4",
        metavar="N,N,...",
        help="numbers of them to measure",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    args = parser.parse_intermixed_args()
    for option, value in (("--rate", args.rate), ("--seconds", args.seconds)):
        if not value > 0:
            raise UsageError(f"{option} {value}: expected a number above 0")
    if min(args.workers) < 0:
        raise UsageError(f"--workers {min(args.workers)}: expected numbers such as 0,1,2,4")
    return args


def main():
    args = parse_args()
    with cli.quiet_imports():
        from pretrain.config import check, read_config
    cfg = read_config(args)
    check(cfg)
    from pretrain.data import open_data  # takes seconds; a wrong config is reported first

    train_data, _ = open_data(cfg)
    batch_size = min(cfg.SOLVER.BATCH_SIZE, len(train_data))
    scan_seconds, index_seconds = time_start(train_data.root)
    rates = {
        workers: images_per_second(train_data, batch_size, workers, cfg.DATA.PREFETCH, args.seconds)
        for workers in args.workers
    }
    cores = os.cpu_count()
    # Past the number of cores, workers share them. Without a worker nothing is sent from one
    # process to another, which takes time of its own, so that rate counts only where it is alone.
    shares = {workers: rate / min(max(workers, 1), cores) for workers, rate in rates.items()}
    per_worker = max([rate for workers, rate in shares.items() if workers] or shares.values())
    result = {
        "folder": train_data.root,
        "images": len(train_data),
        "size": cfg.INPUT.SIZE,
        "batch_size": batch_size,
        "scan_seconds": scan_seconds,
        "index_seconds": index_seconds,
        "images_per_second": rates,
        "cores": cores,
        "rate": args.rate,
        "estimated_workers": math.ceil(args.rate / per_worker),
    }
    print(json.dumps(result, indent=1) if args.json else as_text(result))


def time_start(root: str) -> tuple[float, float | None]:
    """Seconds to list the images of `root` by going through it, and from an index of them.

    None stands for an index that was not kept, as the folders have just changed.
    """
    from pretrain.folders import ImageIndex

    with tempfile.TemporaryDirectory() as folder:
        index = ImageIndex(folder)
        seconds = []
        for _ in range(2):
            since = time.perf_counter()
            index.images(root)
            seconds.append(time.perf_counter() - since)
        return seconds[0], seconds[1] if os.listdir(folder) else None


def images_per_second(dataset, batch_size: int, workers: int, prefetch: int, seconds: float):
    """The rate of the training loader over at least `seconds` and a batch, after a warm-up."""
    from pretrain.data import Loader, epoch_plan

    def plan():
        for epoch in itertools.count():
            images = epoch_plan(len(dataset), 0, epoch)
            for first in range(0, len(images) - batch_size + 1, batch_size):
                yield images[first : first + batch_size]

    batches = Loader(dataset, workers=workers, prefetch=prefetch)(plan())
    for _ in range(1 + workers * prefetch):  # what was read ahead while the workers started
        next(batches)
    images, since = 0, time.perf_counter()
    while images == 0 or time.perf_counter() - since < seconds:
        images += len(next(batches).labels)
    return images / (time.perf_counter() - since)


def as_text(result: dict) -> str:
    index = result["index_seconds"]
    from_index = "not kept: a folder changed just now" if index is None else f"{index:.2f} s"
    lines = [
        f"{result['folder']}: {result['images']} images, in batches of {result['batch_size']} crops"
        f" of {result['size']} x {result['size']} pixels",
        f"start: {result['scan_seconds']:.2f} s to go through the folders, which the system may"
        f" have cached; from the index {from_index}",
        f"{'workers':>8} {'images/s':>10}",
    ]
    lines += [f"{each:>8} {rate:>10.0f}" for each, rate in result["images_per_second"].items()]
    lines.append(
        f"{result['rate']:g} images/s would take {result['estimated_workers']} worker(s), by an"
        f" estimate from the best rate of one, and as many cores; here are {result['cores']}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
