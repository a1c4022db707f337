"""Spectra of the linear layers that a cell's training changed: rank and energy of a matrix, from
its singular values s. Pure.

Letters in shapes: o rows, i columns, m = min(o, i) singular values. Energy is the squared Frobenius
norm, the sum of s²; the best matrix of rank k keeps that of the k largest (Eckart and Young 1936).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final

import numpy as np

from adapters.names import adapted_layers
from bench.stats.intervals import Floats
from bench.studies.updates.cells import KeptCell

PERCENTS: Final = (50, 90, 99)  # shares of the energy for which a rank is computed
TOPS: Final = (1, 5, 8, 10)
"""Numbers of directions whose share of the energy is computed; all but 8 as in arXiv 2508.17586."""
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
        return np.asarray(sums / sums[-1])

    def rank_for(self, share: float) -> int:
        """The least k whose largest directions hold a share (below 1) of the energy."""
        return int(np.searchsorted(self.shares, share)) + 1

    def figures(self) -> dict[str, int | float]:
        """All figures by the names in `FIGURES`. `nonzero` counts singular values above rounding
        error, as numpy's `matrix_rank`. The stable rank is the energy over the largest s² (Rudelson
        and Vershynin 2007), the effective rank the exponential of the entropy of s / Σ s (Roy and
        Vetterli 2007); both are from 1 to the rank."""
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
    """The spectrum of a matrix [o, i]; ValueError for one that is all zero or not finite."""
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


_KINDS: Final = ("query", "key", "value", "attention output", "intermediate", "output")
KINDS: Final = dict(zip(adapted_layers("all-lin"), _KINDS, strict=True))
"""Kinds of linear layers by their names in checkpoints, after `encoder.layer.{n}.`, in order."""
PREFIXES: Final = {"update": "", "random": "random_", "before": "before_"}
"""The matrices of a module, with the prefix of their columns: what training added, a random one of
its shape, the weight before."""
SIZE: Final = "relative_size"
AXES: Final = ("cell_id", "task", "model", "mode", "rank", "layers", "amp", "seed")
COLUMNS: Final = (
    *("cell", *AXES, "layer", "kind", "height", "width", SIZE),
    *(f"{prefix}{figure}" for prefix in PREFIXES.values() for figure in FIGURES),
)
"""Columns of the CSV, which has a row for each cell and module. `rank` is the adapter's, as in
runs.csv; figures without a prefix are the update's."""

Position = tuple[int, str]
"""The position of a linear layer: the number of its encoder layer, from 0, and its kind."""


@dataclass(frozen=True, eq=False)
class Module:
    """A linear layer that training changed, with the spectrum of each matrix in `PREFIXES`, and the
    Frobenius norm of the update over that of the weight before training."""

    position: Position
    spectra: Mapping[str, Spectrum]
    relative_size: float


@dataclass(frozen=True, eq=False)
class Update:
    """The modules that a cell's training changed; `unmoved` counts the unchanged ones."""

    cell: KeptCell
    modules: tuple[Module, ...]
    unmoved: int = 0


def mean_energy(modules: Sequence[Module], matrix: str) -> Floats:
    """The mean share of energy in the k largest directions, for each k from 1."""
    curves = [module.spectra[matrix].shares for module in modules]
    longest = max(map(len, curves))
    padded = [np.pad(curve, (0, longest - len(curve)), constant_values=1.0) for curve in curves]
    return np.asarray(np.mean(padded, axis=0))


def rows_of(updates: Sequence[Update]) -> list[dict[str, Any]]:
    rows = []
    for update in updates:
        axes = {"cell": update.cell.label, **{name: update.cell.row[name] for name in AXES}}
        for module in update.modules:
            (layer, kind), (height, width) = module.position, module.spectra["update"].shape
            row = {**axes, "layer": layer, "kind": kind, "height": height, "width": width}
            row[SIZE] = module.relative_size
            for matrix, prefix in PREFIXES.items():
                figures = module.spectra[matrix].figures()
                row |= {f"{prefix}{name}": value for name, value in figures.items()}
            rows.append(row)
    return rows
