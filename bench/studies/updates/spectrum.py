"""How much of a matrix lies in how few directions, from its singular values s. Pure.

Letters in shapes: o rows, i columns, m = min(o, i) singular values. Energy is the squared Frobenius
norm, the sum of s²; the best matrix of rank k keeps that of the k largest (Eckart and Young 1936).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PERCENTS: Final = (50, 90, 99)
"""Shares of the energy whose rank is told."""
TOPS: Final = (1, 5, 8, 10)
"""Directions whose share of the energy is told: 1, 5 and 10, ranks of arXiv 2508.17586, and 8."""
FIGURES: Final = (
    *("nonzero", "stable_rank", "effective_rank"),
    *(f"rank_{percent}" for percent in PERCENTS),
    *(f"energy_{top}" for top in TOPS),
)
"""What is told of a matrix, as columns name it."""
_SEED: Final = 0


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The singular values [m] of a matrix [o, i] that is not zero, largest first.

    Attributes:
        rows, columns: o and i.
    """

    rows: int
    columns: int
    values: Floats

    @property
    def norm(self) -> float:
        """The Frobenius norm."""
        return float(np.linalg.norm(self.values))

    @cached_property
    def held(self) -> Floats:
        """The share of the energy in the k largest directions, for k from 1 to m, [m]."""
        energies = (self.values / self.values[0]) ** 2
        sums = np.cumsum(energies)
        shares: Floats = sums / sums[-1]
        return shares

    @property
    def nonzero(self) -> int:
        """Singular values that are more than rounding, as numpy's `matrix_rank` counts them."""
        least = self.values[0] * max(self.rows, self.columns) * np.finfo(np.float64).eps
        return int((self.values > least).sum())

    @property
    def stable_rank(self) -> float:
        """Energy over the largest s² (Rudelson and Vershynin 2007): from 1 to the rank."""
        return float(((self.values / self.values[0]) ** 2).sum())

    @property
    def effective_rank(self) -> float:
        """The exponential of the entropy of s / Σ s (Roy and Vetterli 2007): from 1 to the rank."""
        shares = self.values[self.values > 0] / self.values.sum()
        return float(np.exp(-(shares * np.log(shares)).sum()))

    def rank_for(self, share: float) -> int:
        """The least k whose directions hold a share, below 1, of the energy."""
        return int(np.searchsorted(self.held, share)) + 1

    def energy(self, top: int) -> float:
        """The share of the energy in the `top` largest directions; in none it is 0."""
        return float(self.held[min(top, len(self.held)) - 1]) if top > 0 else 0.0

    def figures(self) -> Mapping[str, int | float]:
        """All that is told, by the names of `FIGURES`."""
        return {
            "nonzero": self.nonzero,
            "stable_rank": self.stable_rank,
            "effective_rank": self.effective_rank,
            **{f"rank_{percent}": self.rank_for(percent / 100) for percent in PERCENTS},
            **{f"energy_{top}": self.energy(top) for top in TOPS},
        }


def spectrum_of(matrix: Floats) -> Spectrum:
    """The spectrum of a matrix [o, i].

    Raises:
        ValueError: for one that is all zero, or holds a number that is not finite.
    """
    if not np.isfinite(matrix).all():
        raise ValueError("holds numbers that are not finite")
    if not matrix.any():
        raise ValueError("is all zero")
    rows, columns = matrix.shape
    values = np.linalg.svd(matrix, compute_uv=False)
    return Spectrum(rows, columns, values.astype(np.float64, copy=False))


@cache
def random_spectrum(rows: int, columns: int) -> Spectrum:
    """That of a matrix of independent normal numbers, the same ones in every run.

    It is what no structure looks like: scale changes none of the figures.
    """
    drawn = np.random.default_rng([_SEED, rows, columns]).standard_normal((rows, columns))
    return spectrum_of(drawn)
