#!/usr/bin/env python3
"""Train or evaluate a detector with a RandWire backbone, as detectron2's own train_net does."""

import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det import UserError
from randwire_det.run import cli

with cli.quiet_imports():
    import torch
    from detectron2.engine import default_argument_parser
    from detectron2.utils import comm
    from detectron2.utils.collect_env import collect_env_info
    from detectron2.utils.env import seed_all_rng
    from detectron2.utils.logger import setup_logger

    from randwire_det.coco.datasets import register_coco_datasets
    from randwire_det.config.files import config_path
    from randwire_det.detection.checks import builds_randwire, check_data, check_run
    from randwire_det.detection.config import read_config
    from randwire_det.detection.processes import introduce
    from randwire_det.detection.results import report_evaluation
    from randwire_det.detection.trainer import RandWireTrainer, build_checkpointer, evaluate
    from randwire_det.detection.values import check_same_config
    from randwire_det.run.files import replace_file
    from randwire_det.run.folder import locked
    from randwire_det.run.launch import launch, restarted, told_once
    from randwire_det.run.parallel import World, joined

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


def start_logging(cfg) -> None:
    for name in ("randwire_det", "detectron2", "fvcore"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)


def set_up(args, cfg, world: World) -> None:
    """What detectron2's `default_setup` does; config.yaml is whole at any moment."""
    logger.info(f"Environment info:\n{collect_env_info()}")
    logger.info(f"Command line arguments: {args}")
    text = cfg.dump()
    logger.info(f"Running with full config:\n{text}")
    path = Path(cfg.OUTPUT_DIR, "config.yaml")
    world.first_does(lambda: replace_file(path, lambda file: file.write(text.encode())))
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + world.rank)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not args.eval_only


def train_or_test(args, cfg, world: World, stack: ExitStack) -> None:
    register_coco_datasets(cfg, os.environ.get("DETECTRON2_DATASETS", "datasets"))
    resuming = args.resume or restarted()
    world.together(lambda: check_same_config(cfg, world))
    weights = world.together(lambda: check_run(cfg, resume=resuming, eval_only=args.eval_only))
    world.first_does(lambda: stack.enter_context(locked(Path(cfg.OUTPUT_DIR))))
    start_logging(cfg)
    world.first_does(lambda: check_data(cfg, eval_only=args.eval_only))
    set_up(args, cfg, world)
    torch.set_flush_denormal(True)  # arithmetic on denormals is ten times slower on a CPU

    if args.eval_only:
        model = RandWireTrainer.build_model(cfg)
        rest = world.together(lambda: build_checkpointer(cfg, model, eval_only=True).load(weights))
        iteration = rest["iteration"] + 1 if "iteration" in rest else None
        world.together(lambda: evaluate(cfg, model, weights, iteration))
    else:
        trainer = RandWireTrainer(cfg)
        if not weights:
            warn_of_random_weights(cfg)
        world.together(lambda: trainer.resume_or_load(resume=resuming))
        logger.info(f"Training to iteration {trainer.max_iter}; output goes to {cfg.OUTPUT_DIR}")
        world.together(lambda: train(trainer))
    if cfg.TEST.REPORT:
        world.first_does(lambda: report_evaluation(cfg))


def warn_of_random_weights(cfg) -> None:
    node = "RANDWIRE" if builds_randwire(cfg) else "RESNETS"
    norm, freeze_at = cfg.MODEL[node].NORM, cfg.MODEL.BACKBONE.FREEZE_AT
    frozen = [f"MODEL.{node}.NORM {norm}"] if norm == "FrozenBN" else []
    frozen += [f"MODEL.BACKBONE.FREEZE_AT {freeze_at}"] if freeze_at > 0 else []
    advice = (
        " freezes random weights: a training from scratch takes NORM BN (or GN) and FREEZE_AT 0."
    )
    logger.warning(
        "MODEL.WEIGHTS is empty: training starts from random weights."
        + (" " + " and ".join(frozen) + advice if frozen else "")
    )


def train(trainer: RandWireTrainer) -> None:
    cfg = trainer.cfg
    try:
        trainer.train()
    except FloatingPointError:
        raise UserError(
            f"training diverged after iteration {trainer.iter}: lower SOLVER.BASE_LR"
            f" {cfg.SOLVER.BASE_LR}; the checkpoints in {cfg.OUTPUT_DIR} are as they were"
        ) from None


def parse_args():
    parser = default_argument_parser(EXAMPLE)
    parser.description = __doc__
    parser.formatter_class = cli.HelpFormatter
    return parser.parse_args()


def main() -> int | None:
    args = parse_args()
    cfg = told_once(lambda: build_config(args))
    args.config_file = config_path(args.config_file)
    status = launch(args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
    if status is not None:
        return status
    with joined() as world, ExitStack() as stack:
        introduce(world)
        train_or_test(args, cfg, world, stack)


if __name__ == "__main__":
    cli.run(main)
