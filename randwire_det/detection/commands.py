"""What tools/train_net.py runs, from config to result: `train` and `evaluate_only`."""

import logging
import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from ..coco.datasets import register_coco_datasets
from ..errors import UserError
from ..run.checkpoint import Checkpoint
from ..run.files import replace_file
from ..run.folder import locked
from ..run.parallel import ALONE, World
from ..tables.detection import TESTED, TRACES
from .card import write_model_card
from .checks import builds_randwire, check_data, check_run, report_other_test
from .results import report_evaluation
from .trainer import RandWireTrainer, build_checkpointer, evaluate
from .values import check_same_config

logger = logging.getLogger(__name__)


def train(
    cfg: CfgNode, *, resuming: bool = False, world: World = ALONE, arguments: object = None
) -> None:
    """Train a detector, write its weights to OUTPUT_DIR/model_final.pth, and report on it.

    Args:
        arguments: of the command line, for the log.

    Raises:
        UserError: bad input. Nothing is written if it is found before training starts.
        AskedToStop: the run was asked to stop, and has written a checkpoint.
    """
    with ExitStack() as stack:
        checkpoint = _begin(cfg, world, stack, arguments, resuming=resuming, eval_only=False)
        warn_of_warm_up(cfg)
        trainer = RandWireTrainer(cfg)
        if not checkpoint:
            warn_of_random_weights(cfg)
        world.together(partial(trainer.resume_or_load, resuming, checkpoint))
        del checkpoint  # frees as much memory as the model and its optimizer take
        world.first_does(lambda: _write_config(cfg))
        logger.info(f"Training to iteration {trainer.max_iter}; output goes to {cfg.OUTPUT_DIR}")
        world.together(lambda: _train(trainer))
        world.first_does(lambda: write_model_card(trainer))
        if cfg.TEST.REPORT:
            world.first_does(lambda: report_evaluation(cfg))


def evaluate_only(
    cfg: CfgNode, *, resuming: bool = False, world: World = ALONE, arguments: object = None
) -> None:
    """Evaluate a detector: MODEL.WEIGHTS, or OUTPUT_DIR's newest checkpoint if resuming."""
    with ExitStack() as stack:
        checkpoint = _begin(cfg, world, stack, arguments, resuming=resuming, eval_only=True)
        model = RandWireTrainer.build_model(cfg)
        checkpointer = build_checkpointer(cfg, model, eval_only=True)
        rest = world.together(partial(checkpointer.take, checkpoint))
        iteration = rest["iteration"] + 1 if "iteration" in rest else None
        weights, trained_with = checkpoint.path, checkpoint.config
        del checkpoint, rest  # several times as large as the model
        world.first_does(lambda: _write_config(cfg, tested=True))
        world.together(lambda: evaluate(cfg, model, weights, iteration, trained_with))
        if cfg.TEST.REPORT:
            world.first_does(lambda: report_evaluation(cfg))


def _begin(
    cfg: CfgNode, world: World, stack: ExitStack, arguments, *, resuming: bool, eval_only: bool
) -> Checkpoint | None:
    """Check everything that can be checked before the run writes anything, then lock OUTPUT_DIR
    and log to it.

    Returns:
        the checkpoint of `check_run`.
    """
    register_coco_datasets(cfg, os.environ.get("DETECTRON2_DATASETS", "datasets"))
    world.together(lambda: check_same_config(cfg, world))
    checkpoint = world.together(lambda: check_run(cfg, resume=resuming, eval_only=eval_only))
    world.first_does(lambda: stack.enter_context(locked(Path(cfg.OUTPUT_DIR))))
    for name in ("randwire_det", "detectron2", "fvcore"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=world.rank, name=name)
    world.first_does(lambda: check_data(cfg, eval_only=eval_only))
    if eval_only:
        world.first_does(lambda: report_other_test(checkpoint, cfg))
    _set_up(cfg, world, arguments)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not eval_only
    torch.set_flush_denormal(True)  # arithmetic on denormals is ten times slower on a CPU
    return checkpoint


def _set_up(cfg: CfgNode, world: World, arguments) -> None:
    """detectron2's `default_setup`, but config.yaml is left to `_write_config`."""
    logger.info(f"Environment info:\n{collect_env_info()}")
    logger.info(f"Command line arguments: {arguments}")
    logger.info(f"Running with full config:\n{cfg.dump()}")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + world.rank)


def _write_config(cfg: CfgNode, *, tested: bool = False) -> None:
    """Only once the run is sure to begin: a refused one leaves that of an earlier run.

    An evaluation leaves a training's config.yaml, too: it may have other keys.
    """
    output, text = Path(cfg.OUTPUT_DIR), cfg.dump().encode()
    (output / TESTED).unlink(missing_ok=True)
    trained = any((output / name).exists() for name in TRACES)
    name = TESTED if tested and trained else "config.yaml"
    (output / name).parent.mkdir(exist_ok=True)
    replace_file(output / name, lambda file: file.write(text))


def warn_of_warm_up(cfg: CfgNode) -> None:
    warm_up, length = cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.MAX_ITER
    if warm_up >= length > 0:
        logger.warning(
            f"SOLVER.WARMUP_ITERS {warm_up} of MAX_ITER {length}: all of it is warm-up, and the"
            " learning rate never reaches BASE_LR"
        )


def warn_of_random_weights(cfg: CfgNode) -> None:
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


def _train(trainer: RandWireTrainer) -> None:
    cfg = trainer.cfg
    try:
        trainer.train()
    except FloatingPointError:
        raise UserError(
            f"training diverged after iteration {trainer.iter}: lower SOLVER.BASE_LR"
            f" {cfg.SOLVER.BASE_LR}; the checkpoints in {cfg.OUTPUT_DIR} are as they were"
        ) from None
