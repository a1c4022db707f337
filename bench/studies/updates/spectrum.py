"""The spectrum of a matrix: its rank and energy, from its singular values s. Pure.

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
"""Shares of the energy for which a rank is computed."""
TOPS: Final = (1, 5, 8, 10)
"""Numbers of directions whose share of the energy is computed: 1, 5 and 10, as in arXiv 2508.17586,
and 8."""
FIGURES: Final = (
    *("nonzero", "stable_rank", "effective_rank"),
    *(f"rank_{percent}" for percent in PERCENTS),
    *(f"energy_{top}" for top in TOPS),
)
"""The names of a spectrum's figures, as in columns."""
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
    def shares(self) -> Floats:
        """The share of the energy in the k largest directions, for k from 1 to m, [m]."""
        energies = (self.values / self.values[0]) ** 2
        sums = np.cumsum(energies)
        energy_shares: Floats = sums / sums[-1]
        return energy_shares

    @property
    def nonzero(self) -> int:
        """The number of singular values above rounding error, as numpy's `matrix_rank` counts."""
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
        """The least k whose largest directions hold a share (below 1) of the energy."""
        return int(np.searchsorted(self.shares, share)) + 1

    def energy(self, top: int) -> float:
        """The share of the energy in the `top` largest directions; 0 for none."""
        return float(self.shares[min(top, len(self.shares)) - 1]) if top > 0 else 0.0

    def figures(self) -> Mapping[str, int | float]:
        """All figures by the names in `FIGURES`."""
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
        ValueError: for one that is all zero or not finite.
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
    """The spectrum of a matrix of independent normal numbers, the same in every run: a baseline
    without structure. Its scale changes none of the figures."""
    drawn = np.random.default_rng([_SEED, rows, columns]).standard_normal((rows, columns))
    return spectrum_of(drawn)
