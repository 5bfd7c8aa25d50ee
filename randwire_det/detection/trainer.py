"""detectron2's default trainer, with exact resume, checked checkpoints and COCO evaluation."""

import logging
import weakref
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn

from ..coco.classes import check_classes
from ..coco.datasets import class_names, require_coco, training_dicts
from ..coco.evaluator import CocoEvaluator
from ..config.files import flat
from ..errors import UserError
from ..network.fusing import fuse
from ..run.average import WeightAverage
from ..run.checkpoint import Checkpoint
from ..run.folder import cut_lines
from ..run.parallel import current_world, lost_another
from ..run.stopping import AskedToStop, Stopping
from ..run.trackers import Trackers
from .best import Best, NoLongerBetter
from .checkpointer import RandWireCheckpointer
from .config import require_randwire_keys
from .loader import TestLoader, TrainLoader, repeat_factors
from .optimizer import build_optimizer
from .preprocessing import preprocessing_from_config, without_weights
from .presets import refuse_presets
from .results import mark_as_ended_early, record_evaluation, result_dir
from .step import TrainStep, amp_dtype
from .tracking import TrackerWriter
from .training_set import check_same_training_set
from .validation import validation_losses

logger = logging.getLogger(__name__)


class RandWireTrainer(DefaultTrainer):
    """`DefaultTrainer` for a config with a RandWire backbone.

    On the same kind of CPU, a run that was stopped and resumed ends with the same weights as an
    unbroken one, for any number of workers. SIGTERM and SIGINT write a checkpoint and stop the run.
    """

    def __init__(self, cfg: CfgNode):
        # DefaultTrainer's constructor uses DDP on GPUs only, and a loader that cannot be resumed.
        TrainerBase.__init__(self)
        require_randwire_keys(cfg)
        refuse_presets(cfg)
        self.world, self.stopping = current_world(), Stopping()
        self.cfg = cfg = self.scaled(cfg)
        check_classes(cfg)
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.done = self.saved = 0  # finished iterations, and those in the latest checkpoint
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        decay = cfg.SOLVER.EMA_DECAY
        self.average = WeightAverage(model, decay) if decay > 0 else None
        self._trainer = TrainStep(
            self.world.parallel(model, broadcast_buffers=False),
            self.build_train_loader(cfg),
            optimizer,
            seed=cfg.SEED,
            amp=amp_dtype(cfg),
            parts=cfg.SOLVER.ACCUMULATE,
            world=self.world,
            average=self.average,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = build_checkpointer(
            cfg, model, average=self.average, trainer=weakref.proxy(self)
        )
        self._tracker_writer = TrackerWriter()
        self.best = Best(cfg, self.checkpointer, self.world)
        self.register_hooks(self.build_hooks())

    def scaled(self, cfg: CfgNode) -> CfgNode:
        """The config for this number of processes (SOLVER.REFERENCE_WORLD_SIZE), with a seed."""
        before, cfg = cfg, self.auto_scale_workers(cfg, self.world.size).clone()
        if before.SOLVER != cfg.SOLVER:
            solver = cfg.SOLVER
            logger.info(
                f"For {self.world.size} processes instead of {before.SOLVER.REFERENCE_WORLD_SIZE}:"
                f" IMS_PER_BATCH {solver.IMS_PER_BATCH}, BASE_LR {solver.BASE_LR:g}, MAX_ITER"
                f" {solver.MAX_ITER}, STEPS {solver.STEPS}, WARMUP_ITERS {solver.WARMUP_ITERS}"
            )
        cfg.defrost()
        cfg.SOLVER.CHECKPOINT_PERIOD = max(1, cfg.SOLVER.CHECKPOINT_PERIOD)  # scaled, maybe to 0
        if cfg.SEED < 0:
            cfg.SEED = comm.shared_random_seed()
        cfg.freeze()
        return cfg

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        # The checkpointer compares the preprocessing of MODEL.WEIGHTS, so the builder need not.
        return super().build_model(without_weights(cfg))

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module):
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        """Build a `TrainLoader`, or detectron2's loader if the config needs more than that."""
        sampler = cfg.DATALOADER.SAMPLER_TRAIN
        if (
            sampler not in ("TrainingSampler", "RepeatFactorTrainingSampler")
            or cfg.MODEL.KEYPOINT_ON
            or cfg.MODEL.LOAD_PROPOSALS
        ):
            logger.warning(
                "detectron2's own data loader: a resumed run reads images in another order."
            )
            return build_detection_train_loader(cfg, dataset=training_dicts(cfg))
        dicts = training_dicts(cfg)
        return TrainLoader(
            dicts,
            DatasetMapper(cfg, True),
            batch_size=cfg.SOLVER.IMS_PER_BATCH,
            seed=cfg.SEED,
            workers=cfg.DATALOADER.NUM_WORKERS,
            by_aspect=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            world=current_world(),
            repeats=None if sampler == "TrainingSampler" else repeat_factors(dicts, cfg),
        )

    def build_hooks(self) -> list[HookBase]:
        hooks = []
        for hook in super().build_hooks():
            if isinstance(hook, EvalHook):
                hooks.append(_Save(self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD))
                hooks.append(_Evaluate(self.cfg.TEST.EVAL_PERIOD, self._evaluate))
                hooks.append(_EndEarly())
            elif not isinstance(hook, PeriodicCheckpointer):
                hooks.append(hook)
        return [*hooks, _Stop()]

    def build_writers(self) -> list[EventWriter]:
        return [*super().build_writers(), self._tracker_writer]

    def _start_trackers(self) -> None:
        trackers = Trackers(self.cfg.TRACK, flat(self.cfg), Path(self.cfg.OUTPUT_DIR))
        self._tracker_writer.trackers = trackers

    def _evaluate(self) -> dict:
        """Evaluate the averaged weights if there are any, as `Checkpoint.weights_to_use`."""
        model = self.average.model if self.average else self.model
        done = min(self.iter + 1, self.max_iter)  # detectron2 adds one after the last iteration
        where = f"{self.cfg.OUTPUT_DIR}, iteration {done}"
        self._last_eval_results = results = evaluate(self.cfg, model, where, done)
        if self.cfg.TEST.LOSS:
            losses = validation_losses(self.cfg, model, self.world)
            if losses:
                logger.info(f"Loss on DATASETS.TEST: {losses['total_loss']:.4f}")
                results = {**results, "validation": losses}
        self.best.consider(results, done)
        return results

    def resume_or_load(self, resume: bool = True, checkpoint: Checkpoint | None = None) -> None:
        """As in detectron2.

        Args:
            checkpoint: from `check_run`, so that the file is not read again; None to read it here.
        """
        resuming = resume and self.checkpointer.has_checkpoint()
        if checkpoint:
            self.checkpointer.take(checkpoint, None if resuming else [])
        else:
            self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resuming:
            self.start_iter = self.iter + 1
            self.best.resume(self.start_iter)
        self.done = self.saved = self.start_iter
        loader = self._trainer.data_loader
        if isinstance(loader, TrainLoader):
            loader.start, loader.seed = self.start_iter, self._trainer.seed

    def train(self):
        """Train to the last iteration, or until asked to stop.

        Raises:
            AskedToStop: a checkpoint is written.
        """
        logging.getLogger("detectron2.engine.train_loop").addFilter(_is_news)
        if self.world.is_first:
            metrics = Path(self.cfg.OUTPUT_DIR, "metrics.json")
            cut_lines(metrics, lambda row: row["iteration"] < self.start_iter)
        self.world.first_does(self._start_trackers)
        # An optimized torch.jit function, as RetinaNet's focal loss, rounds differently after its
        # first calls in a process, so that a resumed run would not be as an unbroken one.
        with self.stopping, torch.jit.optimized_execution(False):
            try:
                return super().train()
            except NoLongerBetter:
                self._end_early()
                return None
            except AskedToStop:
                self._save_and_log()
                raise

    def _end_early(self) -> None:
        self._trainer.collect()
        self.world.first_does(lambda: self.checkpointer.save("model_final", iteration=self.iter))
        self.world.first_does(lambda: mark_as_ended_early(self.cfg))
        logger.info(
            f"Ended after iteration {self.done} of {self.max_iter}: the best of the evaluations was"
            f" {self.best}, and TEST.PATIENCE {self.cfg.TEST.PATIENCE} have passed since"
        )

    def run_step(self) -> None:
        super().run_step()
        self.done = self.iter + 1

    def _save_and_log(self) -> None:
        reason = self.stopping.agreed_reason(self.world)
        # The current iteration may have been stopped while waiting for its batch.
        self.iter = self._trainer.iter = self.done - 1
        if self.done > self.saved:
            self._trainer.collect()
            self.world.first_does(
                lambda: self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)
            )
        if self.world.is_first and self.done:
            output = Path(self.cfg.OUTPUT_DIR)
            saved = (output / "last_checkpoint").read_text()
            logger.info(
                f"Stopped by {reason}; {saved} is written in {output}. --resume continues from it."
            )
        elif self.world.is_first:
            logger.info(f"Stopped by {reason} before the first iteration; nothing is written.")

    def state_dict(self) -> dict:
        # detectron2 v0.6 does not save the optimizer; this is main's format.
        more = {"_trainer": self._trainer.state_dict(), "training_set": self._training_set()}
        return super().state_dict() | more

    def load_state_dict(self, state_dict: dict) -> None:
        """Raises UserError if the state is of a training on other data."""
        check_same_training_set(state_dict.get("training_set"), self._training_set())
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    def _training_set(self) -> dict | None:
        return getattr(self._trainer.data_loader, "training_set", None)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators=None):
        # Every rank has its own BN statistics; checkpoints keep those of rank 0.
        current_world().broadcast(list(model.buffers()))
        return super().test(cfg, fuse(getattr(model, "module", model)), evaluators)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        return TestLoader(cfg, dataset_name, current_world())

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> CocoEvaluator:
        require_coco(dataset_name)
        return CocoEvaluator(dataset_name, str(result_dir(cfg, "inference", dataset_name)))


def _is_news(record: logging.LogRecord) -> bool:
    """Filter out detectron2's traceback of a training that ended by a user error."""
    error = record.exc_info[1] if record.exc_info else None
    expected = isinstance(error, UserError | FloatingPointError | NoLongerBetter)
    return not (expected or lost_another(error))


class _Save(PeriodicCheckpointer):
    """detectron2's hook, but if rank 0 cannot write a checkpoint, all ranks stop."""

    def after_step(self):
        done = self.trainer.iter + 1
        if done % self.period == 0 or done >= self.max_iter:
            self.trainer._trainer.collect()
            self.trainer.world.first_does(super().after_step)
            self.trainer.saved = done


class _Evaluate(EvalHook):
    """detectron2's hook, which would also evaluate after a failure in the last iteration."""

    def after_train(self):
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class _EndEarly(HookBase):
    """Ends the training on all ranks where evaluations have not been better for long enough."""

    def after_step(self):
        if self.trainer.best.is_over(self.trainer.iter + 1):
            raise NoLongerBetter


class _Stop(HookBase):
    """Stops the run on all ranks after the same iteration if any was asked to stop."""

    def after_step(self):
        if self.trainer.world.any(self.trainer.stopping):
            raise AskedToStop


def evaluate(
    cfg: CfgNode,
    model: nn.Module,
    weights: str,
    iteration: int | None,
    trained_with: str | None = None,
) -> dict:
    """Evaluate a model on DATASETS.TEST and record the result (`record_evaluation`).

    Args:
        weights: where the model's weights come from, for the record.
        iteration: finished iterations of their training; None if unknown.
        trained_with: YAML of their training's config; None if unknown.

    Returns:
        the results of `DefaultTrainer.test`.
    """
    results = RandWireTrainer.test(cfg, model)
    origin = {"weights": weights, "iteration": iteration, "trained_with": trained_with}
    current_world().first_does(lambda: record_evaluation(cfg, results, **origin))
    return results


def build_checkpointer(
    cfg: CfgNode, model: nn.Module, *, eval_only: bool = False, **options
) -> RandWireCheckpointer:
    """Build the checkpointer for the preprocessing and the classes of a config.

    Args:
        eval_only: take the classes from DATASETS.TEST; those of DATASETS.TRAIN may be missing.
    """
    datasets = [*(() if eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST]
    return RandWireCheckpointer(
        model,
        cfg.OUTPUT_DIR,
        preprocessing=preprocessing_from_config(cfg),
        classes=class_names(datasets[0]) if datasets else None,
        config=cfg.dump(),
        **options,
    )
