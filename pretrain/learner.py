"""Model, optimizer and weight average of a training, and its update step."""

from contextlib import nullcontext

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from randwire_det.run.average import WeightAverage
from randwire_det.run.checkpoint import Checkpoint
from randwire_det.run.parallel import World
from randwire_det.spec import NetworkSpec

from . import recipe, resume
from .data import Batch, Normalise

DROPOUT, EDGES = 0, 1  # random streams of `Learner._seed`


class Learner:
    """The model with optimizer, loss scaler and weight average, and the step that updates them.

    Args:
        spec: of the RandWire; None for a baseline.
        world: the processes that train together.
        epoch_length: iterations per epoch, the unit of the learning rate schedule.
    """

    def __init__(
        self,
        cfg: CfgNode,
        spec: NetworkSpec | None,
        num_classes: int,
        *,
        device: str,
        world: World,
        epoch_length: int,
    ):
        self.cfg, self.device, self.world, self.epoch_length = cfg, device, world, epoch_length
        self.preprocessing = recipe.preprocessing_from_cfg(cfg)
        self.normalise = Normalise(self.preprocessing).to(device)
        torch.manual_seed(cfg.SEED)
        model = recipe.build_model(cfg, spec, num_classes)
        if cfg.MODEL.SYNC_BN:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(device, memory_format=torch.channels_last)
        self.edges = self.model.trunk.droppable_edges() if spec else []
        self.optimizer = recipe.build_optimizer(cfg, self.model)
        kind, scales = torch.device(device).type, cfg.SOLVER.AMP == "fp16"
        self.scaler = torch.amp.GradScaler(kind, enabled=scales)
        self.mix = recipe.mixing(cfg, num_classes)
        decay = cfg.SOLVER.EMA_DECAY
        self.average = WeightAverage(self.model, decay) if decay > 0 else None
        if cfg.COMPILE:
            self.model.compile()  # in place, so that the state dict keeps its names
        self.parallel_model = world.parallel(self.model)

    @property
    def tested_model(self) -> nn.Module:
        """The model to evaluate and save: the average if there is one."""
        return self.average.model if self.average else self.model

    def state_dict(self) -> dict:
        """Everything that the next step depends on."""
        return {
            "model": self.model.state_dict(),
            "ema": self.average.model.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint of `state_dict`.

        Raises:
            UserError: a tensor is missing, unexpected or of another shape.
        """
        resume.load_weights(checkpoint.path, checkpoint.model, self.model)
        if self.average:
            resume.load_weights(checkpoint.path, checkpoint.ema, self.average.model)
        self.optimizer.load_state_dict(checkpoint.rest["optimizer"])
        self.scaler.load_state_dict(checkpoint.rest["scaler"])

    def step(self, iteration: int, parts: list[Batch]) -> Tensor:
        """Update the weights with this rank's share of the batch; returns its loss, a scalar.

        Randomness depends only on SEED, `iteration` and the rank.
        """
        self.set_learning_rate(iteration)
        self.drop_edge(iteration)
        seed = self._seed(DROPOUT, iteration, self.world.rank).generate_state(1)
        torch.manual_seed(int(seed[0]))
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(parts, start=1):
            accumulate = number < len(parts) and self.world.size > 1
            with self.parallel_model.no_sync() if accumulate else nullcontext():
                loss = self.loss(part) / len(parts)
                self.scaler.scale(loss).backward()
            total += loss.detach()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average:
            self.average.update(iteration + 1)
        return total

    def set_learning_rate(self, iteration: int) -> None:
        solver = self.cfg.SOLVER
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate(
                iteration,
                start=solver.WARMUP_LR,
                peak=recipe.peak_lr(self.cfg),
                warmup=solver.WARMUP_EPOCHS * self.epoch_length,
                total=solver.EPOCHS * self.epoch_length,
            )

    def drop_edge(self, iteration: int) -> None:
        """Choose at random the edge to drop, the same on all ranks, which share the mini-batch."""
        if self.edges:
            rng = np.random.default_rng(self._seed(EDGES, iteration, 0))
            edge = recipe.draw_edge(self.edges, self.cfg.MODEL.EDGE_DROP, rng)
            self.model.trunk.drop_edge(edge)

    def loss(self, part: Batch) -> Tensor:
        """The mean loss over the images of one part of the batch."""
        labels = part.labels.to(self.device, non_blocking=True)
        images, labels = self.mix(self.normalise(part.images), labels)
        with recipe.autocast(self.cfg, self.device):
            logits = self.parallel_model(images)
            return recipe.classification_loss(logits, labels, self.cfg.SOLVER.LABEL_SMOOTHING)

    def _seed(self, stream: int, iteration: int, rank: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.cfg.SEED, spawn_key=(stream, iteration, rank))
