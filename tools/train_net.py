#!/usr/bin/env python3
"""Train or evaluate a detector with a RandWire backbone, as detectron2's own train_net does."""

import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from detectron2.config import get_cfg
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from randwire_det import UsageError, cli
from randwire_det.config_files import config_path, merge_config
from randwire_det.detection import add_randwire_config
from randwire_det.detection.datasets import (
    add_coco_datasets_config,
    check_datasets,
    register_coco_datasets,
)
from randwire_det.detection.trainer import RandWireTrainer, build_checkpointer

EXAMPLE = """example:
  python tools/train_net.py --config-file faster_rcnn_randwire_c109.yaml --num-gpus 8 \\
      MODEL.WEIGHTS output/pretrain/model_final.pth OUTPUT_DIR output/faster_rcnn
"""
logger = logging.getLogger("randwire_det.train_net")


def build_config(args):
    cfg = get_cfg()
    add_randwire_config(cfg)
    add_coco_datasets_config(cfg)
    merge_config(cfg, args.config_file, args.opts)
    if args.eval_only and not args.resume and not cfg.MODEL.WEIGHTS:
        raise UsageError("--eval-only has nothing to evaluate: set MODEL.WEIGHTS, or add --resume")
    if args.num_gpus > 1 and torch.cuda.device_count() < args.num_gpus:
        raise UsageError(
            f"--num-gpus {args.num_gpus}: {torch.cuda.device_count()} CUDA devices are visible"
        )
    cfg.MODEL.DEVICE = cli.choose_device(cfg.MODEL.DEVICE, logger)
    cfg.freeze()
    return cfg


def main(args, cfg):
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="randwire_det")
    register_coco_datasets(cfg, os.environ.get("DETECTRON2_DATASETS", "datasets"))
    check_datasets([*(() if args.eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST])
    torch.set_flush_denormal(True)  # arithmetic on denormals is ten times slower on a CPU

    if args.eval_only:
        model = RandWireTrainer.build_model(cfg)
        checkpointer = build_checkpointer(cfg, model)
        resume = args.resume and checkpointer.has_checkpoint()
        checkpointer.load(checkpointer.get_checkpoint_file() if resume else cfg.MODEL.WEIGHTS)
        return RandWireTrainer.test(cfg, model)

    trainer = RandWireTrainer(cfg)
    if not cfg.MODEL.WEIGHTS and not (args.resume and trainer.checkpointer.has_checkpoint()):
        logger.warning(
            "MODEL.WEIGHTS is empty: training starts from random weights. NORM"
            f" {cfg.MODEL.RANDWIRE.NORM} and FREEZE_AT {cfg.MODEL.BACKBONE.FREEZE_AT} then apply"
            " to random weights too; BN (or GN) and 0 are what a training from scratch takes."
        )
    trainer.resume_or_load(resume=args.resume)
    logger.info(f"Training to iteration {trainer.max_iter}; output goes to {cfg.OUTPUT_DIR}")
    return trainer.train()


def run():
    parser = default_argument_parser(EXAMPLE)
    parser.description = __doc__
    parser.formatter_class = cli.HelpFormatter
    args = parser.parse_args()
    cfg = build_config(args)
    args.config_file = config_path(args.config_file)
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args, cfg),
    )


if __name__ == "__main__":
    cli.run(run)
