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
    """`SimpleTrainer` whose every iteration draws from a generator of its own.

    What a detector samples (the anchors and proposals it trains on) then depends on seed,
    iteration and process alone, so that a resumed run draws what an unbroken one would have.

    Args:
        model, loader, optimizer: as of `SimpleTrainer`.
        seed: of the run.
        amp: autocast in fp16 with a scaled loss on CUDA, in bf16 elsewhere.
        average: of the weights, brought up to date by every step.
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
        """One update.

        Raises:
            FloatingPointError: the loss of any process is not finite; in all processes.
            UserError: one of them cannot read an image.
        """
        begun = time.perf_counter()
        batch = self.world.together(lambda: next(self._data_loader_iter))
        data_time = time.perf_counter() - begun
        lot = np.random.SeedSequence(self.seed, spawn_key=(self.iter, self.world.rank))
        torch.manual_seed(int(lot.generate_state(1)[0]))
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
        """Go on from what `state_dict` returned.

        Raises:
            UserError: the optimizer's state is of other parameters.
        """
        try:
            super().load_state_dict(state)
        except ValueError as error:
            raise UserError(
                f"the checkpoint's optimizer does not fit this run's ({error}): resume with the"
                " NORM, FREEZE_AT, SOLVER keys and version of randwire_det that began the run, or"
                " start another run with it as MODEL.WEIGHTS"
            ) from None
        self._scaler.load_state_dict(state["scaler"])
        self.seed = state["seed"]
