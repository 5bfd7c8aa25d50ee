"""Exponential moving average of a model's weights, which often beats the final weights."""

import copy

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of a model's weights; integer counters and digests are copied.

    Args:
        model: the average starts as a copy of it.
        decay: weight of the old average in an update. Update n uses min(decay, (1 + n) / (10 + n)),
            so that the initial weights are forgotten quickly.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        ours, theirs = self.model.state_dict(), model.state_dict()  # views: they stay the latest
        averaged = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        self._averages = [ours[name] for name in averaged], [theirs[name] for name in averaged]
        self._copies = [(ours[name], theirs[name]) for name in ours.keys() - set(averaged)]

    def update(self, n: int) -> None:
        """Update the average with the model's current weights."""
        decay = min(self.decay, (1 + n) / (10 + n))
        get_ema_multi_avg_fn(decay)(*self._averages, n)
        for ours, theirs in self._copies:
            ours.copy_(theirs)
