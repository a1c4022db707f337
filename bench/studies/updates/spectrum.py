"""The spectrum of a matrix: its rank and energy, from its singular values s. Pure.

Letters in shapes: o rows, i columns, m = min(o, i) singular values. Energy is the squared Frobenius
norm, the sum of s²; the best matrix of rank k keeps that of the k largest (Eckart and Young 1936).
"""

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


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The singular values [m] of a matrix of a shape (o, i) that is not zero, largest first."""

    shape: tuple[int, ...]
    values: Floats

    @cached_property
    def shares(self) -> Floats:
        """The share of the energy in the k largest directions, for k from 1 to m, [m]."""
        sums = np.cumsum((self.values / self.values[0]) ** 2)
        energy_shares: Floats = sums / sums[-1]
        return energy_shares

    def rank_for(self, share: float) -> int:
        """The least k whose largest directions hold a share (below 1) of the energy."""
        return int(np.searchsorted(self.shares, share)) + 1

    def figures(self) -> dict[str, int | float]:
        """All figures by the names in `FIGURES`.

        `nonzero` counts singular values above rounding error, as numpy's `matrix_rank`. The stable
        rank is the energy over the largest s² (Rudelson and Vershynin 2007), the effective rank the
        exponential of the entropy of s / Σ s (Roy and Vetterli 2007); both are from 1 to the rank.
        """
        values, largest = self.values, self.values[0]
        shares = values[values > 0] / values.sum()
        return {
            "nonzero": int((values > largest * max(self.shape) * np.finfo(np.float64).eps).sum()),
            "stable_rank": float(((values / largest) ** 2).sum()),
            "effective_rank": float(np.exp(-(shares * np.log(shares)).sum())),
            **{f"rank_{percent}": self.rank_for(percent / 100) for percent in PERCENTS},
            **{f"energy_{top}": float(self.shares[:top][-1]) for top in TOPS},
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
    values = np.linalg.svd(matrix, compute_uv=False)
    return Spectrum(matrix.shape, values.astype(np.float64, copy=False))


@cache
def random_spectrum(shape: tuple[int, ...]) -> Spectrum:
    """The spectrum of a matrix of independent normal numbers, the same in every run: a baseline
    without structure. Its scale changes none of the figures."""
    return spectrum_of(np.random.default_rng([0, *shape]).standard_normal(shape))
