"""One training iteration of a detector, seeded, with AMP on any device."""

import time

import numpy as np
import torch
from detectron2.engine import SimpleTrainer
from torch import nn

from ..errors import UserError
from ..run.average import WeightAverage
from ..run.parallel import World


class TrainStep(SimpleTrainer):
    """`SimpleTrainer` that seeds torch's generator in every iteration.

    The anchors and proposals that a detector samples depend only on seed, iteration and rank, so a
    resumed run samples the same as an unbroken one.

    Args:
        model, loader, optimizer: as in `SimpleTrainer`.
        seed: of the run.
        amp: autocast to fp16 with loss scaling on CUDA, to bf16 elsewhere.
        average: of the weights, updated in every iteration.
    """

    def __init__(
        self,
        model: nn.Module,
        loader,
        optimizer,
        *,
        seed: int,
        amp: bool,
        world: World,
        average: WeightAverage | None = None,
    ):
        super().__init__(model, loader, optimizer)
        device = next(model.parameters()).device.type
        self.seed, self.world, self.average = seed, world, average
        dtype = torch.float16 if device == "cuda" else torch.bfloat16
        self._autocast = torch.autocast(device, dtype, enabled=amp)
        self._scaler = torch.amp.GradScaler(device, enabled=amp and device == "cuda")

    def run_step(self) -> None:
        """Run one iteration.

        Raises:
            FloatingPointError: the loss of any rank is not finite; raised on all ranks.
            UserError: a rank cannot read an image.
        """
        start = time.perf_counter()
        batch = self.world.together(lambda: next(self._data_loader_iter))
        data_time = time.perf_counter() - start
        seed = np.random.SeedSequence(self.seed, spawn_key=(self.iter, self.world.rank))
        torch.manual_seed(int(seed.generate_state(1)[0]))
        with self._autocast:
            losses = self.model(batch)
            total = sum(losses.values())
        if self.world.any(not torch.isfinite(total)):
            raise FloatingPointError(f"the loss is not finite at iteration {self.iter}")
        self.optimizer.zero_grad()
        self._scaler.scale(total).backward()
        self._write_metrics(losses, data_time)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self.average:
            self.average.update(self.iter + 1)

    def state_dict(self) -> dict:
        return super().state_dict() | {"scaler": self._scaler.state_dict(), "seed": self.seed}

    def load_state_dict(self, state: dict) -> None:
        """Load what `state_dict` returned.

        Raises:
            UserError: the optimizer's state belongs to other parameters.
        """
        try:
            super().load_state_dict(state)
        except ValueError as error:
            raise UserError(
                f"the checkpoint's optimizer does not fit this run's ({error}): resume with the"
                " NORM, FREEZE_AT, SOLVER keys and version of randwire_det that the run was started"
                " with, or start another run with it as MODEL.WEIGHTS"
            ) from None
        self._scaler.load_state_dict(state["scaler"])
        self.seed = state["seed"]
