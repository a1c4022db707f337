"""Updates as tables and sentences, the same for a terminal and for a page. Loads pandas."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import pandas as pd

from adapters.methods import METHODS
from bench.report.tables import DASH, Head, Table
from bench.report.text import count, fixed, signed, span
from bench.studies.updates.modules import (
    AXES,
    FIGURES,
    KINDS,
    PERCENTS,
    PREFIXES,
    SIZE,
    TOPS,
    Update,
    rows_of,
)
from bench.studies.updates.truncation import Truncated, Truncation

_MATRICES: Final = {"update": "update", "random": "random, its shape", "before": "weight before"}
_SIZES: Final = (
    Head("nonzero", "non-zero", "singular values that are more than rounding", True),
    Head(SIZE, "|dW| / |W|", "Frobenius norms", True),
)
_RANKS: Final = (
    Head("stable_rank", "stable rank", "energy over that of the largest direction", True),
    Head("effective_rank", "effective rank", "exponential of the entropy of s / Σ s", True),
    *(
        Head(f"rank_{percent}", f"rank for {percent}%", "directions that hold this energy", True)
        for percent in PERCENTS
    ),
)
_ENERGIES: Final = tuple(
    Head(f"energy_{top}", f"top {top}", "share of the energy in so many directions", True)
    for top in TOPS
)
_BY_KIND: Final = (
    *(_SIZES[1], _RANKS[0], *_RANKS[2:]),
    Head("random_rank_90", "random, for 90%", "of a random matrix of its shape", True),
)
_CELL: Final = Head("cell", "cell")


class Range(NamedTuple):
    """A figure's mean, least and most over some modules."""

    mean: float
    low: float
    high: float


def frame_of(updates: Sequence[Update]) -> pd.DataFrame:
    """The rows of the CSV, with kinds in the order of `KINDS`."""
    frame = pd.DataFrame(rows_of(updates))
    return frame.assign(kind=pd.Categorical(frame["kind"], list(KINDS.values())))


def range_of(modules: pd.DataFrame, column: str) -> Range:
    """The range of a column over some modules."""
    values = modules[column]
    return Range(float(values.mean()), values.min().item(), values.max().item())


def as_json(updates: Sequence[Update]) -> list[dict[str, Any]]:
    """Cells with the range of each figure over all modules and over those of each kind."""

    def summary(modules: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
        return {
            matrix: {
                name: range_of(modules, f"{prefix}{name}")._asdict()
                for name in (*FIGURES, SIZE)
                if f"{prefix}{name}" in modules
            }
            for matrix, prefix in PREFIXES.items()
        }

    frame = frame_of(updates)
    cells = []
    for update in updates:
        modules = frame[frame["cell"] == update.cell.name]
        cells.append({
            "cell": update.cell.name,
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
        _over_all(frame, (*_SIZES, *_RANKS), f"Directions of an update: {means}"),
        _over_all(frame, _ENERGIES, f"Share of the energy in the largest directions: {means}"),
        _kinds_table(frame),
    ]
    return [*spectra, _scores(truncations)] if truncations else spectra


def module_table(updates: Sequence[Update]) -> Table:
    """Every module of every cell, for the page only."""
    columns = (*_SIZES, *_RANKS, *_ENERGIES)
    heads = [_CELL, Head("layer", "layer", "from 0", True), Head("kind", "kind")]
    heads += [Head("shape", "shape", "outputs × inputs"), *columns]
    lines = [
        [
            row["cell"], str(row["layer"]), row["kind"], f"{row['height']} × {row['width']}",
            *(fixed(row[head.key], 4 if head.key == SIZE else _digits(head.key))
              for head in columns),
        ]
        for row in rows_of(updates)
    ]  # fmt: skip
    return Table(heads, lines, "Every linear layer", folded=True)


def findings(updates: Sequence[Update], truncations: Sequence[Truncation]) -> list[str]:
    """The main findings, a sentence for each cell."""
    return [
        *(_score_finding(cell) for cell in truncations if len(cell.scores) > 1),
        *map(_energy_finding, updates),
    ]


def explanations(updates: Sequence[Update]) -> list[str]:
    """Sentences on the quantities and on how to read them."""
    modes = {update.cell.row.mode for update in updates}
    return [
        "dW is the weight of a linear layer after training less that before: query, key, value, "
        "attention output, intermediate and output of each layer. Its energy is its squared "
        "Frobenius norm, the sum of its squared singular values.",
        "The random matrix has independent normal numbers and the shape of the layer; it is one "
        "draw, the same in every run. It and the weight before training are what to judge by.",
        *(method.reading for name, method in METHODS.items() if name in modes and method.reading),
        *(
            f"{update.cell.name}: without {count(update.unmoved, 'linear layer')} that did not "
            "train."
            for update in updates
            if update.unmoved
        ),
    ]


def _by_kind(modules: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    return ((str(kind), rows) for kind, rows in modules.groupby("kind", observed=True))


def _over_all(frame: pd.DataFrame, columns: Sequence[Head], caption: str) -> Table:
    lines = [
        [
            str(cell) if matrix == "update" else "", _MATRICES[matrix],
            *(_range_text(modules, head.key, prefix) for head in columns),
        ]
        for cell, modules in frame.groupby("cell", sort=False)
        for matrix, prefix in PREFIXES.items()
    ]  # fmt: skip
    marks = ["baseline" if line[0] else "" for line in lines]
    return Table([_CELL, Head("of", "of"), *columns], lines, caption, marks)


def _kinds_table(frame: pd.DataFrame) -> Table:
    lines = []
    for cell, modules in frame.groupby("cell", sort=False):
        name = str(cell)
        for kind, rows in _by_kind(modules):
            lines.append([name, kind, *(_range_text(rows, head.key) for head in _BY_KIND)])
            name = ""
    heads = [_CELL, Head("kind", "kind"), *_BY_KIND]
    return Table(heads, lines, "By kind of linear layer: mean over layers (least to most)")


def _scores(truncations: Sequence[Truncation]) -> Table:
    heads = [
        _CELL, Head("rank", "rank of updates", "full: as trained", True),
        Head("dev", "dev score", "", True), Head("dev_ci", "95% interval", "over dev examples"),
        Head("change", "against full", "paired by example", True),
        Head("change_ci", "95% interval", "over dev examples"),
    ]  # fmt: skip
    lines = []
    for truncation in truncations:
        name = f"{truncation.cell.name}, {truncation.metric}"
        for score in truncation.scores:
            dev, change = score.dev, score.change
            lines.append([
                name,
                score.label,
                "constant" if dev is None else fixed(dev.value),
                DASH if dev is None else span(dev) or DASH,
                DASH if change is None else signed(change.value),
                DASH if change is None else span(change, signed) or DASH,
            ])  # fmt: skip
            name = ""
    caption = "Dev score with each update cut to its largest directions, all else as trained"
    return Table(heads, lines, caption)


def _energy_finding(update: Update) -> str:
    """A comparison of a cell's updates with random matrices."""
    frame = frame_of([update])
    mean = frame.mean(numeric_only=True)
    sizes = sorted({len(module.spectra["update"].values) for module in update.modules})
    most = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    ranks = [range_of(frame, f"{prefix}rank_90") for prefix in ("", "random_")]
    own, random = (f"{rank.mean:.1f} ({rank.low} to {rank.high})" for rank in ranks)
    return (
        f"{update.cell.name}: 90% of an update's energy lies in {own} of {most} directions, of a "
        f"random matrix in {random}; its top 8 hold {mean['energy_8']:.1%}, those of a random "
        f"matrix {mean['random_energy_8']:.1%}; stable rank {mean['stable_rank']:.1f} against "
        f"{mean['random_stable_rank']:.1f} (means over {count(len(frame), 'linear layer')})."
    )


def _score_finding(truncation: Truncation) -> str:
    """The lowest rank from which on no cut makes the score significantly worse."""
    full, cuts = truncation.scores[-1].dev, truncation.scores[:-1]
    least = max((n for n, cut in enumerate(cuts, start=1) if _loses(cut)), default=0)
    trained = DASH if full is None else fixed(full.value)
    parts = [f"{truncation.cell.name}: dev {truncation.metric} is {trained} as trained"]
    if least < len(cuts):
        parts.append(_change(cuts[least]))
        parts.append("at this rank and above, no significant loss")
    if least > 0:
        parts.append(_change(cuts[least - 1]))
    return f"{'; '.join(parts)}."


def _loses(score: Truncated) -> bool:
    """Whether a cut makes the score significantly worse, or all predictions the same."""
    change = score.change
    return change is None or (change.holds(0.0) is False and change.value < 0)


def _change(score: Truncated) -> str:
    if score.change is None or score.dev is None:
        return f"cut to rank {score.label} it predicts a constant"
    change = ", ".join(filter(None, [signed(score.change.value), span(score.change, signed)]))
    return f"cut to rank {score.label} {fixed(score.dev.value)} ({change})"


def _digits(figure: str) -> int:
    if figure == "nonzero" or "rank_" in figure:
        return 0
    return 1 if figure.endswith("_rank") else 3


def _range_text(modules: pd.DataFrame, figure: str, prefix: str = "") -> str:
    """A figure's mean, least and most, or a dash."""
    if f"{prefix}{figure}" not in modules:
        return DASH
    (mean, low, high), digits = range_of(modules, f"{prefix}{figure}"), _digits(figure)
    return f"{mean:.{digits or 1}f} ({low:.{digits}f}–{high:.{digits}f})"
