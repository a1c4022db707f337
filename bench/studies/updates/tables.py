"""Updates as tables and sentences, for a terminal and a page. Loads pandas and matplotlib."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import pandas as pd

from adapters.methods import METHODS
from bench.report.pages import sentences
from bench.report.tables import DASH, Table, table
from bench.report.text import fixed
from bench.studies.updates.modules import AXES, FIGURES, KINDS, PREFIXES, SIZE, Update, rows_of
from bench.studies.updates.truncation import Truncation

_MATRICES: Final = {"update": "update", "random": "random, its shape", "before": "weight before"}
_ENERGIES: Final = [name for name in FIGURES if name.startswith("energy_")]
_RANKS: Final = [name for name in (*FIGURES, SIZE) if name not in _ENERGIES]
_BY_KIND: Final = ({*_RANKS} - {"nonzero", "effective_rank"}) | {"random_rank_90"}


def frame_of(updates: Sequence[Update]) -> pd.DataFrame:
    """The rows of the CSV, with kinds in the order of `KINDS`."""
    frame = pd.DataFrame(rows_of(updates))
    return frame.assign(kind=pd.Categorical(frame["kind"], list(KINDS.values())))


def range_of(modules: pd.DataFrame, column: str) -> dict[str, float]:
    """The mean, the least and the largest of a column, as `mean`, `low` and `high`."""
    values = modules[column]
    ends = {"low": values.min().item(), "high": values.max().item()}
    return {"mean": float(values.mean()), **ends}


def as_json(updates: Sequence[Update]) -> list[dict[str, Any]]:
    """Cells with the range of each figure over all modules and over those of each kind."""

    def summary(modules: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
        return {
            matrix: {
                name: range_of(modules, f"{prefix}{name}")
                for name in (*FIGURES, SIZE)
                if f"{prefix}{name}" in modules
            }
            for matrix, prefix in PREFIXES.items()
        }

    frame = frame_of(updates)
    cells = []
    for update in updates:
        modules = frame[frame["cell"] == update.cell.label]
        cells.append({
            "cell": update.cell.label,
            **{name: update.cell.row[name] for name in AXES},
            "modules": len(modules),
            "unmoved": update.unmoved,
            "over_all": summary(modules),
            "over_kinds": {kind: summary(rows) for kind, rows in _by_kind(modules)},
        })  # fmt: skip
    return cells


def tables(updates: Sequence[Update], truncations: Sequence[Truncation]) -> list[Table]:
    """The tables on a terminal: over all modules, by kind, and scores by rank if there are any."""
    frame, means = frame_of(updates), "mean over linear layers (least to most)"
    spectra = [
        _over_all(frame, _RANKS, f"Directions of an update: {means}"),
        _over_all(frame, _ENERGIES, f"Share of the energy in the largest directions: {means}"),
        _kinds_table(frame),
    ]
    return [*spectra, _scores(truncations)] if truncations else spectra


def module_table(updates: Sequence[Update]) -> Table:
    rows = [
        {
            "cell": row["cell"],
            "layer": str(row["layer"]),
            "kind": row["kind"],
            "shape": f"{row['height']} × {row['width']}",
            SIZE: fixed(row[SIZE], 4),
            **{name: fixed(row[name], _digits(name)) for name in FIGURES},
        }
        for row in rows_of(updates)
    ]
    return table("updates", rows, "Every linear layer", folded=True)


def findings(updates: Sequence[Update], truncations: Sequence[Truncation]) -> list[str]:
    energies = []
    for update in updates:
        frame = frame_of([update])
        own, random = (range_of(frame, f"{prefix}rank_90") for prefix in ("", "random_"))
        sizes = sorted({len(module.spectra["update"].values) for module in update.modules})
        size = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        mean = frame.mean(numeric_only=True)
        energies.append((update.cell.label, size, mean, own, random, len(frame)))
    return sentences("updates_findings", truncations=truncations, energies=energies)


def explanations(updates: Sequence[Update]) -> list[str]:
    modes = {update.cell.row.mode for update in updates}
    readings = [method.reading for name, method in METHODS.usable().items() if name in modes]
    return sentences("updates", updates=updates, readings=filter(None, readings))


def _by_kind(modules: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    return ((str(kind), rows) for kind, rows in modules.groupby("kind", observed=True))


def _over_all(frame: pd.DataFrame, columns: Iterable[str], caption: str) -> Table:
    rows = [
        {
            "cell": str(cell) if matrix == "update" else "",
            "of": _MATRICES[matrix],
            **{name: _range_text(modules, name, prefix) for name in columns},
        }
        for cell, modules in frame.groupby("cell", sort=False)
        for matrix, prefix in PREFIXES.items()
    ]
    return table("updates", rows, caption, ["baseline" if row["cell"] else "" for row in rows])


def _kinds_table(frame: pd.DataFrame) -> Table:
    rows = [
        {
            "cell": "" if number else str(cell),
            "kind": kind,
            **{name: _range_text(of_kind, name) for name in _BY_KIND},
        }
        for cell, modules in frame.groupby("cell", sort=False)
        for number, (kind, of_kind) in enumerate(_by_kind(modules))
    ]
    return table("updates", rows, "By kind of linear layer: mean over layers (least to most)")


def _scores(truncations: Sequence[Truncation]) -> Table:
    rows = [
        {
            "cell": "" if number else f"{one.cell.label}, {one.metric}",
            "rank": score.label,
            "dev": "constant" if score.dev is None else fixed(score.dev.value),
            "interval": score.dev,
            "change": score.change,
        }
        for one in truncations
        for number, score in enumerate(one.scores)
    ]
    caption = "Dev score with each update cut to its largest directions, all else as trained"
    return table("truncated", rows, caption)


def _digits(figure: str) -> int:
    if figure == "nonzero" or "rank_" in figure:
        return 0
    return 1 if figure.endswith("_rank") else 3


def _range_text(modules: pd.DataFrame, figure: str, prefix: str = "") -> str:
    if f"{prefix}{figure}" not in modules:
        return DASH
    (mean, low, high), digits = range_of(modules, f"{prefix}{figure}").values(), _digits(figure)
    return f"{mean:.{digits or 1}f} ({low:.{digits}f}–{high:.{digits}f})"
