"""Comparisons made without comparing anything, for pages."""

import random
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from bench.analysis.comparison import (
    Compared,
    Comparison,
    Family,
    Limits,
    Measure,
    Pair,
    Unmatched,
    Verdict,
    verdict_of,
)
from bench.analysis.machines import MachineCost, MachineRow, Machines
from bench.analysis.setting import settings_of
from bench.compare.conclusion import Conclusion
from bench.compare.sides import SideRows
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
    is_score = measure.kind == "score"
    if is_score:
        shift, half = shift / 5, half / 5
    value = -shift if is_score else 1 + shift
    verdict, significant = verdict_of(shift - half, shift + half, limit)
    undecided = verdict is Verdict.UNDECIDED
    return Compared(
        measure, Interval(value, value - half, value + half), verdict, limit, gates=True,
        runs=(2, 2), significant=significant, may_be_worse=shift + half > limit,
        needed=noise.randint(3, 30) if undecided else None,
        why="one training each" if undecided and is_score else "",
        base=0.5 if is_score else 812.5, new=0.49 if is_score else 840.1,
    )  # fmt: skip


def constructed(number: int = 68, worse: float = 0.0, texts: Sequence[str] = ("",)) -> Conclusion:
    """A comparison of some settings, of which each tenth is worse.

    Args:
        texts: each added to the texts of some settings, and all to the rest.
    """
    noise = random.Random(1)  # noqa: S311
    rows = synthetic_rows(number, failures=False)
    settings = [
        setting for start in range(0, number, 68)
        for setting in settings_of(rows[start : start + 68], [], no_values)
    ]  # fmt: skip
    pairs = tuple(
        Pair(
            f"{setting.label}{text}", setting, setting, "Xeon",
            tuple(
                result(noise, measure, limit, worse if place % 10 == 3 else 0.0)
                for measure, limit in zip(MEASURES, LIMITS, strict=True)
            ),
            failing=f"ok, then oom in 2 of 3 runs: no memory{text}" if place % 15 == 5 else "",
            passing=f"crashed, then ok{text}" if place % 15 == 6 else "",
        )
        for place, (setting, text) in enumerate(zip(settings, cycle(texts), strict=False))
    )  # fmt: skip
    overall = tuple(result(noise, *each, 0.0) for each in zip(MEASURES, LIMITS, strict=True))
    ratios = [0.9 + noise.gauss(0, 0.1) for _ in pairs]
    machines = Machines(
        f"Xeon, 2 cores{texts[0]}", f"EPYC, 64 cores{texts[-1]}",
        tuple(
            MachineRow(pair.label, (
                MachineCost("peak_rss_mib", "memory", Interval(1.1, 1.0, 1.2), None),
                MachineCost("ms_per_1k_tokens", "time", Interval(0.5, 0.4, 0.6),
                            Interval(ratio, ratio - 0.1, ratio + 0.1)),
            ))
            for pair, ratio in zip(pairs, ratios, strict=True)
        ),
        why=f"no full fine-tuning{texts[0]}", family="All intervals hold at once.",
    )  # fmt: skip
    comparison = Comparison(
        pairs=pairs, overall=overall,
        unmatched=tuple(Unmatched("NEW", f"dora{text}", f"only in NEW{text}", 3) for text in texts),
        differs=tuple(("code_version", f"1{text}", f"2{text}") for text in texts),
        machines=machines,
        family=Family(number=100, level=0.999, measures=5, overall_level=0.99),
    )  # fmt: skip
    sides = [
        SideRows(Path(f"{place}{texts[0]}.csv"), f"amp=off{texts[-1]}", rows, no_values)
        for place in ("before", "after")
    ]
    return Conclusion(comparison, *sides, Limits())
