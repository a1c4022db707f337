"""Dev scores of a model whose updates are cut to rank k. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.common.errors import InputError
from bench.report.text import plain
from bench.stats.intervals import Interval
from bench.studies.updates.cells import KeptCell

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


def problems(truncations: Sequence[Truncation]) -> list[str]:
    return [plain(cell.problem) for cell in truncations if cell.problem is not None]
