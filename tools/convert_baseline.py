#!/usr/bin/env python3
"""Make of a baseline's checkpoint the weights of a detectron2 ResNet.

Prints the config keys that go with them, to be pasted after detectron2's train_net.py.
"""

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det import UsageError, UserError
from randwire_det.run import cli


def parse_args():
    parser = cli.parser(
        __doc__,
        "python tools/convert_baseline.py output/pretrain/resnet50/model_final.pth"
        " --output output/resnet50.pth",
    )
    parser.add_argument(
        "weights", metavar="WEIGHTS", help="a baseline's checkpoint, of pretrain_imagenet.py"
    )
    parser.add_argument(
        "--output",
        required=True,
        default=argparse.SUPPRESS,
        metavar="FILE.pth",
        help="a new file; it has no default",
    )
    return parser.parse_args()


def main():
    args = parse_args()
    with cli.quiet_imports():
        from pretrain.baselines import detectron2_keys, to_detectron2
        from randwire_det.run.checkpoint import load_checkpoint, write_atomically

    if Path(args.output).suffix != ".pth":  # by which detectron2 knows how to read it
        raise UsageError(f"--output {args.output}: expected a name that ends in .pth")
    if Path(args.output).exists():
        raise UsageError(f"--output {args.output} exists already: name a new file, or remove it")
    checkpoint = load_checkpoint(args.weights, kinds=("baseline",))
    architecture, preprocessing = checkpoint.architecture, checkpoint.preprocessing
    try:
        resnet = detectron2_keys(**architecture)
        weights = to_detectron2(checkpoint.model, **architecture)
    except UserError as error:
        raise UserError(f"{args.weights}: {error}") from None
    content = {
        "model": weights,
        "matching_heuristics": True,  # detectron2 finds the names under "backbone.bottom_up."
        "architecture": architecture,
        "preprocessing": preprocessing.to_dict(),
    }
    write_atomically(args.output, content)
    keys = {
        "MODEL.WEIGHTS": args.output,
        **{f"MODEL.RESNETS.{key}": value for key, value in resnet.items()},
        "INPUT.FORMAT": preprocessing.channel_order,
        "MODEL.PIXEL_MEAN": list(preprocessing.mean),
        "MODEL.PIXEL_STD": list(preprocessing.std),
    }
    print(" \\\n".join(shlex.join([key, str(value)]) for key, value in keys.items()))


if __name__ == "__main__":
    cli.run(main)
