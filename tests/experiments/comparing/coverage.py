"""How often intervals of times cover: of real repeats, what other processes measured; of simulated
steps, the mean of their process."""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any, Final

import numpy as np

from bench.analysis.groups import groups
from bench.plan.rows import Row
from bench.stats.changepoints import autoregressive
from bench.stats.intervals import Interval
from bench.stats.steptimes import training_times

_TIME: Final = "ms_per_1k_tokens"
MEMORIES: Final = (0, 8, 30, 100)
"""Steps over which noise of steps is remembered; 0: independent steps."""
STEPS: Final = (132, 500)


def of_repeats(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """By setting, how many intervals cover the mean of the setting's other repeats.

    Intervals within a process are those of rows. Those of one repeat alone, and of three
    successive ones, are made as a report makes them, with all repeats of the other settings.
    """
    [group] = groups(rows)
    for setting in group.settings:
        own = sorted(setting.ok, key=lambda row: row.repeat)
        others = [row for row in rows if row not in own]
        outcome: dict[str, Any] = {"setting": setting.label}
        for name, size in (("within", 1), ("one", 1), ("three", 3)):
            hits = []
            for first in range(0, len(own) - size + 1, size):
                chosen = own[first : first + size]
                truth = fmean(row.ms_per_1k_tokens or 0.0 for row in own if row not in chosen)
                if name == "within":
                    ends = chosen[0].ms_per_1k_tokens_ci_low, chosen[0].ms_per_1k_tokens_ci_high
                    hits.append(bool(Interval(truth, *ends).holds(truth)))
                    continue
                [again] = groups([*others, *chosen])
                [alone] = [one for one in again.settings if one.label == setting.label]
                interval = alone.estimate(_TIME)
                hits.append(interval is not None and bool(interval.holds(truth)))
            outcome |= {name: sum(hits), f"{name}_of": len(hits)}
        yield outcome


def within_a_process(draws: int) -> Iterator[dict[str, Any]]:
    """By number of steps and memory of their noise, how many intervals cover the process's mean."""
    for steps in STEPS:
        for memory in MEMORIES:
            rng = np.random.default_rng(memory)
            kept = math.exp(-1 / memory) if memory else 0.0
            noise = autoregressive(rng.normal(0, 0.03, (draws, steps)), kept)
            tokens = [1000] * steps
            found = [training_times((100 + 100 * one).tolist(), tokens, tokens) for one in noise]
            hits = sum(bool(one.ms_per_1k_tokens.holds(100.0)) for one in found)
            yield {"steps": steps, "memory": memory, "draws": draws, "covered": hits}
