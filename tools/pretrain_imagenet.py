#!/usr/bin/env python3
"""Train a RandWire classifier, or a baseline, on DATA.ROOT/{train,val}/<class>/<image>.

On several GPUs of one machine with --num-gpus, on several machines with torchrun. SIGTERM and
SIGINT finish the step, write a checkpoint and leave with status 75.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pretrain.arguments import add_config_arguments
from randwire_det.run import cli
from randwire_det.run.launch import launch, reported_once, restarted
from randwire_det.sweep import submit


def parse_args():
    parser = cli.parser(
        __doc__,
        "python tools/pretrain_imagenet.py --config-file pretrain/randwire_ws_c109.yaml"
        " DATA.ROOT datasets/imagenet MODEL.RANDWIRE.SEED 2 OUTPUT_DIR output/c109_seed2",
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in OUTPUT_DIR, if there is one",
    )
    parser.add_argument(
        "--eval-only",
        action="store_true",
        help="test MODEL.WEIGHTS, or with --resume the newest checkpoint",
    )
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        metavar="N",
        help="processes on this machine, one a GPU; without CUDA they share the CPU",
    )
    parser.add_argument("--slurm", metavar="KEY=VALUE,...", help=submit.HELP)
    return parser.parse_intermixed_args()


def main() -> int:
    args = parse_args()
    with cli.quiet_imports():
        from pretrain.config import read_config
    cfg = reported_once(lambda: read_config(args))
    if args.slurm:
        output, processes = Path(cfg.OUTPUT_DIR), args.num_gpus
        resuming = args.resume or args.eval_only
        return submit.submit(args.slurm, output, processes=processes, resuming=resuming)
    status = launch(args.num_gpus)
    if status is not None:
        return status
    with cli.quiet_imports():
        from pretrain import commands  # takes seconds; a wrong config is reported first
        from randwire_det.run.parallel import joined

    with joined() as world:
        if args.eval_only:
            commands.evaluate_only(cfg, resuming=args.resume, world=world)
            return 0
        return commands.train(cfg, resuming=args.resume or restarted(), world=world)


if __name__ == "__main__":
    cli.run(main)
