"""The two things tools/pretrain_imagenet.py does, each put together here from config to result."""

from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from randwire_det import cli
from randwire_det.checkpoint import check_same_preprocessing, load_checkpoint
from randwire_det.complexity import complexity
from randwire_det.errors import UsageError, UserError
from randwire_det.spec_config import spec_from_config

from . import data, recipe, resume
from .config import check, test_size
from .engine import Trainer, evaluate
from .log import accuracy, logger, logging_to


def train(cfg: CfgNode, *, resuming: bool = False) -> None:
    """Train the network of `cfg`; its weights are in OUTPUT_DIR/model_final.pth at the end.

    Raises:
        UserError: what a user can mend. Nothing is written when it shows before the training.
    """
    check(cfg)
    if cfg.MODEL.WEIGHTS:
        raise UsageError("MODEL.WEIGHTS is for --eval-only: training starts anew, or with --resume")
    spec, output = spec_from_config(cfg.MODEL), Path(cfg.OUTPUT_DIR)
    checkpoint = resume.find_checkpoint(output, resuming)
    train_data, val_data = data.train_set(cfg), data.val_set(cfg)
    folders = [str(Path(cfg.DATA.ROOT) / split) for split in ("train", "val")]
    data.check_same_classes(folders[0], train_data.classes, folders[1], val_data.classes)
    if len(train_data) < cfg.SOLVER.BATCH_SIZE:
        raise UsageError(
            f"SOLVER.BATCH_SIZE {cfg.SOLVER.BATCH_SIZE}: {folders[0]} holds only"
            f" {len(train_data)} images"
        )
    if checkpoint is not None:
        path, images = output / resume.LAST, len(train_data)
        resume.check_same_run(path, checkpoint, cfg, spec, train_data.classes, images)
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    except OSError as error:
        raise UserError(f"OUTPUT_DIR {output}: {error.strerror}") from None

    with logging_to(output):
        device = _device(cfg)
        trainer = Trainer(cfg, spec, train_data, val_data, device)
        _describe(trainer)
        if checkpoint is not None:
            trainer.restore(checkpoint)
            logger.info(f"resume   {path}, after epoch {trainer.state['epoch']}")
        elif resuming:
            logger.info(f"resume   {output} holds no {resume.LAST}: starting from scratch")
        trainer.run()
        final = output / resume.FINAL
        logger.info(f"done     {accuracy(trainer.state)}, weights in {final}; to use them:")
        logger.info(f"MODEL.WEIGHTS {final}")


def evaluate_only(cfg: CfgNode, *, resuming: bool = False) -> dict[str, float]:
    """Evaluate MODEL.WEIGHTS, or when resuming the last checkpoint of OUTPUT_DIR, and print it.

    Returns:
        {"top1", "top5"}, in percent.
    """
    check(cfg)
    if bool(cfg.MODEL.WEIGHTS) == resuming:  # neither, or both
        raise UsageError("--eval-only needs either MODEL.WEIGHTS <checkpoint> or --resume")
    path = Path(cfg.OUTPUT_DIR) / resume.LAST if resuming else Path(cfg.MODEL.WEIGHTS)
    spec, preprocessing = spec_from_config(cfg.MODEL), recipe.preprocessing_from_cfg(cfg)
    checkpoint = load_checkpoint(path)
    resume.check_same_network(path, checkpoint, spec)
    check_same_preprocessing(
        checkpoint["preprocessing"], preprocessing, path, recipe.PREPROCESSING_KEYS
    )
    val_data = data.val_set(cfg)
    val_folder = str(Path(cfg.DATA.ROOT) / "val")
    data.check_same_classes(str(path), checkpoint["classes"] or [], val_folder, val_data.classes)

    with logging_to(None):
        device = _device(cfg)
        model = recipe.build_model(cfg, spec, len(val_data.classes))
        resume.load_weights(path, checkpoint, model)
        model.to(device, memory_format=torch.channels_last)
        logger.info(f"network  {spec.describe()}")
        logger.info(f"weights  {path}")
        result = evaluate(
            model,
            data.Normalise(preprocessing).to(device),
            val_data,
            batch_size=cfg.SOLVER.BATCH_SIZE,
            workers=cfg.DATA.NUM_WORKERS,
        )
        size = test_size(cfg)
        logger.info(f"done     {accuracy(result)} on {len(val_data)} images, {size} x {size}")
    return result


def _device(cfg: CfgNode) -> str:
    device = cli.choose_device(cfg.DEVICE, logger)
    if device == "cpu":
        # Arithmetic on vanishing activations is over ten times slower, and they matter to nobody.
        torch.set_flush_denormal(True)
    return device


def _describe(trainer: Trainer) -> None:
    """What is about to happen, before it takes days."""
    cfg, spec, size = trainer.cfg, trainer.spec, trainer.cfg.INPUT.SIZE
    classes, device = len(trainer.train_data.classes), trainer.device
    count = complexity(spec, size, classes, cfg.MODEL.HEAD_CHANNELS)
    name = (
        torch.cuda.get_device_name(device)
        if device != "cpu"
        else f"{torch.get_num_threads()} threads"
    )
    logger.info(
        f"network  {spec.describe()}; {count.params / 1e6:.2f} M parameters,"
        f" {count.macs / 1e6:.1f} M multiply-adds at {size} x {size}"
    )
    logger.info(
        f"data     {cfg.DATA.ROOT}: {len(trainer.train_data)} images to train on,"
        f" {len(trainer.val_data)} to test on, {classes} classes"
    )
    logger.info(f"device   {device}, {name}")
    logger.info(f"output   {trainer.output}")
    logger.info(
        f"plan     {cfg.SOLVER.EPOCHS} epochs of {trainer.epoch_length} iterations:"
        f" {trainer.total} of {cfg.SOLVER.BATCH_SIZE} images, learning rate up to"
        f" {recipe.peak_lr(cfg):g}"
    )
