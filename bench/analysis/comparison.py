"""Two sets of rows, BASE and NEW, compared setting by setting and over all settings."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Literal

from bench.analysis.machines import Machines
from bench.analysis.setting import Setting
from bench.plan.rows import Row
from bench.results.outcomes import ValuesOf
from bench.stats.intervals import Interval

Kind = Literal["count", "memory", "time", "score"]
Side = Literal["BASE", "NEW"]


class Verdict(StrEnum):
    """The result of a comparison."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    SMALL = "below the minimum effect"
    SAME = "no measurable difference"
    UNDECIDED = "too few repeats"
    NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Limits:
    """Minimum effects: ratios − 1 of costs, and a margin of scores, such as `0.5pt` or `1%`."""

    slowdown: float = 0.05
    memory: float = 0.02
    work: float = 0.02
    score_drop: str = "0.5pt"


@dataclass(frozen=True)
class Measure:
    """A column that is compared: a score by its difference, all others by their ratio.

    Attributes:
        exact: whether equal runs have equal values, so that a value is its own interval.
    """

    column: str
    label: str
    kind: Kind
    exact: bool = False


@dataclass(frozen=True)
class Compared:
    """A measure of both sides, compared.

    Attributes:
        interval: NEW / BASE, or of scores NEW − BASE, simultaneous with all others; None where it
            is not compared.
        limit: the ratio − 1, or the difference of scores, that is tolerated.
        gates: whether a regression here makes the exit status 1.
        why: the reason why it is not compared, does not gate or is undecided.
        runs: the numbers of runs (of scores: seeds) of BASE and NEW.
        needed: the number of runs, or seeds, of each side that would decide it four times out of
            five; None: it is decided, or no number would.
        significant: whether the interval excludes no change.
        base, new: the means of both sides; None over all settings.
    """

    measure: Measure
    interval: Interval | None
    verdict: Verdict
    limit: float | None = None
    gates: bool = False
    why: str = ""
    runs: tuple[int, int] = (0, 0)
    needed: int | None = None
    significant: bool = False
    base: float | None = None
    new: float | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """A setting of BASE and the setting of NEW that matches it, on one machine.

    Attributes:
        failing: how cells of NEW end that were ok in BASE; empty: none newly fails.
        passing: the same the other way round.
    """

    label: str
    base: Setting
    new: Setting
    machine: str
    compared: tuple[Compared, ...]
    failing: str = ""
    passing: str = ""


@dataclass(frozen=True)
class Unmatched:
    """A setting that is compared with nothing, and why."""

    side: Side
    label: str
    why: str
    rows: int


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two sets of rows, compared.

    Attributes:
        overall: by measure over all settings: the geometric mean of ratios, or the mean difference
            of scores.
        differs: conditions that differ: column, values in BASE, values in NEW.
        machines: None where both sides ran on a common machine.
        family: a sentence on the number of comparisons and their level.
    """

    pairs: tuple[Pair, ...]
    overall: tuple[Compared, ...]
    unmatched: tuple[Unmatched, ...]
    differs: tuple[tuple[str, str, str], ...]
    machines: Machines | None
    family: str

    @cached_property
    def results(self) -> list[tuple[Pair | None, Compared]]:
        """All results: those over all settings, without a pair, and those of each pair."""
        overall: list[tuple[Pair | None, Compared]] = [(None, one) for one in self.overall]
        return overall + [(pair, one) for pair in self.pairs for one in pair.compared]

    def _with(self, verdict: Verdict) -> list[tuple[Pair | None, Compared]]:
        return [result for result in self.results if result[1].verdict is verdict]

    @property
    def regressions(self) -> list[tuple[Pair | None, Compared]]:
        """Regressions that gate."""
        return [result for result in self._with(Verdict.REGRESSION) if result[1].gates]

    @property
    def improvements(self) -> list[tuple[Pair | None, Compared]]:
        """Improvements."""
        return self._with(Verdict.IMPROVEMENT)

    @property
    def undecided(self) -> list[tuple[Pair | None, Compared]]:
        """Results that more repeats could decide."""
        return self._with(Verdict.UNDECIDED)

    @property
    def failing(self) -> list[Pair]:
        """Pairs with cells that newly fail."""
        return [pair for pair in self.pairs if pair.failing]

    @property
    def passing(self) -> list[Pair]:
        """Pairs with cells that newly pass."""
        return [pair for pair in self.pairs if pair.passing]


def compare(
    base: Sequence[Row],
    new: Sequence[Row],
    limits: Limits,
    *,
    named: Collection[str] = (),
    values_of: tuple[ValuesOf, ValuesOf],
    looks: int = 1,
) -> Comparison:
    """Two sets of rows, compared through the settings that they share.

    Args:
        named: columns that filters name, in which matching settings may differ.
        values_of: the numbers of dev examples of BASE and of NEW.
        looks: how often at most the comparison is made while rows are still being added.
    """
    raise NotImplementedError
