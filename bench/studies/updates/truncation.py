"""Dev scores of a model whose updates are cut to rank k: what is told of them. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.common.errors import InputError
from bench.report.text import plain
from bench.stats.intervals import Interval
from bench.studies.updates.cells import Trained

FULL: Final = "full"
_MOST: Final = 100_000
TOLERANCE: Final = 1e-6
"""How far the score of the model as it was kept may be from its cell's, which is told to seven
digits."""


@dataclass(frozen=True)
class Truncated:
    """The model with each update cut to a rank; None as the rank: as trained.

    Attributes:
        dev: its score on dev; None where its predictions are all the same number.
        change: against the model as trained, example by example; None of that itself.
    """

    rank: int | None
    dev: Interval | None
    change: Interval | None = None

    @property
    def told_rank(self) -> str:
        """The rank, or `full`."""
        return FULL if self.rank is None else str(self.rank)


@dataclass(frozen=True)
class Truncation:
    """A cell with its updates cut to some ranks, lowest first, as trained last.

    Attributes:
        examples: how many dev examples there are.
        problem: how the score as trained is not the cell's own; None where it is.
    """

    cell: Trained
    metric: str
    examples: int
    scores: tuple[Truncated, ...]
    problem: str | None = None


def parse_ranks(text: str) -> tuple[int, ...]:
    """`"0,1,8,full"` as ranks, lowest first, each once; `full` is always there and is none of them.

    Raises:
        InputError: for anything else.
    """
    words = [word.strip() for word in text.split(",")]
    ranks = set()
    for word in words:
        if word == FULL:
            continue
        if not (word.isascii() and word.isdecimal() and len(word) < 7 and int(word) <= _MOST):
            raise InputError(
                f"--truncate: {plain(word)!r} is no rank; give whole numbers from 0 to {_MOST:,} "
                "with commas between, such as 0,1,8,32"
            )
        ranks.add(int(word))
    return tuple(sorted(ranks))


def as_json(truncation: Truncation) -> dict[str, Any]:
    """A cell's scores by rank, `full` as trained."""
    return {
        "cell": truncation.cell.name,
        "cell_id": truncation.cell.row["cell_id"],
        "metric": truncation.metric,
        "examples": truncation.examples,
        "cell_dev_score": truncation.cell.row["dev_score"],
        "reproduced": truncation.problem is None,
        "scores": [
            {
                "rank": FULL if of.rank is None else of.rank,
                "dev": None if of.dev is None else asdict(of.dev),
                "change": None if of.change is None else asdict(of.change),
            }
            for of in truncation.scores
        ],
    }


def problems(truncations: Sequence[Truncation]) -> list[str]:
    """What is wrong, a line each."""
    return [plain(of.problem) for of in truncations if of.problem is not None]
