"""The training loop and the evaluation: one process, one plain dict of state.

All randomness is seeded at the beginning of an epoch from (SEED, epoch): a run that is stopped
after an epoch and resumed ends, on the same kind of CPU, with the very same weights.
"""

import logging
import time
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from randwire_det.checkpoint import save_checkpoint
from randwire_det.errors import UserError
from randwire_det.spec import NetworkSpec

from . import recipe, resume
from .data import ClassFolders, Normalise, batches, epoch_plan, epoch_seed, in_order
from .log import Metrics, accuracy, duration, logger, progress_bar


class Trainer:
    """One run, from `state` to the last epoch.

    Attributes:
        state: all that a checkpoint keeps besides weights and optimizer, as plain data: finished
            epochs and iterations, images of an epoch, accuracies in percent (None before the first
            evaluation).
    """

    def __init__(
        self,
        cfg: CfgNode,
        spec: NetworkSpec,
        train_data: ClassFolders,
        val_data: ClassFolders,
        device: str,
    ):
        self.cfg, self.spec, self.output = cfg, spec, Path(cfg.OUTPUT_DIR)
        self.train_data, self.val_data, self.device = train_data, val_data, device
        self.preprocessing = recipe.preprocessing_from_cfg(cfg)
        self.normalise = Normalise(self.preprocessing).to(device)
        self.loading = {"batch_size": cfg.SOLVER.BATCH_SIZE, "workers": cfg.DATA.NUM_WORKERS}
        torch.manual_seed(cfg.SEED)
        model = recipe.build_model(cfg, spec, len(train_data.classes))
        self.model = model.to(device, memory_format=torch.channels_last)
        self.optimizer = recipe.build_optimizer(cfg, self.model)
        self.epoch_length = len(train_data) // cfg.SOLVER.BATCH_SIZE
        self.total = cfg.SOLVER.EPOCHS * self.epoch_length
        self.state = {"epoch": 0, "iteration": 0, "train_images": len(train_data)}
        self.state |= {"top1": None, "top5": None, "best_top1": None}

    def restore(self, checkpoint: dict) -> None:
        """Go on where `checkpoint` (of `resume.find_checkpoint`) stopped."""
        resume.load_weights(self.output / resume.LAST, checkpoint, self.model)
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.state = dict(checkpoint["progress"])

    def run(self) -> None:
        """Train, test and write checkpoints until the last epoch is done.

        Raises:
            UserError: the training diverged, or an image cannot be read.
        """
        cfg, first = self.cfg, self.state["iteration"]
        self.metrics = Metrics(self.output / "metrics.jsonl", first)
        self.begun, self.begun_at = time.perf_counter(), first
        self.bar = progress_bar(self.total, first)
        # On a terminal the bar tells it already.
        self.line_level = logging.INFO if self.bar.disable else logging.DEBUG
        with self.bar:
            for epoch in range(self.state["epoch"], cfg.SOLVER.EPOCHS):
                self.train_epoch(epoch)
                self.state["epoch"] = done = epoch + 1
                last = done == cfg.SOLVER.EPOCHS
                if last or done % cfg.TEST.PERIOD == 0:
                    self.test()
                if last or done % cfg.CHECKPOINT_PERIOD == 0:
                    self.save(resume.LAST, optimizer=self.optimizer.state_dict())
        self.save(resume.FINAL)

    def train_epoch(self, epoch: int) -> None:
        """One pass over the training images, in whole batches."""
        cfg = self.cfg
        torch.manual_seed(epoch_seed(cfg.SEED, epoch))  # for dropout
        plan = epoch_plan(len(self.train_data), cfg.SEED, epoch)
        self.model.train()
        losses, since = [], time.perf_counter()
        for images, labels in batches(self.train_data, plan, drop_last=True, **self.loading):
            self.set_learning_rate()
            logits = self.model(self.normalise(images))
            labels = labels.to(self.device, non_blocking=True)
            loss = recipe.classification_loss(logits, labels, cfg.SOLVER.LABEL_SMOOTHING)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())  # read later, in bulk: a look at a number waits for a GPU
            self.state["iteration"] += 1
            self.bar.update()
            if self.state["iteration"] % cfg.LOG_PERIOD == 0:
                self.report(epoch, losses, time.perf_counter() - since)
                losses, since = [], time.perf_counter()
        if losses:
            self.report(epoch, losses, time.perf_counter() - since)
        # The last update may have spoilt the weights after the last loss was still good.
        for name, value in self.model.state_dict().items():
            if not value.isfinite().all():
                self.stop(f"{name} is not finite after iteration {self.state['iteration']}")

    def set_learning_rate(self) -> None:
        """For the iteration that comes now."""
        warmup = self.cfg.SOLVER.WARMUP_EPOCHS * self.epoch_length
        lr = recipe.learning_rate(
            self.state["iteration"], peak=recipe.peak_lr(self.cfg), warmup=warmup, total=self.total
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def report(self, epoch: int, losses: list[Tensor], seconds: float) -> None:
        """Log the latest iterations, or stop the run where one of their losses is not finite."""
        losses, iteration = torch.stack(losses).tolist(), self.state["iteration"]
        for number, loss in enumerate(losses, iteration - len(losses) + 1):
            if not np.isfinite(loss):
                self.stop(f"the loss is {loss} at iteration {number}, in epoch {epoch + 1}")
        loss, lr = float(np.mean(losses)), self.optimizer.param_groups[0]["lr"]
        speed = len(losses) * self.cfg.SOLVER.BATCH_SIZE / seconds
        self.metrics.write(
            epoch=epoch + 1, iteration=iteration, loss=loss, lr=lr, images_per_second=speed
        )
        pace = (time.perf_counter() - self.begun) / (iteration - self.begun_at)
        self.bar.set_postfix_str(
            f"epoch {epoch + 1}, loss {loss:.3f}, lr {lr:.3g}, {speed:.0f} images/s"
        )
        logger.log(
            self.line_level,
            f"epoch {epoch + 1}/{self.cfg.SOLVER.EPOCHS}, iteration {iteration}/{self.total},"
            f" loss {loss:.4f}, lr {lr:.5f}, {speed:.0f} images/s,"
            f" ETA {duration(pace * (self.total - iteration))}",
        )

    def stop(self, problem: str) -> NoReturn:
        last = self.output / resume.LAST
        kept = f"{last} is as it was" if last.exists() else "no checkpoint was written yet"
        raise UserError(
            f"training diverged: {problem}; {kept}; is SOLVER.BASE_LR {self.cfg.SOLVER.BASE_LR}"
            " too high?"
        )

    def test(self) -> None:
        """Evaluate the weights as they are."""
        result = evaluate(self.model, self.normalise, self.val_data, **self.loading)
        best = max(result["top1"], self.state["best_top1"] or 0.0)
        self.state |= result | {"best_top1": best}
        self.metrics.write(epoch=self.state["epoch"], iteration=self.state["iteration"], **result)
        logger.info(f"epoch {self.state['epoch']}/{self.cfg.SOLVER.EPOCHS}, {accuracy(result)}")

    def save(self, name: str, **extra) -> None:
        """Write a checkpoint to OUTPUT_DIR."""
        save_checkpoint(
            self.output / name,
            kind="classifier",
            model=self.model.state_dict(),
            spec=self.spec,
            preprocessing=self.preprocessing,
            classes=self.train_data.classes,
            progress=self.state,
            config=self.cfg.dump(),
            **extra,
        )


@torch.inference_mode()
def evaluate(
    model: nn.Module, normalise: Normalise, dataset: ClassFolders, *, batch_size: int, workers: int
) -> dict[str, float]:
    """Percentages {"top1", "top5"} of images whose class comes first, or among the first five."""
    model.eval()
    top = min(5, len(dataset.classes))
    plan = in_order(len(dataset))
    hits = torch.zeros(2, dtype=torch.int64, device=normalise.mean.device)
    loading = {"batch_size": batch_size, "workers": workers, "drop_last": False}
    for images, labels in batches(dataset, plan, **loading):
        ranked = model(normalise(images)).topk(top).indices
        correct = ranked == labels.to(ranked.device).unsqueeze(1)
        hits += torch.stack([correct[:, 0].sum(), correct.sum()])
    top1, top5 = (100 * count / len(dataset) for count in hits.tolist())
    return {"top1": top1, "top5": top5}
