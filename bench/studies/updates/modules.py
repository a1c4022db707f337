"""Spectra of the linear layers that a cell's training changed. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from adapters.names import adapted_layers
from bench.studies.updates.cells import Trained
from bench.studies.updates.spectrum import FIGURES, Floats, Spectrum

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

Place = tuple[int, str]
"""The place of a linear layer: the number of its encoder layer, from 0, and its kind."""


@dataclass(frozen=True, eq=False)
class Module:
    """A linear layer that training changed.

    Attributes:
        spectra: the spectrum of each matrix in `PREFIXES`.
        relative_size: the Frobenius norm of the update over that of the weight before training.
    """

    place: Place
    spectra: Mapping[str, Spectrum]
    relative_size: float


@dataclass(frozen=True, eq=False)
class Update:
    """The modules that a cell's training changed; `unmoved` counts the unchanged ones."""

    cell: Trained
    modules: tuple[Module, ...]
    unmoved: int = 0


def mean_energy(modules: Sequence[Module], matrix: str) -> Floats:
    """The mean share of energy in the k largest directions, for each k from 1."""
    curves = [module.spectra[matrix].shares for module in modules]
    longest = max(map(len, curves))
    padded = [np.pad(curve, (0, longest - len(curve)), constant_values=1.0) for curve in curves]
    mean: Floats = np.mean(padded, axis=0)
    return mean


def rows_of(updates: Sequence[Update]) -> list[dict[str, Any]]:
    """A row of `COLUMNS` for each cell and module."""
    rows = []
    for update in updates:
        axes = {"cell": update.cell.name, **{name: update.cell.row[name] for name in AXES}}
        for module in update.modules:
            (layer, kind), (height, width) = module.place, module.spectra["update"].shape
            row = {**axes, "layer": layer, "kind": kind, "height": height, "width": width}
            row[SIZE] = module.relative_size
            for matrix, prefix in PREFIXES.items():
                figures = module.spectra[matrix].figures()
                row |= {f"{prefix}{name}": value for name, value in figures.items()}
            rows.append(row)
    return rows
