"""What is told of a cell's updates: module by module, over kinds of module, over all. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bench.studies.updates.cells import Trained
from bench.studies.updates.kinds import KINDS, Place
from bench.studies.updates.spectrum import FIGURES, Floats, Spectrum

OF: Final = ("update", "random", "before")
"""Matrices that are told: what training added, a random one of its shape, the weight before it."""
SIZE: Final = "relative_size"
_AXES: Final = ("cell_id", "task", "model", "mode", "rank", "layers", "amp", "seed")
COLUMNS: Final = (
    *("cell", *_AXES, "layer", "kind", "height", "width", SIZE),
    *FIGURES,
    *(f"random_{figure}" for figure in FIGURES),
    *(f"before_{figure}" for figure in FIGURES),
)
"""Of a CSV with a row for each cell and module. `rank` is the adapter's, as in runs.csv; figures
without a prefix are the update's."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Module:
    """A linear layer that training changed.

    Attributes:
        update: of what was added to its weight; `before` of the weight, `random` of a random
            matrix of the same shape.
        relative_size: the Frobenius norm of the update over that of the weight.
    """

    place: Place
    update: Spectrum
    before: Spectrum
    random: Spectrum
    relative_size: float

    def spectrum(self, of: str) -> Spectrum:
        """One of `OF`."""
        return {"update": self.update, "random": self.random, "before": self.before}[of]


@dataclass(frozen=True)
class Range:
    """A figure over some modules."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Update:
    """What a cell's training changed. `unmoved` counts the linear layers that are as they were."""

    cell: Trained
    modules: tuple[Module, ...]
    unmoved: int = 0

    def of_kind(self, kind: str) -> list[Module]:
        """Its modules of a kind."""
        return [module for module in self.modules if module.place.kind == kind]

    @property
    def kinds(self) -> list[str]:
        """The kinds that it has, in the format's order."""
        return [kind for kind in KINDS.values() if self.of_kind(kind)]


def over(modules: Sequence[Module], of: str) -> dict[str, Range]:
    """Each figure over some modules, with that of the relative size where it is of updates.

    Args:
        of: one of `OF`.

    Raises:
        ValueError: without modules.
    """
    told = [module.spectrum(of).figures() for module in modules]
    columns = {figure: [figures[figure] for figures in told] for figure in FIGURES}
    if of == "update":
        columns[SIZE] = [module.relative_size for module in modules]
    return {name: _range(values) for name, values in columns.items()}


def held(modules: Sequence[Module], of: str) -> Floats:
    """The mean share of energy in the k largest directions, for k from 1 to the most there are."""
    curves = [module.spectrum(of).held for module in modules]
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
            **module.update.figures(),
            **{f"random_{name}": value for name, value in module.random.figures().items()},
            **{f"before_{name}": value for name, value in module.before.figures().items()},
        }
        for update in updates
        for module in update.modules
    ]


def as_json(update: Update) -> dict[str, Any]:
    """A cell with its figures over all modules and over those of each kind."""
    return {
        "cell": update.cell.name,
        **{name: update.cell.row[name] for name in _AXES},
        "modules": len(update.modules),
        "unmoved": update.unmoved,
        "over_all": _summary(update.modules),
        "over_kinds": {kind: _summary(update.of_kind(kind)) for kind in update.kinds},
    }


def _summary(modules: Sequence[Module]) -> Mapping[str, Any]:
    return {of: {name: vars(each) for name, each in over(modules, of).items()} for of in OF}


def _range(values: Sequence[float]) -> Range:
    if not values:
        raise ValueError("there are no modules")
    return Range(sum(values) / len(values), min(values), max(values))
