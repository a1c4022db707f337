"""Early stopping: when a training ends, and the weights of its best epoch."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class EarlyStopping:
    """Decides by held-out scores when training stops, and keeps the weights of the best epoch, on
    the host.

    The best epoch is the one of the highest score; of equal scores, that of the lowest loss, and of
    equal losses the first. Training stops after `patience` epochs in a row without a better one.

    Attributes:
        best: the number of the best epoch, from 1; 0 before the first.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], patience: int) -> None:
        self.best = 0
        self._parameters = parameters
        self._patience = patience
        self._epochs = 0
        self._result = (-math.inf, -math.inf)
        self._weights: list[Tensor] = []

    @torch.no_grad()
    def take(self, loss: float, score: float | None) -> None:
        """Take the held-out loss and score of the epoch that has ended, and keep the weights if it
        is the best. No score is worse than any."""
        self._epochs += 1
        result = (-math.inf if score is None else score, -loss)
        if self.best == 0 or result > self._result:
            self.best, self._result = self._epochs, result
            if not self._weights:
                self._weights = [torch.empty_like(p, device="cpu") for p in self._parameters]
            for kept, parameter in zip(self._weights, self._parameters, strict=True):
                kept.copy_(parameter)

    @property
    def is_over(self) -> bool:
        return self._epochs - self.best >= self._patience

    @torch.no_grad()
    def restore(self) -> bool:
        """Give the parameters their values after the best epoch; whether that changed them."""
        if self.best == self._epochs:
            return False
        for kept, parameter in zip(self._weights, self._parameters, strict=True):
            parameter.copy_(kept)
        return True
