#!/usr/bin/env python3
"""Train or evaluate a detector with a RandWire backbone, as detectron2's own train_net does."""

import argparse
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.errors import UsageError
from randwire_det.run import cli
from randwire_det.run.launch import launch, reported_once, restarted
from randwire_det.sweep import submit

EXAMPLE = """python tools/train_net.py --config-file faster_rcnn_randwire_c109.yaml --num-gpus 8 \\
      MODEL.WEIGHTS output/pretrain/model_final.pth OUTPUT_DIR output/faster_rcnn"""
logger = logging.getLogger("randwire_det.train_net")


def make_parser() -> argparse.ArgumentParser:
    """The options of detectron2's `default_argument_parser`, without its import, which is slow."""
    parser = cli.parser(__doc__, EXAMPLE)
    parser.allow_abbrev = True  # as there
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="a file, or the name of a shipped one, such as faster_rcnn_randwire_c109.yaml",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in OUTPUT_DIR, if there is one",
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine")
    parser.add_argument("--num-machines", type=int, default=1, help="that train together")
    parser.add_argument("--machine-rank", type=int, default=0, help="of this machine, from 0")
    port = 2**15 + 2**14 + hash(os.getuid()) % 2**14
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        help="where the processes of several machines meet",
    )
    parser.add_argument("--slurm", metavar="KEY=VALUE,...", help=submit.HELP)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, as in the config")
    return parser


def build_config(args):
    from randwire_det.detection.config import read_config

    cfg = read_config(args.config_file, args.opts)
    cfg.MODEL.DEVICE = cli.choose_device(cfg.MODEL.DEVICE, logger)
    cfg.freeze()
    return cfg


def submit_job(args) -> int:
    from randwire_det.detection.config import read_config

    if args.num_machines > 1:
        raise UsageError("--slurm: takes one machine; several by torchrun in a job of your own")
    output = Path(read_config(args.config_file, args.opts).OUTPUT_DIR)
    return submit.submit(
        args.slurm, output, processes=args.num_gpus, resuming=args.resume or args.eval_only
    )


def main() -> int | None:
    args = make_parser().parse_args()
    with cli.quiet_imports():
        from randwire_det.config.files import config_path
        from randwire_det.detection import commands
        from randwire_det.detection.processes import introduce
        from randwire_det.run.parallel import joined

    if args.slurm:
        return submit_job(args)
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
