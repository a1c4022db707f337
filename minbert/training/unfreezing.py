"""Gradual unfreezing of layers, epoch by epoch (ULMFiT, Howard and Ruder 2018, arXiv
1801.06146, by quarters of the encoder)."""

from collections.abc import Mapping

from torch import nn

from minbert.training.schedules import QUARTERS, layers_in

Location = tuple[str, int | None]
"""An encoder, and a layer of it; None for embeddings and a pooler."""


class GradualUnfreezing:
    """Freezes a model, and lets it train again from the top, epoch by epoch.

    Only parameters that are trainable when this is made will ever train; those without a place, as
    of the head, from the first epoch. Embeddings, and a pooler from the checkpoint, train once all
    layers do. Adapters are unfrozen with their layer.
    """

    def __init__(self, model: nn.Module, places: Mapping[str, Location | None]) -> None:
        self._first_epochs: dict[nn.Parameter, int] = {}
        parameters = {
            parameter: place
            for name, parameter in model.named_parameters()
            if (place := places.get(name)) is not None
        }
        depths: dict[str, int] = {}
        for encoder, layer in parameters.values():
            if layer is not None:
                depths[encoder] = max(depths.get(encoder, 0), layer + 1)
        for parameter, (encoder, layer) in parameters.items():
            if parameter.requires_grad:
                depth = depths.get(encoder, 0)
                above = 0 if layer is None else depth - layer  # layers down to this one
                epochs = (n for n in range(QUARTERS) if 0 < above <= layers_in(n, depth))
                self._first_epochs[parameter] = next(epochs, QUARTERS)

    def begin(self, epoch: int) -> None:
        """Make the parameters trainable that train in an epoch, from 0, and freeze the others."""
        for parameter, first in self._first_epochs.items():
            parameter.requires_grad_(epoch >= first)
