"""Updates as tables and sentences, the same for a terminal and for a page. Pure; loads pandas."""

from collections.abc import Mapping, Sequence
from typing import Final

from adapters.methods import METHODS
from bench.report.tables import DASH, Head, Table
from bench.report.text import count, fixed, signed, span
from bench.studies.updates.modules import MATRICES, SIZE, Module, Range, Update, ranges
from bench.studies.updates.spectrum import PERCENTS, TOPS
from bench.studies.updates.truncation import Truncated, Truncation

_MATRICES: Final = {"update": "update", "random": "random, its shape", "before": "weight before"}
_RANKS: Final = (
    Head("stable_rank", "stable rank", "energy over that of the largest direction", True),
    Head("effective_rank", "effective rank", "exponential of the entropy of s / Σ s", True),
    *(
        Head(f"rank_{percent}", f"rank for {percent}%", "directions that hold this energy", True)
        for percent in PERCENTS
    ),
)
_SIZES: Final = (
    Head("nonzero", "non-zero", "singular values that are more than rounding", True),
    Head(SIZE, "|dW| / |W|", "Frobenius norms", True),
)
_ENERGIES: Final = tuple(
    Head(f"energy_{top}", f"top {top}", "share of the energy in so many directions", True)
    for top in TOPS
)
_WHOLE: Final = ("nonzero", *(f"rank_{percent}" for percent in PERCENTS))
"""Figures that are whole numbers for one module."""


def tables(updates: Sequence[Update], truncations: Sequence[Truncation]) -> list[Table]:
    """The tables on a terminal: over all modules, by kind, and scores by rank if there are any."""
    spectra = [
        _over_all(updates, (*_SIZES, *_RANKS), "Directions of an update: mean over linear layers "
                  "(least to most)"),
        _over_all(updates, _ENERGIES, "Share of the energy in the largest directions: mean over "
                  "linear layers (least to most)"),
        _by_kind(updates),
    ]  # fmt: skip
    return [*spectra, _scores(truncations)] if truncations else spectra


def module_table(updates: Sequence[Update]) -> Table:
    """Every module of every cell, for the page only."""
    columns = (*_SIZES, *_RANKS, *_ENERGIES)
    heads = [Head("cell", "cell"), Head("layer", "layer", "from 0", True), Head("kind", "kind")]
    heads += [Head("shape", "shape", "outputs × inputs"), *columns]
    rows = [
        [
            update.cell.name,
            str(module.place.layer),
            module.place.kind,
            f"{module.update.rows} × {module.update.columns}",
            *(_exact(head.key, module) for head in columns),
        ]
        for update in updates
        for module in update.modules
    ]
    return Table(heads, rows, "Every linear layer", folded=True)


def findings(updates: Sequence[Update], truncations: Sequence[Truncation]) -> list[str]:
    """The main findings, a sentence for each cell."""
    return [
        *(_score_finding(cell) for cell in truncations if len(cell.scores) > 1),
        *map(_energy_finding, updates),
    ]


def explanations(updates: Sequence[Update]) -> list[str]:
    """Sentences on the quantities and on how to read them."""
    lines = [
        "dW is the weight of a linear layer after training less that before: query, key, value, "
        "attention output, intermediate and output of each layer. Its energy is its squared "
        "Frobenius norm, the sum of its squared singular values.",
        "The random matrix has independent normal numbers and the shape of the layer; it is one "
        "draw, the same in every run. It and the weight before training are what to judge by.",
    ]
    modes = {update.cell.row.mode for update in updates}
    lines += [
        method.reading for name, method in METHODS.items() if name in modes and method.reading
    ]
    return lines + [
        f"{update.cell.name}: without {count(update.unmoved, 'linear layer')} that did not train."
        for update in updates
        if update.unmoved
    ]


def _over_all(updates: Sequence[Update], columns: Sequence[Head], caption: str) -> Table:
    rows: list[list[str]] = []
    marks: list[str] = []
    for update in updates:
        for matrix in MATRICES:
            name = update.cell.name if matrix == "update" else ""
            figures = ranges(update.modules, matrix)
            rows.append([name, _MATRICES[matrix], *(_range(head.key, figures) for head in columns)])
            marks.append("baseline" if matrix == "update" else "")
    return Table([Head("cell", "cell"), Head("of", "of"), *columns], rows, caption, marks)


def _by_kind(updates: Sequence[Update]) -> Table:
    columns = (_SIZES[1], _RANKS[0], *_RANKS[2:])
    heads = [Head("cell", "cell"), Head("kind", "kind"), *columns]
    random = Head("random_rank_90", "random, for 90%", "of a random matrix of its shape", True)
    rows = [
        [
            update.cell.name if number == 0 else "",
            kind,
            *(_range(head.key, ranges(update.of_kind(kind), "update")) for head in columns),
            _range("rank_90", ranges(update.of_kind(kind), "random")),
        ]
        for update in updates
        for number, kind in enumerate(update.kinds)
    ]
    caption = "By kind of linear layer: mean over layers (least to most)"
    return Table([*heads, random], rows, caption)


def _scores(truncations: Sequence[Truncation]) -> Table:
    heads = [
        Head("cell", "cell"),
        Head("rank", "rank of updates", "full: as trained", True),
        Head("dev", "dev score", "", True),
        Head("dev_ci", "95% interval", "over dev examples"),
        Head("change", "against full", "paired by example", True),
        Head("change_ci", "95% interval", "over dev examples"),
    ]
    rows = []
    for truncation in truncations:
        for number, score in enumerate(truncation.scores):
            dev, change = score.dev, score.change
            rows.append([
                f"{truncation.cell.name}, {truncation.metric}" if number == 0 else "",
                score.label,
                "constant" if dev is None else fixed(dev.value),
                DASH if dev is None else span(dev) or DASH,
                DASH if change is None else signed(change.value),
                DASH if change is None else span(change, signed) or DASH,
            ])  # fmt: skip
    caption = "Dev score with each update cut to its largest directions, all else as trained"
    return Table(heads, rows, caption)


def _energy_finding(update: Update) -> str:
    """A comparison of a cell's updates with random matrices."""
    own, random = (ranges(update.modules, matrix) for matrix in ("update", "random"))
    sizes = sorted({len(module.update.values) for module in update.modules})
    most = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    rank, random_rank = (_mean_and_ends(figures["rank_90"]) for figures in (own, random))
    return (
        f"{update.cell.name}: 90% of an update's energy lies in {rank} of {most} directions, of a "
        f"random matrix in {random_rank}; its top 8 hold "
        f"{own['energy_8'].mean:.1%}, those of a random matrix {random['energy_8'].mean:.1%}; "
        f"stable rank {own['stable_rank'].mean:.1f} against {random['stable_rank'].mean:.1f} "
        f"(means over {count(len(update.modules), 'linear layer')})."
    )


def _score_finding(truncation: Truncation) -> str:
    """The lowest rank from which on no cut makes the score significantly worse."""
    full = truncation.scores[-1].dev
    trained = DASH if full is None else fixed(full.value)
    cuts = truncation.scores[:-1]
    least = len(cuts)
    while least > 0 and not _loses(cuts[least - 1]):
        least -= 1
    parts = [f"{truncation.cell.name}: dev {truncation.metric} is {trained} as trained"]
    if least < len(cuts):
        parts.append(f"cut to rank {cuts[least].label} {_change(cuts[least])}")
        parts.append("at this rank and above, no significant loss")
    if least > 0:
        parts.append(f"cut to rank {cuts[least - 1].label} {_change(cuts[least - 1])}")
    return f"{'; '.join(parts)}."


def _loses(score: Truncated) -> bool:
    """Whether a cut makes the score significantly worse, or all predictions the same."""
    change = score.change
    return change is None or (change.holds(0.0) is False and change.value < 0)


def _change(score: Truncated) -> str:
    if score.change is None or score.dev is None:
        return "it predicts a constant"
    change = ", ".join(filter(None, [signed(score.change.value), span(score.change, signed)]))
    return f"{fixed(score.dev.value)} ({change})"


def _mean_and_ends(figure: Range) -> str:
    return f"{figure.mean:.1f} ({figure.low:.0f} to {figure.high:.0f})"


def _range(key: str, figures: Mapping[str, Range]) -> str:
    """A figure's mean, least and most, or a dash."""
    figure = figures.get(key)
    if figure is None:
        return DASH
    if key in _WHOLE:
        return f"{figure.mean:.1f} ({figure.low:.0f}–{figure.high:.0f})"
    digits = 1 if key.endswith("_rank") else 3
    return f"{figure.mean:.{digits}f} ({figure.low:.{digits}f}–{figure.high:.{digits}f})"


def _exact(key: str, module: Module) -> str:
    """A figure of one module's update as text."""
    if key == SIZE:
        return f"{module.relative_size:.4f}"
    value = module.update.figures()[key]
    return str(value) if isinstance(value, int) else fixed(value, 1 if key.endswith("_rank") else 3)
