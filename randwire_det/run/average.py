"""The average of a model's weights over a training, which often does better than the last ones."""

import copy

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of a model's weights; its counters and digest are just copied.

    Args:
        model: the average starts as a copy of it.
        decay: share of the average that stays at each update. It is (1 + n) / (10 + n) at update n
            where that is less, so that the first random weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        ours, theirs = self.model.state_dict(), model.state_dict()  # views: they stay the latest
        averaged = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        self._averages = [ours[name] for name in averaged], [theirs[name] for name in averaged]
        self._copies = [(ours[name], theirs[name]) for name in ours.keys() - set(averaged)]

    def update(self, n: int) -> None:
        """Take in the model's weights as they are now."""
        decay = min(self.decay, (1 + n) / (10 + n))
        get_ema_multi_avg_fn(decay)(*self._averages, n)
        for ours, theirs in self._copies:
            ours.copy_(theirs)
