#!/usr/bin/env python3
"""Train a RandWire classifier on class folders, DATA.ROOT/{train,val}/<class>/<image>."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pretrain.config import get_cfg
from randwire_det import cli
from randwire_det.config_files import merge_config


def parse_args():
    parser = cli.parser(
        __doc__,
        "python tools/pretrain_imagenet.py --config-file pretrain/randwire_ws_c109.yaml"
        " DATA.ROOT datasets/imagenet MODEL.SEED 2 OUTPUT_DIR output/c109_seed2",
    )
    parser.add_argument(
        "--config-file",
        required=True,
        default=argparse.SUPPRESS,
        metavar="YAML",
        help="a file, or the name of a shipped one, such as pretrain/randwire_ws_c109.yaml",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from OUTPUT_DIR/checkpoint_last.pth"
    )
    parser.add_argument(
        "--eval-only",
        action="store_true",
        help="test MODEL.WEIGHTS, or with --resume its checkpoint",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY VALUE",
        help="config keys to change; all of them stand in pretrain/config.py",
    )
    return parser.parse_intermixed_args()


def main():
    args = parse_args()
    cfg = get_cfg()
    merge_config(cfg, args.config_file, args.overrides)
    cfg.freeze()
    from pretrain import commands  # takes seconds; a wrong config is told at once

    command = commands.evaluate_only if args.eval_only else commands.train
    command(cfg, resuming=args.resume)


if __name__ == "__main__":
    cli.run(main)
