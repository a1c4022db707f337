"""Comparisons made without comparing anything, for pages."""

import random
from pathlib import Path

from bench.analysis.comparison import (
    Compared,
    Comparison,
    Limits,
    Measure,
    Pair,
    Unmatched,
    Verdict,
)
from bench.analysis.machines import MachineCost, MachineRow, Machines
from bench.analysis.points import settings_of
from bench.compare.outcome import Outcome
from bench.compare.sides import Side
from bench.results.outcomes import no_values
from bench.stats.intervals import Interval
from tests.bench.synthetic_rows import synthetic_rows

MEASURES = (
    Measure("step_gflop", "GFLOP of a step", "count", exact=True),
    Measure("activations_mib", "memory kept for backward", "memory", exact=True),
    Measure("peak_rss_mib", "peak memory", "memory"),
    Measure("dev_score", "dev accuracy", "score"),
    Measure("ms_per_1k_tokens", "time", "time"),
)
LIMITS = (0.02, 0.02, 0.02, 0.005, 0.05)


def result(noise: random.Random, measure: Measure, limit: float, worse: float) -> Compared:
    """A measure with an interval around a shift, and the verdict that follows."""
    half = 0.0 if measure.exact else noise.choice((0.01, 0.03, 0.06))
    shift = 0.0 if measure.exact else noise.gauss(0, half / 2)
    shift += worse
    if measure.kind == "score":
        shift, half = -shift / 5, half / 5
        interval = Interval(shift, shift - half, shift + half)
        low, high = -shift - half, -shift + half
    else:
        interval = Interval(1 + shift, 1 + shift - half, 1 + shift + half)
        low, high = shift - half, shift + half
    if low > limit:
        verdict = Verdict.REGRESSION
    elif high < -limit:
        verdict = Verdict.IMPROVEMENT
    elif low > -limit and high < limit:
        verdict = Verdict.SAME if low <= 0 <= high else Verdict.SMALL
    else:
        verdict = Verdict.UNDECIDED
    undecided = verdict is Verdict.UNDECIDED
    return Compared(
        measure, interval, verdict, limit, gates=True, runs=(2, 2),
        needed=noise.randint(3, 30) if undecided else None,
        why="too few repeats" if undecided else "", base=0.5 if measure.kind == "score" else 812.5,
        new=0.49 if measure.kind == "score" else 840.1,
    )  # fmt: skip


def constructed(number: int = 68, worse: float = 0.0, text: str = "") -> Outcome:
    """A comparison of some settings, of which each tenth is worse.

    Args:
        text: added to every text of the rows.
    """
    noise = random.Random(1)  # noqa: S311
    rows = synthetic_rows(number, failures=False)
    settings = [
        setting for start in range(0, number, 68)
        for setting in settings_of(rows[start : start + 68], [], no_values)
    ]  # fmt: skip
    pairs = tuple(
        Pair(
            f"{setting.label}{text}", setting, setting, f"Xeon{text}",
            tuple(
                result(noise, measure, limit, worse if place % 10 == 3 else 0.0)
                for measure, limit in zip(MEASURES, LIMITS, strict=True)
            ),
            failing=f"ok, then oom in 2 of 3 runs: no memory{text}" if place == 5 else "",
            passing=f"crashed, then ok{text}" if place == 6 else "",
        )
        for place, setting in enumerate(settings)
    )  # fmt: skip
    overall = tuple(result(noise, *each, 0.0) for each in zip(MEASURES, LIMITS, strict=True))
    machines = Machines(
        f"Xeon, 2 cores{text}", f"EPYC, 64 cores{text}",
        tuple(
            MachineRow(pair.label, (
                MachineCost("peak_rss_mib", "memory", Interval(1.1, 1.0, 1.2), None),
                MachineCost("ms_per_1k_tokens", "time", Interval(0.5, 0.4, 0.6),
                            Interval(0.9 + noise.gauss(0, 0.1), 0.8, 1.3), 0.7),
            ))
            for pair in pairs
        ),
        why=f"no full fine-tuning{text}", family="All intervals hold at once.",
    )  # fmt: skip
    comparison = Comparison(
        pairs=pairs, overall=overall,
        unmatched=(Unmatched("NEW", f"dora rank 8{text}", f"only in NEW{text}", 3),),
        differs=(("code_version", f"0.1.0+g1{text}", f"0.1.0+g2{text}"),), machines=machines,
        family="All intervals hold at once with 95% (Bonferroni).",
    )  # fmt: skip
    sides = [
        Side(Path(f"{place}{text}.csv"), f"amp=off{text}", rows, no_values)
        for place in ("before", "after")
    ]
    return Outcome(comparison, *sides, Limits())
