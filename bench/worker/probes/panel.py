"""Step times in a steady state: one fixed panel of batches, replayed.

Batches differ in tokens, so steps of one run are not repeats of one another; passes over a panel
are. The first passes warm caches and allocators up, and how many that takes is found out: it ends
when two passes agree.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import torch

from bench.stats.steptimes import AGREEMENT, panel_times
from bench.worker.probes.steps import Sized, StepClock

B = TypeVar("B", bound=Sized)

PANEL_BATCHES: Final = 4
"""Batches of a panel: at evenly spaced quantiles of their tokens."""
WARMUP_PASSES: Final = 6
"""After so many passes that never agreed the timing begins all the same, and is unstable."""
TIMED_PASSES: Final = 5
MOST_PASSES: Final = 12
PRECISION: Final = 0.02
"""Timing ends when half the interval is this share of the time for 1,000 tokens."""

Passes = Sequence[Sequence[float]]
"""Milliseconds of each batch in each pass."""


@dataclass(frozen=True)
class Panel:
    """A replay: its batches' real tokens and examples, and the ms of all passes in order.

    The passes from `warm` on count. `settled` is False where no two passes agreed.
    """

    tokens: tuple[int, ...]
    examples: tuple[int, ...]
    passes: Passes
    warm: int
    settled: bool


def choose(tokens: Sequence[int], examples: Sequence[int]) -> list[int]:
    """A panel from the batches of an epoch: indices of full ones, in order of their tokens.

    A batch that has fewer examples than the others is left out where there are others.
    """
    full = [index for index, count in enumerate(examples) if count == max(examples)]
    full.sort(key=lambda index: tokens[index])
    count = min(PANEL_BATCHES, len(full))
    places = (np.arange(count) + 0.5) / count * len(full)
    return [full[int(place)] for place in places]


def agree(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two passes are alike: in their mean, and, twice as far, in their steps' quartiles."""
    a, b = np.asarray(one, dtype=float), np.asarray(other, dtype=float)

    def apart(x: float, y: float) -> float:
        return abs(x - y) / max(min(x, y), 1e-9)

    quartiles = zip(np.quantile(a, (0.25, 0.75)), np.quantile(b, (0.25, 0.75)), strict=True)
    return apart(float(a.mean()), float(b.mean())) <= AGREEMENT and all(
        apart(float(x), float(y)) <= 2 * AGREEMENT for x, y in quartiles
    )


def warm_from(passes: Passes) -> int | None:
    """The first pass that counts: the second of the first two neighbours that agree."""
    for index in range(1, len(passes)):
        if agree(passes[index - 1], passes[index]):
            return index
    return None


def _begin(passes: Passes) -> tuple[int, bool]:
    """The first pass that counts, and whether it is the first of a steady state."""
    warm = warm_from(passes[:WARMUP_PASSES])
    return (WARMUP_PASSES, False) if warm is None else (warm, True)


def is_enough(passes: Passes, tokens: Sequence[int], budget_s: float) -> bool:
    """Whether the passes so far will do: steady, enough of them, and precise or out of budget."""
    timed = passes[_begin(passes)[0] :]
    if len(timed) < TIMED_PASSES:
        return False
    if len(timed) >= MOST_PASSES or sum(map(sum, timed)) / 1000 >= budget_s:
        return True
    found = panel_times(timed, tokens).ms_per_1k_tokens
    ends = found.ends()
    return ends is not None and (ends[1] - ends[0]) / 2 <= PRECISION * found.value


def replay(
    take_step: Callable[[B], object],
    batches: Sequence[B],
    device: torch.device,
    *,
    budget_s: float,
    on_step: Callable[[int], None] = lambda _done: None,
) -> Panel:
    """Run passes over the batches until they are enough.

    Args:
        take_step: a training step; it is timed and nothing else is.
        budget_s: seconds in steps that count after which no more precision is sought.
        on_step: told the number of steps taken, outside of the timed ones.
    """
    tokens = tuple(batch.tokens for batch in batches)
    passes: list[list[float]] = []
    done = 0
    while not is_enough(passes, tokens, budget_s):
        clock = StepClock(device)
        for batch in batches:
            with clock.step(batch):
                take_step(batch)
            done += 1
            on_step(done)
        passes.append([step.ms for step in clock.steps()])
    warm, settled = _begin(passes)
    return Panel(
        tokens=tokens,
        examples=tuple(len(batch.labels) for batch in batches),
        passes=passes,
        warm=warm,
        settled=settled,
    )
