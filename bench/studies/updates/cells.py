"""The cells that have kept their trained weights, the spectra of the linear layers that training
changed, rank and energy of a matrix from its singular values s, and dev scores with updates cut.

Letters in shapes: o rows, i columns, m = min(o, i) singular values. Energy is the squared Frobenius
norm, the sum of s²; the best matrix of rank k keeps that of the k largest (Eckart and Young 1936).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from adapters.methods import BITFIT
from adapters.names import adapted_layers
from bench.common.errors import InputError
from bench.plan.cell import MULTITASK
from bench.plan.rows import Row, current_rows
from bench.report.text import count, plain
from bench.results.origins import folder_of
from bench.results.protocol import WEIGHTS
from bench.results.store import read_rows
from bench.stats.intervals import Floats, Interval
from minbert.files import is_file


@dataclass(frozen=True)
class KeptCell:
    """A cell that ended ok and kept its weights. Among the cells of a call its label is unique."""

    row: Row
    folder: Path
    label: str

    @property
    def whole(self) -> bool:
        return self.row.mode == "full"

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS


def find(runs: Sequence[Path]) -> tuple[list[KeptCell], list[str]]:
    """The cells of some CSVs that kept weights, in their order, and a note for each reason why
    others are left out; InputError if there is none. A cell in several CSVs counts once, where it
    has weights."""
    files = ", ".join(map(str, runs))
    cells: dict[str, KeptCell] = {}
    left_out: dict[str, str] = {}
    for path in runs:
        for row in current_rows(read_rows(path)).values():
            if not row.is_ok or row.is_trial:
                continue
            cell = KeptCell(row, folder_of(path, row), row.name)
            if reason := _why_left_out(cell):
                left_out[row.cell_id] = reason
            else:
                cells.setdefault(row.cell_id, cell)
    if not cells and not left_out:
        raise InputError(f"{files}: no cell ended ok; run a grid first, with --save-weights")
    reasons = Counter(reason for cell_id, reason in left_out.items() if cell_id not in cells)
    counts = [f"{count(number, 'cell')} {reason}" for reason, number in reasons.items()]
    if not cells:
        raise InputError(f"{files}: no weights to read: {', '.join(counts)}")
    return _labelled([*cells.values()]), [f"left out: {line}" for line in counts]


def _why_left_out(cell: KeptCell) -> str | None:
    again, row = "run the grid again with --save-weights --rerun ok", cell.row
    reasons = {
        "that began with random weights": row.init == "random",
        f"of task {MULTITASK}, whose weights are not read": row.task == MULTITASK,
        "whose head alone trained": row.mode == "head",
        "in which only the biases and the head trained": row.mode == BITFIT,
        f"that kept no weights; {again}": not is_file(cell.weights),
    }
    return next((reason for reason, is_so in reasons.items() if is_so), None)


def _labelled(cells: Sequence[KeptCell]) -> list[KeptCell]:
    """Cells with unique labels: the name, to which task, model and id are added where needed."""
    columns = {"task": "task", "model_digest": "model"}
    shown = [name for key, name in columns.items() if len({cell.row[key] for cell in cells}) > 1]
    names = [(cell.row.name, *(plain(str(cell.row[name])) for name in shown)) for cell in cells]
    labels = [*map(", ".join, names)]
    return [
        replace(cell, label=label + f" {cell.row.cell_id[:6]}" * (labels.count(label) > 1))
        for cell, label in zip(cells, labels, strict=True)
    ]


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
    """The rows of the CSV, for each cell and module. `rank` is the adapter's, as in runs.csv;
    figures without a prefix are the update's."""
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


FULL: Final = "full"
_MOST: Final = 100_000


@dataclass(frozen=True)
class Truncated:
    """A model with each update cut to a rank (None: as trained), its score on dev (None: all
    predictions are the same number), and the paired difference to the model as trained."""

    rank: int | None
    dev: Interval | None
    change: Interval | None = None

    @property
    def label(self) -> str:
        return FULL if self.rank is None else str(self.rank)

    @property
    def is_worse(self) -> bool:
        """Whether a cut makes the score significantly worse, or all predictions the same."""
        change = self.change
        return change is None or (change.holds(0.0) is False and change.value < 0)


@dataclass(frozen=True)
class Truncation:
    """The scores of a cell on dev examples with its updates cut to some ranks, lowest first, as
    trained last; `problem` if the latter differs from the cell's own."""

    cell: KeptCell
    metric: str
    examples: int
    scores: tuple[Truncated, ...]
    problem: str | None = None

    @property
    def worse(self) -> int:
        """The number of the lowest ranks up to the last one that makes the score worse."""
        return max((n for n, cut in enumerate(self.scores[:-1], 1) if cut.is_worse), default=0)

    def as_json(self) -> dict[str, Any]:
        return {
            "cell": self.cell.label,
            "cell_id": self.cell.row.cell_id,
            "metric": self.metric,
            "examples": self.examples,
            "cell_dev_score": self.cell.row.dev_score,
            "reproduced": self.problem is None,
            "scores": [
                {**asdict(score), "rank": FULL if score.rank is None else score.rank}
                for score in self.scores
            ],
        }


def parse_ranks(text: str) -> tuple[int, ...]:
    """The distinct ranks in a text such as `"0,1,8,full"`, lowest first, without `full`, which is
    always scored; InputError for anything else."""
    ranks = set()
    for word in map(str.strip, text.split(",")):
        if word == FULL:
            continue
        if not (word.isascii() and word.isdecimal() and len(word) < 7 and int(word) <= _MOST):
            raise InputError(
                f"--truncate: {plain(word)!r} is no rank; give whole numbers from 0 to {_MOST:,} "
                "with commas between, such as 0,1,8,32"
            )
        ranks.add(int(word))
    return tuple(sorted(ranks))
