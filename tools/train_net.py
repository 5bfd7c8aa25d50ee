#!/usr/bin/env python3
"""Train or evaluate a detector with a RandWire backbone, as detectron2's own train_net does."""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.run import cli

with cli.quiet_imports():
    from detectron2.engine import default_argument_parser

    from randwire_det.config.files import config_path
    from randwire_det.detection import commands
    from randwire_det.detection.config import read_config
    from randwire_det.detection.processes import introduce
    from randwire_det.run.launch import launch, reported_once, restarted
    from randwire_det.run.parallel import joined

EXAMPLE = """example:
  python tools/train_net.py --config-file faster_rcnn_randwire_c109.yaml --num-gpus 8 \\
      MODEL.WEIGHTS output/pretrain/model_final.pth OUTPUT_DIR output/faster_rcnn
"""
logger = logging.getLogger("randwire_det.train_net")


def build_config(args):
    cfg = read_config(args.config_file, args.opts)
    cfg.MODEL.DEVICE = cli.choose_device(cfg.MODEL.DEVICE, logger)
    cfg.freeze()
    return cfg


def parse_args():
    parser = default_argument_parser(EXAMPLE)
    parser.description = __doc__
    parser.formatter_class = cli.HelpFormatter
    return parser.parse_args()


def main() -> int | None:
    args = parse_args()
    cfg = reported_once(lambda: build_config(args))
    args.config_file = config_path(args.config_file)
    status = launch(args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
    if status is not None:
        return status
    with joined() as world:
        introduce(world)
        command = commands.evaluate_only if args.eval_only else commands.train
        command(cfg, resuming=args.resume or restarted(), world=world, arguments=args)


if __name__ == "__main__":
    cli.run(main)
