"""Whether training did what a mode says: what trains has moved, and what is frozen has not."""

from collections.abc import Set
from typing import Final

import torch
from torch import Tensor, nn

from adapters.injection import parameter_groups, training_of
from adapters.methods import METHODS

_NAMED: Final = 3
_BITS: Final = {2: torch.int16, 4: torch.int32}
"""By the bytes of a number, integers of the same width."""


class Movement:
    """Remembers a model's parameters by a sum of their bits, and compares them after training.

    A sum is enough against accidents, costs no memory, and stays on the device.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before = {name: _sum_of_bits(p) for name, p in model.named_parameters()}

    def problem(
        self, held: Set[nn.Parameter] = frozenset(), idle: Set[nn.Parameter] = frozenset()
    ) -> str | None:
        """What is wrong, in a line; None if nothing is.

        Every tensor of the head and every adapter (what its method moves) must have moved;
        of an encoder that trains without an adapter, at least one tensor. No frozen tensor may.

        Args:
            held: what would train, and was frozen in all epochs there were.
            idle: what trains and need not move, as the loss does not depend on it.
        """
        moved = {
            name
            for name, parameter in self._model.named_parameters()
            if not torch.equal(self._before[name], _sum_of_bits(parameter))
        }
        named = dict(self._model.named_parameters())
        frozen = {name for name, p in named.items() if not p.requires_grad or p in held}
        if strayed := sorted(frozen & moved):
            return f"frozen tensors moved: {_some(strayed)}"
        groups = parameter_groups(self._model)
        mode = training_of(self._model).mode
        moves = METHODS[mode].moves if mode in METHODS else ()
        updates = [name for name in groups["adapter"] if name.rpartition(".")[2] in moves]
        wanted = [*groups["head"], *updates]
        excused = {name for name, parameter in named.items() if parameter in idle}
        if stuck := sorted(set(wanted) - moved - frozen - excused):
            return f"nothing was learned in: {_some(stuck)}"
        base = groups["base"].keys() - frozen
        if base and not moved & base:
            return "the encoder was to train and did not move"
        return None


def _sum_of_bits(parameter: Tensor) -> Tensor:
    bits = parameter.detach().contiguous().view(_BITS[parameter.element_size()])
    return bits.sum(dtype=torch.int64)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
