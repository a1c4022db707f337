"""Checks after training that trainable parameters have moved and frozen ones have not."""

from typing import Final

import torch
from torch import Tensor, nn

from bench.common.messages import some_of
from bench.engines.engine import Engine

_NAMED: Final = 3
"""Parameters that a message names."""
_BITS: Final = {2: torch.int16, 4: torch.int32}
"""Integer types by the number of bytes of a floating-point type."""


class Movement:
    """Remembers a model's parameters by a sum of their bits, which is enough against accidents, and
    compares them after training."""

    def __init__(self, model: nn.Module, engine: Engine) -> None:
        self._model = model
        self._engine = engine
        self._before = {name: _sum_of_bits(p) for name, p in model.named_parameters()}

    def problem(self, *, every: bool = True) -> str | None:
        """One line that says what is wrong; None if nothing is.

        Every tensor of the head must have moved, and of every adapter those that its method moves;
        of an encoder that trains without adapters at least one tensor. No frozen tensor may move.
        Without `every`, as where a part of the task had no batch, one tensor of each must have
        moved.
        """
        named = dict(self._model.named_parameters())
        moved = {n for n, p in named.items() if not torch.equal(self._before[n], _sum_of_bits(p))}
        frozen = {name for name, parameter in named.items() if not parameter.requires_grad}
        if strayed := sorted(frozen & moved):
            return f"frozen tensors moved: {some_of(strayed, _NAMED)}"
        groups = self._engine.parameter_groups(self._model)
        head, adapter, base = (groups[name].keys() - frozen for name in ("head", "adapter", "base"))
        updates = self._engine.moving(self._model) - frozen
        for names, must_all in ((head, every), (updates, every), (adapter, False)):
            stuck = sorted(names - moved)
            if stuck and (must_all or len(stuck) == len(names)):
                return f"nothing was learned in: {some_of(stuck, _NAMED)}"
        return "the encoder was to train and did not move" if base and not moved & base else None


def _sum_of_bits(parameter: Tensor) -> Tensor:
    bits = parameter.detach().contiguous().view(_BITS[parameter.element_size()])
    return bits.sum(dtype=torch.int64)
