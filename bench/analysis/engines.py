"""Engine minbert compared with engine transformers, through the settings that both ran.

The baselines are cells of engine transformers with the batches that its Trainer makes, with the
same batches, and with the same batches and compiled code. Cells of engine minbert are compared as
it runs if nothing is said: fast kernels, batches of similar length, not compiled.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from bench.analysis.comparison import Compared, Comparison, Limits, Pair, compare
from bench.analysis.matching import matching
from bench.analysis.setting import Setting
from bench.common.grouping import grouped
from bench.plan.cell import FAST, MINBERT, OFF, ON, TRANSFORMERS
from bench.plan.rows import Row
from bench.results.outcomes import ValuesOf, no_values
from bench.results.predictions import LossesOf

TOLERANCE: Final = {"off": 1e-4, "bf16": 2e-2, "fp16": 2e-2}
"""The largest difference allowed between the losses of a step, by AMP. In half precision each
engine rounds in other places, so there it only detects gross errors."""
TIME: Final = "ms_per_1k_tokens"
MEMORY: Final = ("peak_cuda_allocated_mib", "peak_rss_mib")
KEPT: Final = "activations_mib"
STEPS: Final = 50
"""Steps whose losses are compared: rounding alone makes those of long trainings differ."""
_NAMED: Final = ("engine", "batching", "compile")
_AS_IT_RUNS: Final = (FAST, "by-length", OFF)
"""Kernels, batching and compile of the cells of engine minbert that are compared."""
_VARIED: Final = ("attn_implementation", "engine_version")
"""Settings that engine transformers alone has."""
_BASELINES: Final = {
    "as its Trainer makes batches": ("shuffled", OFF),
    "on the same batches": ("by-length", OFF),
    "on the same batches, compiled": ("by-length", ON),
}
"""The batching and compile of each baseline."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """Engine minbert compared with a kind of cells of engine transformers, whose name has the
    settings of that engine alone in which its cells differ."""

    name: str
    comparison: Comparison

    def compared(self, *columns: str) -> Iterator[tuple[Pair, Compared]]:
        """The settings in which the first of some columns was compared that is known there."""
        for pair in self.comparison.pairs:
            known = {one.measure.column: one for one in pair.compared if one.interval is not None}
            if measured := [known[name] for name in columns if name in known]:
                yield pair, measured[0]


@dataclass(frozen=True, eq=False)
class Agreement:
    """The losses of a training of both engines, without dropout and on the same batches: the
    largest difference of any of the first steps."""

    minbert: Row
    transformers: Row
    steps: int
    difference: float

    @property
    def limit(self) -> float:
        return TOLERANCE[self.minbert.amp]

    @property
    def agrees(self) -> bool:
        return self.difference <= self.limit


def baselines(rows: Sequence[Row], values_of: ValuesOf) -> list[Baseline]:
    """The comparisons with each baseline that some rows have, also those without any pair; none if
    the engines have no model in common. Cells of engine transformers with this project's kernels
    are no baseline. Cells without dropout, in which losses are compared, count where there are no
    others."""
    by_engine = grouped([row for row in rows if row.own_kernels != ON], lambda row: row.engine)
    base, new = by_engine.get(TRANSFORMERS, []), by_engine.get(MINBERT, [])
    if any(row.dropout for row in base):
        base, new = ([row for row in side if row.dropout] for side in (base, new))
    new = [row for row in new if (row.kernels, row.batching, row.compile) == _AS_IT_RUNS]
    if not {row.model_digest for row in base} & {row.model_digest for row in new}:
        return []
    varied = [name for name in _VARIED if len({row[name] for row in base}) > 1]
    result = []
    for name, kind in _BASELINES.items():
        own = [row for row in base if (row.batching, row.compile) == kind]
        for values, members in grouped(own, lambda row: tuple(row[n] for n in varied)).items():
            both = values_of, values_of
            compared = compare(members, new, Limits(), named=_NAMED, values_of=both)
            result.append(Baseline(", ".join([name, *map(str, values)]), compared))
    return result


def unmatched(compared: Sequence[Baseline]) -> dict[str, list[str]]:
    """Settings without a counterpart by engine: those of engine transformers, and those of engine
    minbert that no baseline has."""
    bases, news = dict[str, None](), list[set[str]]()
    for baseline in compared:
        by_side = grouped(baseline.comparison.unmatched, lambda one: one.side)
        bases.update((f"{one.label} {baseline.name}", None) for one in by_side.get("BASE", []))
        news.append({one.label for one in by_side.get("NEW", [])})
    labels = {TRANSFORMERS: list(bases), MINBERT: sorted(set.intersection(*news))}
    return {engine: names for engine, names in labels.items() if names}


def agreements(rows: Sequence[Row], losses_of: LossesOf) -> list[Agreement]:
    """The losses of both engines' first steps on the same batches, trained without dropout."""
    exact = [row for row in rows if row.is_ok and not row.dropout and not row.lora_dropout]
    by_engine = grouped([row for row in exact if row.repeat == 1], lambda row: row.engine)
    base, new = by_engine.get(TRANSFORMERS, []), by_engine.get(MINBERT, [])
    if not base or not new:
        return []
    result = []
    by_kind = grouped(base, lambda row: (row.compile, *(row[name] for name in _VARIED)))
    for members in by_kind.values():
        for match in matching(members, new, ("engine", "compile"), (no_values, no_values)).matches:
            others = {(row.seed, row.fold): row for row in match.base.ok}
            for row in match.new.ok:
                other = others.get((row.seed, row.fold))
                if other is None or not (own := losses_of(row)) or not (theirs := losses_of(other)):
                    continue
                pairs = zip(own[:STEPS], theirs[:STEPS], strict=False)
                differences = [abs(a - b) for a, b in pairs]
                same = len(own) == len(theirs) and all(map(math.isfinite, differences))
                largest = max(differences) if same else math.inf
                result.append(Agreement(row, other, len(differences), largest))
    return result


def share_of_limit(setting: Setting) -> float | None:
    """The time of a setting's unavoidable matrix products, as a share of its time."""
    times, products = (setting.by_run(column) for column in (TIME, "products_ms"))
    both = times.keys() & products.keys()
    if not both:
        return None
    return fmean(products[run] for run in both) / fmean(times[run] for run in both)
