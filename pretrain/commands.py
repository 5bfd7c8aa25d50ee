"""What tools/pretrain_imagenet.py runs, from config to result: `train` and `evaluate_only`."""

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from randwire_det.errors import EXIT_STOPPED, UsageError, UserError
from randwire_det.run import cli
from randwire_det.run.checkpoint import check_same_preprocessing, load_checkpoint
from randwire_det.run.classes import check_same_classes
from randwire_det.run.files import replace_file
from randwire_det.run.folder import cut_lines, locked
from randwire_det.run.parallel import ALONE, World
from randwire_det.run.stopping import Stopping
from randwire_det.spec.complexity import Complexity, complexity
from randwire_det.spec.spec import NetworkSpec

from . import data, recipe, resume
from .baselines import baseline_complexity
from .card import write_model_card
from .config import check, test_size
from .engine import Trainer
from .evaluation import evaluate
from .log import accuracy, logger, logging_to


def train(cfg: CfgNode, *, resuming: bool = False, world: World = ALONE) -> int:
    """Train a classifier and write its weights to OUTPUT_DIR/model_final.pth.

    Returns:
        the exit status: 0, or `EXIT_STOPPED` if the run was asked to stop before its end.

    Raises:
        UserError: bad input. Nothing is written if it is found before training starts.
    """
    output = Path(cfg.OUTPUT_DIR)
    with ExitStack() as stack:
        stack.enter_context(logging_to(None, enabled=world.is_first))
        spec, train_data, val_data, (checkpoint, passed_over) = world.together(
            lambda: _prepare(cfg, resuming, world)
        )
        total = cfg.SOLVER.EPOCHS * (len(train_data) // cfg.SOLVER.BATCH_SIZE)
        saved = resume.Progress.of(checkpoint) if checkpoint else None
        start = saved.iteration if saved else 0
        if start == total and (output / resume.FINAL).exists():
            logger.info(f"done     {output} holds a finished run: nothing is left to do")
            return 0
        _check_same_start(output, start, world)

        def begin():
            stack.enter_context(locked(output))
            text = cfg.dump().encode()
            replace_file(output / "config.yaml", lambda file: file.write(text))
            stack.enter_context(logging_to(output))

        stopping = stack.enter_context(Stopping())
        world.first_does(begin)
        device = _device(cfg, world)
        trainer = Trainer(cfg, spec, train_data, val_data, device, world, stopping)
        if world.is_first:
            _describe(trainer)
        for problem in passed_over:
            logger.warning(f"passed over: {problem}")
        if checkpoint is not None:
            world.together(partial(trainer.restore, checkpoint))
            logger.info(f"resume   {checkpoint.path}, after iteration {start} of {total}")
            if saved.processes != world.size:
                logger.info(
                    f"resume   that was with {saved.processes} processes: sums differ in rounding"
                )
            del checkpoint  # frees as much memory as the model and its optimizer take
        elif resuming:
            logger.info(f"resume   {output} holds no checkpoint: starting from scratch")
        if not trainer.run():
            reason = stopping.agreed_reason(world)
            logger.info(f"stopped  by {reason}; {resume.checkpoints(output)[0]} is written")
            logger.info("         --resume continues from there")
            return EXIT_STOPPED
        final = output / resume.FINAL
        logger.info(
            f"done     {accuracy(vars(trainer.progress))}, weights in {final}; to use them:"
        )
        logger.info(f"MODEL.WEIGHTS {final}")
        count = _count(cfg, spec, test_size(cfg), len(train_data.classes))
        world.first_does(lambda: write_model_card(trainer, count, len(val_data)))
        return 0


def evaluate_only(
    cfg: CfgNode, *, resuming: bool = False, world: World = ALONE
) -> dict[str, float]:
    """Evaluate a classifier: MODEL.WEIGHTS, or OUTPUT_DIR's newest checkpoint if resuming.

    The result is logged and appended to OUTPUT_DIR/evaluations.jsonl, for tools/tables.py.

    Returns:
        as `evaluation.evaluate`.
    """
    with logging_to(None, enabled=world.is_first):
        checkpoint, spec, val_data = world.together(lambda: _prepare_evaluation(cfg, resuming))
        path = checkpoint.path
        device = _device(cfg, world)
        model = recipe.build_model(cfg, spec, len(val_data.classes))
        world.together(partial(resume.load_weights, path, checkpoint.weights_to_use, model))
        del checkpoint  # with optimizer and average it is three times as large as the model
        model.to(device, memory_format=torch.channels_last)
        if spec is not None:
            logger.info(f"network  {spec.describe()}")
        logger.info(f"weights  {path}")
        result = evaluate(
            model,
            data.Normalise(recipe.preprocessing_from_cfg(cfg)).to(device),
            data.Loader(val_data, workers=cfg.DATA.NUM_WORKERS, prefetch=cfg.DATA.PREFETCH),
            batch_size=max(1, cfg.SOLVER.BATCH_SIZE // world.size),
            world=world,
        )
        size, images = test_size(cfg), result["images"]
        logger.info(f"done     {accuracy(result)} on {images} images, {size} x {size}")
        if world.is_first:
            row = {"weights": path, "size": size, "resize": cfg.INPUT.TEST_RESIZE} | result
            output = Path(cfg.OUTPUT_DIR)
            output.mkdir(parents=True, exist_ok=True)
            evaluations = output / "evaluations.jsonl"
            cut_lines(evaluations)
            with evaluations.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    return result


def _prepare(cfg: CfgNode, resuming: bool, world: World):
    """Read the data and the checkpoint, and check everything that can be checked before training
    writes anything.
    """
    check(cfg, world.size)
    if cfg.MODEL.WEIGHTS:
        raise UsageError("MODEL.WEIGHTS is for --eval-only; to continue a training use --resume")
    if cfg.MODEL.SYNC_BN and not torch.cuda.is_available():
        raise UsageError("MODEL.SYNC_BN True: needs CUDA; on the CPU set it to False")
    spec, output = recipe.network_of(cfg), Path(cfg.OUTPUT_DIR)
    found = checkpoint, _ = resume.find_checkpoint(output, resuming)
    train_data, val_data = data.open_data(cfg)
    if len(train_data) < cfg.SOLVER.BATCH_SIZE:
        raise UsageError(
            f"SOLVER.BATCH_SIZE {cfg.SOLVER.BATCH_SIZE}: {cfg.DATA.ROOT}/train holds only"
            f" {len(train_data)} images"
        )
    if checkpoint is not None:
        resume.check_same_run(checkpoint, cfg, spec, train_data)
    return spec, train_data, val_data, found


def _prepare_evaluation(cfg: CfgNode, resuming: bool):
    check(cfg)
    if bool(cfg.MODEL.WEIGHTS) == resuming:  # neither or both
        raise UsageError("--eval-only needs either MODEL.WEIGHTS <checkpoint> or --resume")
    if resuming:
        checkpoint, _ = resume.find_checkpoint(Path(cfg.OUTPUT_DIR), True)
        if checkpoint is None:
            raise UserError(f"OUTPUT_DIR {cfg.OUTPUT_DIR}: holds no checkpoint to evaluate")
    else:
        checkpoint = load_checkpoint(Path(cfg.MODEL.WEIGHTS), kinds=resume.KINDS)
    spec = recipe.network_of(cfg)
    resume.check_same_network(checkpoint, cfg, spec)
    check_same_preprocessing(
        checkpoint.preprocessing,
        recipe.preprocessing_from_cfg(cfg),
        checkpoint.path,
        recipe.PREPROCESSING_KEYS,
    )
    val_data = data.open_val(cfg)
    val_folder = str(Path(cfg.DATA.ROOT) / "val")
    check_same_classes(checkpoint.path, checkpoint.classes or [], val_folder, val_data.classes)
    return checkpoint, spec, val_data


def _check_same_start(output: Path, start: int, world: World) -> None:
    """Refuse machines that see different files in OUTPUT_DIR."""
    starts = world.gather([start])
    if len(set(starts)) > 1:

        def refuse():
            raise UserError(
                f"OUTPUT_DIR {output}: the processes find checkpoints of iterations"
                f" {sorted(set(starts))}; it must be a folder that all machines share"
            )

        world.together(refuse)


def _device(cfg: CfgNode, world: World) -> str:
    device = cli.choose_device(cfg.DEVICE, logger)
    if device == "cpu":
        # Arithmetic on denormal numbers is over ten times slower, and they do not matter here.
        torch.set_flush_denormal(True)
        return device
    torch.cuda.set_device(world.local_rank)
    torch.backends.cudnn.benchmark = True  # all batches have one shape
    return f"cuda:{world.local_rank}"


def _count(cfg: CfgNode, spec: NetworkSpec | None, size: int, classes: int) -> Complexity:
    if spec is not None:
        return complexity(spec, size, classes, cfg.MODEL.HEAD_CHANNELS)
    return baseline_complexity(cfg.MODEL.NAME, cfg.MODEL.WIDTH, size, classes)


def _describe(trainer: Trainer) -> None:
    """Log network, data, device and schedule of a run."""
    cfg, spec, size = trainer.cfg, trainer.spec, trainer.cfg.INPUT.SIZE
    classes, device = len(trainer.train_data.classes), trainer.learner.device
    name = spec.describe() if spec else f"{cfg.MODEL.NAME}, width {cfg.MODEL.WIDTH:g}"
    count = _count(cfg, spec, size, classes)
    on_gpu = device != "cpu"
    machine = torch.cuda.get_device_name(device) if on_gpu else f"{torch.get_num_threads()} threads"
    processes = trainer.world.size
    logger.info(
        f"network  {name}; {count.params / 1e6:.2f} M parameters,"
        f" {count.macs / 1e6:.1f} M multiply-adds at {size} x {size}"
    )
    logger.info(
        f"data     {cfg.DATA.ROOT}: {len(trainer.train_data)} images to train on,"
        f" {len(trainer.val_loader.dataset)} to test on, {classes} classes"
    )
    each = f"each of {processes} processes: " if processes > 1 else ""
    logger.info(f"device   {each}{torch.device(device).type}, {machine}")
    logger.info(f"output   {trainer.output}")
    logger.info(
        f"plan     {cfg.SOLVER.EPOCHS} epochs of {trainer.epoch_length} iterations:"
        f" {trainer.total} of {cfg.SOLVER.BATCH_SIZE} images, learning rate up to"
        f" {recipe.peak_lr(cfg):g}"
    )
