"""The training loop, in one process or many: a run is a function of its config, step by step.

All randomness comes from (SEED, iteration, rank), so there is no generator state to save: on the
same kind of CPU, a run that was stopped and resumed ends with the same weights as an unbroken one.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from randwire_det.config.files import flat
from randwire_det.errors import UserError
from randwire_det.run.checkpoint import Checkpoint, save_checkpoint
from randwire_det.run.parallel import World
from randwire_det.run.stopping import AskedToStop, Stopping
from randwire_det.run.trackers import Trackers
from randwire_det.spec import NetworkSpec

from . import resume
from .curves import draw_curves
from .data import Batch, ClassFolders, Loader, epoch_plan
from .evaluation import evaluate
from .learner import Learner
from .log import RunLog, accuracy, logger


class Trainer:
    """Trains the classifier of `cfg`, from scratch or from a checkpoint.

    Args:
        spec: of the RandWire; None for a baseline.
        stopping: whether this process was asked to stop, checked after every iteration.
    """

    def __init__(
        self,
        cfg: CfgNode,
        spec: NetworkSpec | None,
        train_data: ClassFolders,
        val_data: ClassFolders,
        device: str,
        world: World,
        stopping: Stopping,
    ):
        self.cfg, self.spec, self.output = cfg, spec, Path(cfg.OUTPUT_DIR)
        self.train_data, self.world, self.stopping = train_data, world, stopping
        loading = {"workers": cfg.DATA.NUM_WORKERS, "prefetch": cfg.DATA.PREFETCH}
        self.train_loader = Loader(train_data, **loading)
        self.val_loader = Loader(val_data, **loading)
        self.epoch_length = len(train_data) // cfg.SOLVER.BATCH_SIZE
        self.total = cfg.SOLVER.EPOCHS * self.epoch_length
        self.learner = Learner(
            cfg,
            spec,
            len(train_data.classes),
            device=device,
            world=world,
            epoch_length=self.epoch_length,
        )
        self.progress = resume.Progress(
            epoch_length=self.epoch_length,
            train_images=len(train_data),
            train_digest=train_data.digest,
            processes=world.size,
        )
        self.saved_at = 0  # iteration of the latest checkpoint
        # Of this rank, and not in `progress` yet.
        self.pending_losses: list[Tensor] = []
        self.bad_paths: list[str] = []

    def restore(self, checkpoint: Checkpoint) -> None:
        """Resume from a checkpoint of `resume.find_checkpoint`."""
        self.learner.restore(checkpoint)
        self.progress = replace(resume.Progress.of(checkpoint), processes=self.world.size)
        self.saved_at = self.progress.iteration

    def run(self) -> bool:
        """Train, evaluate and write checkpoints until the last epoch, or until asked to stop.

        Returns:
            whether the last epoch is done. If not, OUTPUT_DIR holds a checkpoint to resume from.

        Raises:
            UserError: the training diverged, an image cannot be read, or the disk is full.
        """
        trackers = []  # of rank 0

        def start():
            trackers.append(Trackers(self.cfg.TRACK, flat(self.cfg), self.output))

        self.world.first_does(start)
        with RunLog(
            self.output,
            self.progress.iteration,
            epochs=self.cfg.SOLVER.EPOCHS,
            epoch_length=self.epoch_length,
            batch_size=self.cfg.SOLVER.BATCH_SIZE,
            enabled=self.world.is_first,
            trackers=trackers[0] if trackers else None,
        ) as log:
            try:
                self.test_if_due(log)  # a checkpoint is written before its iteration is evaluated
                first = self.progress.iteration // self.epoch_length
                for epoch in range(first, self.cfg.SOLVER.EPOCHS):
                    self.train_epoch(epoch, log)
                    self.test_if_due(log)
                finished = True
            except AskedToStop:
                finished = False
            if finished:
                self.save_weights(resume.FINAL)
            elif self.saved_at != self.progress.iteration or self.saved_at == 0:
                self.save_checkpoint()
        if self.world.is_first:
            draw_curves(log.path, self.output / "curves.png", self.epoch_length)
        return finished

    def train_epoch(self, epoch: int, log: RunLog) -> None:
        """Train on the rest of an epoch, in whole batches."""
        cfg = self.cfg
        period = max(1, round(cfg.CHECKPOINT_PERIOD * self.epoch_length))
        self.learner.model.train()
        batches = self.train_loader(self.shares(epoch))
        for _ in range(self.progress.iteration, (epoch + 1) * self.epoch_length):
            self.step(
                self.world.together(lambda: [next(batches) for _ in range(cfg.SOLVER.ACCUMULATE)])
            )
            log.bar.update()
            iteration = self.progress.iteration
            if iteration % cfg.LOG_PERIOD == 0 or iteration == self.total:
                self.report(log)
            if iteration % period == 0 or iteration == self.total:
                log.flush()
                self.save_checkpoint()
            if self.world.any(self.stopping):
                raise AskedToStop

    def shares(self, epoch: int) -> list[np.ndarray]:
        """(index, seed) of the images of this rank in the rest of an epoch: int64 (B, 2) a part."""
        cfg, world = self.cfg, self.world
        plan = epoch_plan(len(self.train_data), cfg.SEED, epoch)
        plan = plan[: self.epoch_length * cfg.SOLVER.BATCH_SIZE]
        plan = plan.reshape(self.epoch_length, world.size, cfg.SOLVER.ACCUMULATE, -1, 2)
        mine = plan[self.progress.iteration - epoch * self.epoch_length :, world.rank]
        return list(mine.reshape(-1, *mine.shape[2:]))

    def step(self, parts: list[Batch]) -> None:
        """Run one iteration."""
        # The value is read later, in bulk: reading it waits for the GPU.
        self.pending_losses.append(self.learner.step(self.progress.iteration, parts))
        self.bad_paths += [path for part in parts for path in part.bad]
        self.progress.iteration += 1

    def collect(self) -> None:
        """Add losses and unreadable images of the latest steps, over all ranks, to `progress`.

        Raises:
            UserError: a loss is not finite.
        """
        if self.pending_losses:
            losses = self.world.sum(torch.stack(self.pending_losses).double()) / self.world.size
            self.pending_losses = []
            self.world.together(lambda: self.check_losses(losses.tolist()))
            self.progress.losses += losses.tolist()
        if self.cfg.DATA.ON_BAD_IMAGE == "skip":
            paths, self.bad_paths = self.world.gather(self.bad_paths), []
            for path in paths:
                logger.warning(f"skipped  {path}: cannot be read as an image")
            self.progress.bad_images += len(paths)

    def check_losses(self, losses: list[float]) -> None:
        for number, loss in enumerate(losses, self.progress.iteration - len(losses) + 1):
            if not np.isfinite(loss):
                self.diverged(f"the loss is {loss} at iteration {number}")

    def check_weights(self) -> None:
        """Refuse NaN and infinity, which the last update may cause after a finite loss."""
        for name, value in self.learner.model.state_dict().items():
            if not value.isfinite().all():
                self.diverged(f"{name} is not finite after iteration {self.progress.iteration}")

    def report(self, log: RunLog) -> None:
        """Log the iterations since the last report.

        Raises:
            UserError: one of their losses is not finite.
        """
        self.collect()
        losses, self.progress.losses = self.progress.losses, []
        lr = self.learner.optimizer.param_groups[0]["lr"]
        log.write_training(self.progress.iteration, losses, lr)

    def diverged(self, problem: str) -> NoReturn:
        epoch = -(-self.progress.iteration // self.epoch_length)
        kept = resume.checkpoints(self.output)
        kept = f"{kept[0]} is as it was" if kept else "no checkpoint was written yet"
        raise UserError(
            f"training diverged: {problem}, in epoch {epoch}; {kept};"
            f" is SOLVER.BASE_LR {self.cfg.SOLVER.BASE_LR} too high?"
        )

    def test_if_due(self, log: RunLog) -> None:
        """Evaluate after every TEST.PERIOD epochs, and after the last."""
        iteration, period = self.progress.iteration, self.cfg.TEST.PERIOD * self.epoch_length
        if iteration == 0 or (iteration % period and iteration != self.total):
            return
        start = time.perf_counter()
        # Every rank has its own BN statistics; checkpoints keep those of rank 0.
        model = self.learner.tested_model
        self.world.broadcast(list(model.buffers()))
        result = evaluate(
            model,
            self.learner.normalise,
            self.val_loader,
            batch_size=self.cfg.SOLVER.BATCH_SIZE // self.world.size,
            world=self.world,
        )
        epoch = iteration // self.epoch_length
        bad = (
            f"; unreadable images left out: {result['bad_images']}" if result["bad_images"] else ""
        )
        top1, top5 = self.progress.top1, self.progress.top5 = result["top1"], result["top5"]
        log.write(epoch=epoch, iteration=iteration, top1=top1, top5=top5)
        logger.info(f"epoch {epoch}/{self.cfg.SOLVER.EPOCHS}, {accuracy(result)}{bad}")
        if self.progress.best_top1 is None or top1 > self.progress.best_top1:
            self.progress.best_top1, self.progress.best_epoch = top1, epoch
            self.save_weights(resume.BEST)
        log.interval_start += time.perf_counter() - start  # images/s is of the training alone

    def save_checkpoint(self) -> None:
        """Write everything needed to resume, and remove checkpoints past CHECKPOINTS_KEPT."""
        self.collect()
        self.world.together(self.check_weights)
        name = resume.CHECKPOINT.format(self.progress.iteration)
        self.save(name, self.progress.to_dict(), **self.learner.state_dict())
        self.saved_at = self.progress.iteration
        if self.world.is_first:
            for path in resume.checkpoints(self.output)[self.cfg.CHECKPOINTS_KEPT :]:
                path.unlink()

    def save_weights(self, name: str) -> None:
        """Write the weights that are evaluated, without what resuming needs."""
        progress = self.progress.to_dict()
        del progress["losses"]
        self.save(name, progress, model=self.learner.tested_model.state_dict())

    def save(self, name: str, progress: dict, **tensors) -> None:
        def write():
            save_checkpoint(
                self.output / name,
                preprocessing=self.learner.preprocessing,
                classes=self.train_data.classes,
                progress=progress,
                config=self.cfg.dump(),
                **resume.architecture(self.cfg, self.spec),
                **tensors,
            )

        self.world.first_does(write)
