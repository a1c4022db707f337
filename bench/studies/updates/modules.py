"""Spectra of a cell's updates: for each linear layer, each kind of layer, and all of them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from adapters.names import adapted_layers
from bench.studies.updates.cells import Trained
from bench.studies.updates.spectrum import FIGURES, Floats, Spectrum

_KINDS: Final = ("query", "key", "value", "attention output", "intermediate", "output")
KINDS: Final = dict(zip(adapted_layers("all-lin"), _KINDS, strict=True))
"""Kinds of linear layers by their names in checkpoints, after `encoder.layer.{n}.`, in order."""
MATRICES: Final = ("update", "random", "before")
"""The matrices of a module: what training added, a random one of its shape, the weight before."""
SIZE: Final = "relative_size"
_AXES: Final = ("cell_id", "task", "model", "mode", "rank", "layers", "amp", "seed")
COLUMNS: Final = (
    *("cell", *_AXES, "layer", "kind", "height", "width", SIZE),
    *FIGURES,
    *(f"random_{figure}" for figure in FIGURES),
    *(f"before_{figure}" for figure in FIGURES),
)
"""Columns of the CSV, which has a row for each cell and module. `rank` is the adapter's, as in
runs.csv; figures without a prefix are the update's."""


class Place(NamedTuple):
    """The place of a linear layer: the number of its encoder layer, from 0, and its kind."""

    layer: int
    kind: str


@dataclass(frozen=True, eq=False)
class Module:
    """A linear layer that training changed.

    Attributes:
        spectra: the spectrum of each of `MATRICES`.
        relative_size: the Frobenius norm of the update over that of the weight before training.
    """

    place: Place
    spectra: Mapping[str, Spectrum]
    relative_size: float

    @property
    def update(self) -> Spectrum:
        """The spectrum of the update."""
        return self.spectra["update"]


class Range(NamedTuple):
    """A figure's mean, least and most over some modules."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Update:
    """The modules that a cell's training changed; `unmoved` counts the unchanged ones."""

    cell: Trained
    modules: tuple[Module, ...]
    unmoved: int = 0

    def of_kind(self, kind: str) -> list[Module]:
        """The modules of a kind."""
        return [module for module in self.modules if module.place.kind == kind]

    @property
    def kinds(self) -> list[str]:
        """The kinds of its modules, in the order of `KINDS`."""
        return [kind for kind in KINDS.values() if self.of_kind(kind)]


def ranges(modules: Sequence[Module], matrix: str) -> dict[str, Range]:
    """The range of each figure over some modules; of updates also that of the relative size.

    Args:
        matrix: one of `MATRICES`.
    """
    figures = [module.spectra[matrix].figures() for module in modules]
    columns = {name: [of_module[name] for of_module in figures] for name in FIGURES}
    if matrix == "update":
        columns[SIZE] = [module.relative_size for module in modules]
    return {
        name: Range(sum(values) / len(values), min(values), max(values))
        for name, values in columns.items()
    }


def mean_energy(modules: Sequence[Module], matrix: str) -> Floats:
    """The mean share of energy in the k largest directions, for each k from 1."""
    curves = [module.spectra[matrix].shares for module in modules]
    longest = max(map(len, curves))
    padded = [np.pad(curve, (0, longest - len(curve)), constant_values=1.0) for curve in curves]
    mean: Floats = np.mean(padded, axis=0)
    return mean


def rows(updates: Sequence[Update]) -> list[dict[str, Any]]:
    """A row of `COLUMNS` for each cell and module."""
    return [
        {
            "cell": update.cell.name,
            **{name: update.cell.row[name] for name in _AXES},
            "layer": module.place.layer,
            "kind": module.place.kind,
            "height": module.update.rows,
            "width": module.update.columns,
            SIZE: module.relative_size,
            **{
                name if matrix == "update" else f"{matrix}_{name}": value
                for matrix in MATRICES
                for name, value in module.spectra[matrix].figures().items()
            },
        }
        for update in updates
        for module in update.modules
    ]


def as_json(update: Update) -> dict[str, Any]:
    """A cell with its figures over all modules and over those of each kind."""

    def summary(modules: Sequence[Module]) -> dict[str, Any]:
        return {
            matrix: {name: figure._asdict() for name, figure in ranges(modules, matrix).items()}
            for matrix in MATRICES
        }

    return {
        "cell": update.cell.name,
        **{name: update.cell.row[name] for name in _AXES},
        "modules": len(update.modules),
        "unmoved": update.unmoved,
        "over_all": summary(update.modules),
        "over_kinds": {kind: summary(update.of_kind(kind)) for kind in update.kinds},
    }
