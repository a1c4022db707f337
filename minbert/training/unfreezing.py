"""Gradual unfreezing of layers, epoch by epoch (ULMFiT, Howard and Ruder 2018, arXiv
1801.06146, by quarters of the encoder)."""

import re
from typing import Final

from torch import nn

from minbert.training.quarters import QUARTERS, layers_in

ALL: Final = "all"
ITERATIVE: Final = "iterative"
UNFREEZINGS: Final = (ALL, ITERATIVE)

_ENCODER: Final = re.compile(r"(bert\w*)\.(?:encoder\.layer\.(\d+)\.|embeddings\.|pooler\.)")


class GradualUnfreezing:
    """Freezes a model, and lets it train again from the top, epoch by epoch.

    Only parameters that are trainable when this is made will ever train; the head trains from the
    first epoch. Embeddings, and a pooler from the checkpoint, train once all layers do. Adapters
    are unfrozen with their layer.

    Args:
        model: its encoders' parameters are named `bert….encoder.layer.N.…`, as in checkpoints.
        always: names of further parameters that train from the first epoch, such as those of a new
            pooler.
    """

    def __init__(self, model: nn.Module, always: frozenset[str] = frozenset()) -> None:
        self._held: list[tuple[nn.Parameter, str, int | None]] = []
        self._depths: dict[str, int] = {}
        for name, parameter in model.named_parameters():
            if not (match := _ENCODER.match(name)) or name in always:
                continue
            tower, layer = match.groups()
            if layer is not None:
                self._depths[tower] = max(self._depths.get(tower, 0), int(layer) + 1)
            if parameter.requires_grad:
                self._held.append((parameter, tower, None if layer is None else int(layer)))

    def begin(self, epoch: int) -> None:
        """Make the parameters trainable that train in an epoch, from 0, and freeze the others."""
        for parameter, tower, layer in self._held:
            parameter.requires_grad_(self._trains(epoch, tower, layer))

    def frozen(self, epoch: int) -> set[nn.Parameter]:
        """The parameters that this freezes in an epoch, from 0."""
        return {
            parameter
            for parameter, tower, layer in self._held
            if not self._trains(epoch, tower, layer)
        }

    def _trains(self, epoch: int, tower: str, layer: int | None) -> bool:
        if layer is None:
            return epoch >= QUARTERS
        depth = self._depths[tower]
        return layer >= depth - layers_in(epoch, depth)
