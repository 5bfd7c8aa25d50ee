"""The training loop, in one process or many: a run is a function of its config, step by step.

All randomness comes from (SEED, iteration, process): there is no state of a generator to keep, and
a run that was stopped anywhere and resumed ends, on the same kind of CPU, with the very same
weights.
"""

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from randwire_det.errors import UserError
from randwire_det.run.checkpoint import Checkpoint, save_checkpoint
from randwire_det.run.parallel import World
from randwire_det.run.stopping import AskedToStop, Stopping
from randwire_det.spec import NetworkSpec

from . import resume
from .curves import draw_curves
from .data import Batch, ClassFolders, Loader, epoch_plan
from .evaluation import evaluate
from .learner import Learner
from .log import Metrics, accuracy, duration, logger, progress_bar


class Trainer:
    """One run, from `progress` to the last epoch."""

    def __init__(
        self,
        cfg: CfgNode,
        spec: NetworkSpec | None,
        train_data: ClassFolders,
        val_data: ClassFolders,
        device: str,
        world: World,
    ):
        self.cfg, self.spec, self.output = cfg, spec, Path(cfg.OUTPUT_DIR)
        self.train_data, self.world = train_data, world
        loading = {"workers": cfg.DATA.NUM_WORKERS, "prefetch": cfg.DATA.PREFETCH}
        self.train_loader, self.val_loader = (
            Loader(dataset, **loading) for dataset in (train_data, val_data)
        )
        self.epoch_length = len(train_data) // cfg.SOLVER.BATCH_SIZE
        self.total = cfg.SOLVER.EPOCHS * self.epoch_length
        self.learner = Learner(
            *(cfg, spec, len(train_data.classes)),
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
        self.fresh_losses: list[Tensor] = []  # of this process, not in the progress yet
        self.bad_paths: list[str] = []

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where the checkpoint (of `resume.find_checkpoint`) stopped."""
        self.learner.restore(checkpoint)
        self.progress = replace(resume.Progress.of(checkpoint), processes=self.world.size)

    def run(self, stopping: Stopping) -> bool:
        """Train, test and write checkpoints until the last epoch is done, or one is asked to stop.

        Returns:
            whether the last epoch is done. If not, a checkpoint stands in OUTPUT_DIR.

        Raises:
            UserError: the training diverged, an image cannot be read, or the disk is full.
        """
        first = self.progress.iteration
        self.stopping, self.saved_at = stopping, first
        self.metrics = Metrics(self.output, first, enabled=self.world.is_first)
        self.begun, self.begun_at = time.perf_counter(), first
        self.since = self.begun
        self.bar = progress_bar(self.total, first, hidden=not self.world.is_first)
        # On a terminal the bar tells it already.
        self.line_level = logging.INFO if self.bar.disable else logging.DEBUG
        with self.bar, self.metrics:
            finished = self.train()
            if finished:
                self.save_weights(resume.FINAL)
            elif self.saved_at != self.progress.iteration or self.saved_at == 0:
                self.save_checkpoint()
        if self.world.is_first:
            draw_curves(self.metrics.path, self.output / "curves.png", self.epoch_length)
        return finished

    def train(self) -> bool:
        """All epochs and tests that are left; False where a process was asked to stop."""
        try:
            self.test_if_due()  # a checkpoint is written before the test of its iteration
            begun = self.progress.iteration // self.epoch_length
            for epoch in range(begun, self.cfg.SOLVER.EPOCHS):
                self.train_epoch(epoch)
                self.test_if_due()
        except AskedToStop:
            return False
        return True

    def train_epoch(self, epoch: int) -> None:
        """The rest of an epoch, in whole batches."""
        cfg = self.cfg
        period = max(1, round(cfg.CHECKPOINT_PERIOD * self.epoch_length))
        self.learner.model.train()
        batches = self.train_loader(self.shares(epoch))
        for _ in range(self.progress.iteration, (epoch + 1) * self.epoch_length):
            self.step(
                self.world.together(lambda: [next(batches) for _ in range(cfg.SOLVER.ACCUMULATE)])
            )
            self.bar.update()
            iteration = self.progress.iteration
            if iteration % cfg.LOG_PERIOD == 0 or iteration == self.total:
                self.report()
            if iteration % period == 0 or iteration == self.total:
                self.save_checkpoint()
            if self.world.any(self.stopping):
                raise AskedToStop

    def shares(self, epoch: int) -> list[np.ndarray]:
        """What this process trains on in the rest of an epoch: int64 (images, 2) for each part."""
        cfg, world = self.cfg, self.world
        plan = epoch_plan(len(self.train_data), cfg.SEED, epoch)
        plan = plan[: self.epoch_length * cfg.SOLVER.BATCH_SIZE]
        plan = plan.reshape(self.epoch_length, world.size, cfg.SOLVER.ACCUMULATE, -1, 2)
        mine = plan[self.progress.iteration - epoch * self.epoch_length :, world.rank]
        return list(mine.reshape(-1, *mine.shape[2:]))

    def step(self, parts: list[Batch]) -> None:
        """One iteration."""
        # Read later, in bulk: a look at a number waits for a GPU.
        self.fresh_losses.append(self.learner.step(self.progress.iteration, parts))
        self.bad_paths += [path for part in parts for path in part.bad]
        self.progress.iteration += 1

    def collect(self) -> None:
        """Take what the latest steps have left in all processes into the progress.

        Raises:
            UserError: a loss that is not finite.
        """
        if self.fresh_losses:
            losses = self.world.sum(torch.stack(self.fresh_losses).double()) / self.world.size
            self.fresh_losses = []
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
        """The last update may have spoilt them after the last loss was still good."""
        for name, value in self.learner.model.state_dict().items():
            if not value.isfinite().all():
                self.diverged(f"{name} is not finite after iteration {self.progress.iteration}")

    def report(self) -> None:
        """Log the latest iterations, or stop the run where one of their losses is not finite."""
        self.collect()
        iteration, losses = self.progress.iteration, self.progress.losses
        self.progress.losses = []
        loss, lr = float(np.mean(losses)), self.learner.optimizer.param_groups[0]["lr"]
        epoch, now = -(-iteration // self.epoch_length), time.perf_counter()
        # Of this start of the run: what was done before it took another time.
        done = iteration - max(self.begun_at, iteration - len(losses))
        speed = done * self.cfg.SOLVER.BATCH_SIZE / (now - self.since)
        self.since = now
        self.metrics.write(
            epoch=epoch, iteration=iteration, loss=loss, lr=lr, images_per_second=speed
        )
        pace = (now - self.begun) / (iteration - self.begun_at)
        self.bar.set_postfix_str(
            f"epoch {epoch}, loss {loss:.3f}, lr {lr:.3g}, {speed:.0f} images/s"
        )
        logger.log(
            self.line_level,
            f"epoch {epoch}/{self.cfg.SOLVER.EPOCHS}, iteration {iteration}/{self.total},"
            f" loss {loss:.4f}, lr {lr:.5f}, {speed:.0f} images/s,"
            f" ETA {duration(pace * (self.total - iteration))}",
        )

    def diverged(self, problem: str) -> NoReturn:
        epoch = -(-self.progress.iteration // self.epoch_length)
        kept = resume.checkpoints(self.output)
        kept = f"{kept[0]} is as it was" if kept else "no checkpoint was written yet"
        raise UserError(
            f"training diverged: {problem}, in epoch {epoch}; {kept};"
            f" is SOLVER.BASE_LR {self.cfg.SOLVER.BASE_LR} too high?"
        )

    def test_if_due(self) -> None:
        """Evaluate after every TEST.PERIOD epochs, and after the last."""
        iteration, period = self.progress.iteration, self.cfg.TEST.PERIOD * self.epoch_length
        if iteration == 0 or (iteration % period and iteration != self.total):
            return
        begun = time.perf_counter()
        # Every process has its own BN statistics; the first one's are those that are kept.
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
        self.metrics.write(epoch=epoch, iteration=iteration, top1=top1, top5=top5)
        logger.info(f"epoch {epoch}/{self.cfg.SOLVER.EPOCHS}, {accuracy(result)}{bad}")
        if self.progress.best_top1 is None or top1 > self.progress.best_top1:
            self.progress.best_top1, self.progress.best_epoch = top1, epoch
            self.save_weights(resume.BEST)
        self.since += time.perf_counter() - begun  # no part of the training's images a second

    def save_checkpoint(self) -> None:
        """Write all that it takes to go on, and remove the oldest file of its kind."""
        self.collect()
        self.world.together(self.check_weights)
        name = resume.CHECKPOINT.format(self.progress.iteration)
        self.save(name, self.progress.to_dict(), **self.learner.state_dict())
        self.saved_at = self.progress.iteration
        if self.world.is_first:
            self.metrics.flush()
            for path in resume.checkpoints(self.output)[self.cfg.CHECKPOINTS_KEPT :]:
                path.unlink()

    def save_weights(self, name: str) -> None:
        """Write the tested model, for use and not to go on from."""
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
