"""A variant's memory and work as formulae of the batch size and the length. Free of torch.

Every size in a step is a constant times powers of the number of examples in a batch and of the
tokens of each. So the memory of a moment is a sum of such terms, and the peak, which grows with
both, is the largest of some moments.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.forecast.costs import Load


class Formulae(NamedTuple):
    """What a step and an evaluation take, by coefficients of `terms`: powers of the batch size and
    of the length. `moments` has the MiB of gradients, of activations, which the forward pass keeps
    for the backward pass, and of other tensors, [M, 3, T], at each moment that may be the peak.
    Work is that of a batch."""

    weights_mib: float
    optimizer_mib: float
    terms: Sequence[tuple[int, int]]
    moments: Sequence[Sequence[Sequence[float]]]
    kernels: float
    gflop: Sequence[float]
    moved_mib: Sequence[float]
    imports_mib: float = 0.0
    mapped_mib: float = 0.0  # of the imports, in files

    def _powers(self, batch: float, length: float) -> NDArray[np.float64]:
        return np.array([float(batch) ** b * float(length) ** n for b, n in self.terms])

    def tensors_mib(self, batch: float, length: float) -> tuple[float, float, float]:
        """Gradients, activations and other tensors at the peak."""
        moments = np.asarray(self.moments) @ self._powers(batch, length)
        gradients, activations, others = map(float, moments[moments.sum(axis=1).argmax()])
        return gradients, activations, others

    def load(self, batch: float, length: float) -> Load:
        powers = self._powers(batch, length)
        return Load(self.kernels, float(powers @ self.gflop), float(powers @ self.moved_mib))
