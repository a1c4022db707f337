"""A variant's memory and work as formulae of the batch size and the length. Free of torch.

Every size in a step is a constant times powers of the number of examples in a batch and of the
tokens of each, so the memory of any moment is a sum of such terms, and the peak is the largest of
some moments. It grows with both.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.forecast.costs import Load, Variant
from bench.forecast.fit import apply
from bench.forecast.forecast import load_features, memory_prior, peak_features, time_prior

LARGEST_BATCH: Final = 65_536
"""The most examples that a batch of a grid may have."""
CONTEXT_MIB: Final = 550.0
"""What the driver holds for a process on a GPU: docs/measuring.md has 300 to 550 MiB."""
WORKSPACES_MIB: Final = 32.0
"""What libraries of products hold on a GPU: 8 MiB for each handle and stream, 32 on Hopper."""
RESERVE: Final = 0.1
"""Share of the tensors' memory that torch's allocator on a GPU holds beyond it."""


class Formulae(NamedTuple):
    """What one step and one evaluation take, by the coefficients of `terms`: powers of the batch
    size and of the length. `moments` has the MiB of gradients, of activations, which the forward
    pass keeps for the backward pass, and of other tensors, [M, 3, T], of each moment that may be
    the peak. Work is that of a batch."""

    weights_mib: float
    optimizer_mib: float
    terms: Sequence[tuple[int, int]]
    moments: Sequence[Sequence[Sequence[float]]]
    kernels: float
    gflop: Sequence[float]
    moved_mib: Sequence[float]
    imports_mib: float = 0.0

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


def memory_mib(
    formulae: Formulae, variant: Variant, device: str, batch: float, length: float
) -> dict[str, float]:
    """The parts of a worker's peak, whose sum it is: its resident set on a CPU, and what it holds
    on a GPU. The rest are temporary tensors and, on a CPU, what its allocator keeps."""
    weights, optimizer = formulae.weights_mib, formulae.optimizer_mib
    tensors = formulae.tensors_mib(batch, length)
    lasting, passing = weights + optimizer, sum(tensors)
    peak = apply(memory_prior(device).values, peak_features(variant, lasting, passing))
    gradients, activations, _ = tensors
    owned = {
        "weights": weights, "gradients": gradients, "optimizer": optimizer,
        "activations": activations, "rest": peak - lasting - gradients - activations,
    }  # fmt: skip
    if device == "cpu":
        return {"libraries": formulae.imports_mib, **owned}
    others = {"context": CONTEXT_MIB, "workspaces": WORKSPACES_MIB, "reserve": RESERVE * peak}
    return {**owned, **others}


def ms_per_1k_tokens(
    formulae: Formulae, variant: Variant, device: str, threads: int, batch: float, length: float
) -> float:
    """The time of a step for 1,000 tokens at a typical machine's rates."""
    features = load_features(variant, formulae.load(batch, length))
    seconds = apply(time_prior(device, threads).values[1:], features)
    return 1e6 * seconds / (batch * length)


def largest_batch(
    formulae: Formulae, variant: Variant, device: str, length: float, limit_mib: float
) -> int:
    """The largest batch whose peak is within a limit, up to `LARGEST_BATCH`; 0 if none is."""

    def fits(batch: int) -> bool:
        return total_mib(memory_mib(formulae, variant, device, batch, length)) <= limit_mib

    low, high = 0, LARGEST_BATCH + 1  # one that fits, and one that does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def total_mib(parts: Mapping[str, float]) -> float:
    return sum(parts.values())
