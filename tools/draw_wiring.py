#!/usr/bin/env python3
"""Draw the wiring of a sampled network, or of the one in a checkpoint or a spec's JSON file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det import UsageError
from randwire_det.run import cli
from randwire_det.spec.draw import draw_network


def parse_args():
    parser = cli.parser(
        __doc__, "python tools/draw_wiring.py --k 4 --p 0.75 --seed 1 --output wiring.png"
    )
    cli.add_network_arguments(parser)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--spec", help="draw the network in this file (.json or .pth) instead")
    parser.add_argument("--output", default="wiring.png", help=".png, .svg or .pdf")
    return parser.parse_args()


def main():
    args = parse_args()
    if Path(args.output).suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--output {args.output}: expected a name that ends in .png, .svg or .pdf")
    if args.spec:
        with cli.quiet_imports():
            from randwire_det.config.network_keys import (
                read_spec,  # reads checkpoints, so it needs torch
            )

        spec = read_spec(args.spec)
    else:
        spec = cli.network_from_arguments(args, args.seed)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    draw_network(spec, args.output, args.input_size)
    print(f"{args.output}: {spec.describe()}")


if __name__ == "__main__":
    cli.run(main)
