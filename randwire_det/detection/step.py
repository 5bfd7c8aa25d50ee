"""One training iteration of a detector, seeded, with AMP on any device and a batch in parts."""

import time
from contextlib import nullcontext
from statistics import mean

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn

from ..errors import UsageError, UserError
from ..run.average import WeightAverage
from ..run.parallel import World

NORMALIZER = "loss_normalizer"  # RetinaNet's and FCOS' attribute


def amp_dtype(cfg: CfgNode) -> torch.dtype | None:
    """The dtype of autocast that SOLVER.AMP and MODEL.DEVICE say; None for none."""
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    auto = "fp16" if cfg.MODEL.DEVICE.startswith("cuda") else "bf16"
    name = auto if cfg.SOLVER.AMP.DTYPE == "auto" else cfg.SOLVER.AMP.DTYPE
    return {"fp16": torch.float16, "bf16": torch.bfloat16}[name]


class TrainStep(SimpleTrainer):
    """`SimpleTrainer` that seeds torch's generator in every iteration.

    The anchors and proposals that a detector samples depend only on seed, iteration and rank, so a
    resumed run samples the same as an unbroken one.

    Args:
        model, loader, optimizer: as in `SimpleTrainer`.
        seed: of the run.
        amp: the dtype of autocast, None for none; fp16 scales the loss.
        parts: of each batch, which go through the model one after the other.
        average: of the weights, updated in every iteration.
    """

    def __init__(
        self,
        model: nn.Module,
        loader,
        optimizer,
        *,
        seed: int,
        amp: torch.dtype | None,
        world: World,
        parts: int = 1,
        average: WeightAverage | None = None,
    ):
        super().__init__(model, loader, optimizer)
        device = next(model.parameters()).device.type
        self.seed, self.world, self.average, self.parts = seed, world, average, parts
        self._autocast = torch.autocast(device, amp, enabled=amp is not None)
        self._scaler = torch.amp.GradScaler(device, enabled=amp is torch.float16)
        self._normalizers = []

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
        self.optimizer.zero_grad()
        size, rest = divmod(len(batch), self.parts)
        if rest:
            raise UsageError(f"SOLVER.ACCUMULATE {self.parts}: a batch has {len(batch)} images")
        means = {}
        for end in range(size, len(batch) + 1, size):
            # DDP adds up gradients over processes in the last part.
            alone = end == len(batch) or self.world.size == 1
            with nullcontext() if alone else self.model.no_sync():
                for name, loss in self._backward(batch[end - size : end]).items():
                    means[name] = means.get(name, 0) + loss
        self._write_metrics(means, data_time)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self.average:
            self.average.update(self.iter + 1)

    def _backward(self, part: list[dict]) -> dict[str, Tensor]:
        """Add the gradients of a part; returns its share of the batch's losses."""
        with self._autocast:
            losses = {name: loss / self.parts for name, loss in self.model(part).items()}
            total = sum(losses.values())
        if self.world.any(not torch.isfinite(total)):
            raise FloatingPointError(f"the loss is not finite at iteration {self.iter}")
        self._scaler.scale(total).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def collect(self) -> None:
        """To be called in all ranks before `state_dict`, as each has an average of its own of the
        anchors that RetinaNet divides its loss by; it is no buffer of the model."""
        model = getattr(self.model, "module", self.model)
        self._normalizers = self.world.gather([getattr(model, NORMALIZER, None)])

    def state_dict(self) -> dict:
        return super().state_dict() | {
            "scaler": self._scaler.state_dict(),
            "seed": self.seed,
            NORMALIZER: self._normalizers,
        }

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
        stored = [each for each in state.get(NORMALIZER, []) if each is not None]
        if stored:
            mine = stored[self.world.rank] if len(stored) == self.world.size else mean(stored)
            setattr(getattr(self.model, "module", self.model), NORMALIZER, mine)
