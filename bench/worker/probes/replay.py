"""Step times in a steady state: training steps on a few fixed batches, replayed in passes.

The batches of a training differ in tokens, so its steps are not repeats of one another; passes over
the same batches are. The first passes warm up caches and allocators; warm-up ends when two passes
agree.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.stats.steptimes import AGREEMENT, replay_times
from bench.worker.probes.steps import Step, StepClock
from minbert.data.batches import Batch

BATCHES: Final = 4
"""Number of replayed batches, at evenly spaced quantiles of their tokens."""
WARMUP_PASSES: Final = 6
"""After this many passes without agreement timing begins all the same, and counts as unstable."""
TIMED_PASSES: Final = 5
MOST_PASSES: Final = 12
REPLAY_SHARE: Final = 0.15
"""Share of the training's time that timing may take beyond its minimum of passes."""
PRECISION: Final = 0.02
"""Timing ends when half the width of the interval is this share of the time for 1,000 tokens."""

Passes = Sequence[Sequence[float]]
"""Milliseconds of each batch in each pass."""


@dataclass(frozen=True)
class Replayed:
    """The steps of all passes in order, of which those from `warm` on count. `settled` is False if
    no two passes agreed."""

    passes: Sequence[Sequence[Step]]
    warm: int
    settled: bool


def choose(tokens: Sequence[int], examples: Sequence[int]) -> list[int]:
    """The indices of the steps of an epoch to replay, in order of their tokens; only of those with
    the most examples, which leaves out a smaller last one."""
    full = [index for index, count in enumerate(examples) if count == max(examples)]
    full.sort(key=lambda index: tokens[index])
    count = min(BATCHES, len(full))
    places = (np.arange(count) + 0.5) / count * len(full)
    return [full[int(place)] for place in places]


def agree(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two passes agree in their mean and, within twice the tolerance, in quartiles."""
    a, b = (np.array([np.mean(ms), *np.quantile(ms, (0.25, 0.75))]) for ms in (one, other))
    gaps = np.abs(a - b) / np.maximum(np.minimum(a, b), 1e-9)
    return bool((gaps <= AGREEMENT * np.array([1, 2, 2])).all())


def warm_from(passes: Passes) -> tuple[int, bool]:
    """The first pass that counts, and whether it is the first of a steady state: the second of the
    first two consecutive passes that agree."""
    for index in range(1, min(len(passes), WARMUP_PASSES)):
        if agree(passes[index - 1], passes[index]):
            return index, True
    return WARMUP_PASSES, False


def is_enough(passes: Passes, tokens: Sequence[int], budget_s: float) -> bool:
    """Whether the passes suffice: steady, enough of them, and precise or out of budget."""
    timed = passes[warm_from(passes)[0] :]
    if len(timed) < TIMED_PASSES:
        return False
    if len(timed) >= MOST_PASSES or sum(map(sum, timed)) / 1000 >= budget_s:
        return True
    estimate = replay_times(timed, tokens).ms_per_1k_tokens
    ends = estimate.ends()
    return ends is not None and (ends[1] - ends[0]) / 2 <= PRECISION * estimate.value


def replay(
    take_step: Callable[..., object],
    steps: Sequence[Sequence[Batch]],
    clock: StepClock,
    *,
    budget_s: float,
    on_step: Callable[[int], None] = lambda _done: None,
) -> Replayed:
    """Run passes over the batches of some steps until they suffice, or have taken `budget_s`; only
    `take_step` is timed, by the new `clock`, and `on_step` called with the number of steps
    taken."""
    tokens = [sum(batch.tokens for batch in batches) for batches in steps]
    passes: list[list[Step]] = []
    times: list[list[float]] = []
    while not is_enough(times, tokens, budget_s):
        for number, batches in enumerate(steps, start=len(passes) * len(steps) + 1):
            with clock.step(*batches):
                take_step(*batches)
            on_step(number)
        passes.append(clock.steps()[-len(steps) :])
        times.append([step.ms for step in passes[-1]])
    return Replayed(passes, *warm_from(times))
