"""How often bench.compare --run finds a slower step, and how often the number of repeats that it
names decides, by simulation."""

from collections.abc import Iterator
from math import log1p
from statistics import median
from typing import Any, Final

import numpy as np

from bench.analysis.comparison import Compared, Comparison, Verdict
from tests.experiments.comparing.alarms import Draw, Simulated, in_rounds, until

SCATTERS: Final = (0.02, 0.04, 0.07, 0.10)
"""Stds of the logarithms of times between processes that do the same work."""
SLOWDOWNS: Final = (0.10, 0.20)
ROUNDS: Final = (8, 24, 48)
_FIRST: Final = (4, 8)
"""Repeats after which the number that would decide is read."""
_MOST: Final = 200
"""Most repeats that are simulated; a setting for which more are named is not counted."""


def _draw(scatter: float, rounds: int, slowdown: float, seed: int) -> Draw:
    world = Simulated(
        "", 1, 1, rounds, slowdown=log1p(slowdown), scatter=scatter, disturbed=0.0
    )  # fmt: skip
    return world.draw(np.random.default_rng(seed))


def _time(comparison: Comparison) -> Compared:
    return next(one for pair, one in comparison.results if pair and one.measure.kind == "time")


def power(draws: int) -> Iterator[dict[str, Any]]:
    """By scatter, slowdown and most rounds, in how many draws of one setting it is a regression."""
    for scatter in SCATTERS:
        for slowdown in SLOWDOWNS:
            found = dict.fromkeys(ROUNDS, 0)
            for seed in range(draws):
                whole = _draw(scatter, max(ROUNDS), slowdown, seed)
                for rounds in ROUNDS:
                    draw, looks = in_rounds(_first(whole, rounds), rounds)
                    found[rounds] += _time(draw.compared((), looks)).verdict is Verdict.REGRESSION
            for rounds, number in found.items():
                yield {"scatter": scatter, "slowdown": slowdown, "rounds": rounds,
                       "draws": draws, "found": number}  # fmt: skip


def _first(draw: Draw, rounds: int) -> Draw:
    return until(draw, {row.cell_id: rounds for row in draw.base})


def needed(draws: int) -> Iterator[dict[str, Any]]:
    """By scatter and slowdown, in how many undecided draws the named number of repeats decides."""
    for scatter in SCATTERS[:-1]:
        for slowdown in (0.0, SLOWDOWNS[0]):
            for first in _FIRST:
                numbers, decided = [], 0
                for seed in range(draws):
                    draw = _draw(scatter, _MOST, slowdown, seed)
                    number = _time(_first(draw, first).compared(())).needed
                    if number is not None and number <= _MOST:
                        again = _time(_first(draw, number).compared(()))
                        numbers.append(number)
                        decided += again.verdict is not Verdict.UNDECIDED
                yield {"scatter": scatter, "slowdown": slowdown, "first": first,
                       "draws": len(numbers), "needed": median(numbers or [0]),
                       "decided": decided}  # fmt: skip
