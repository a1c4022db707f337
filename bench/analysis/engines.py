"""Engine minbert compared with engine transformers, through the settings that both ran.

The baselines are cells of engine transformers with the batches that its Trainer makes, with the
same batches, and with the same batches and compiled code.
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
from bench.plan.cell import MINBERT, OFF, ON, TRANSFORMERS
from bench.plan.rows import Row
from bench.results.losses import LossesOf
from bench.results.outcomes import ValuesOf, no_values

TOLERANCE: Final = {"off": 1e-4, "bf16": 2e-2, "fp16": 2e-2}
"""The largest difference allowed between the losses of a step, by AMP. In half precision each
engine rounds in other places, so there it only detects gross errors."""
TIME: Final = "ms_per_1k_tokens"
MEMORY: Final = ("peak_cuda_allocated_mib", "peak_rss_mib")
KEPT: Final = "activations_mib"
_NAMED: Final = ("engine", "batching", "compile")
_BASELINES: Final = {
    "as its Trainer makes batches": ("shuffled", OFF),
    "on the same batches": ("by-length", OFF),
    "on the same batches, compiled": ("by-length", ON),
}
"""The batching and compile of each baseline."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """Engine minbert compared with a kind of cells of engine transformers."""

    name: str
    comparison: Comparison

    def of(self, *columns: str) -> Iterator[tuple[Pair, Compared]]:
        """The settings in which the first of some columns was compared that is known there."""
        for pair in self.comparison.pairs:
            known = {one.measure.column: one for one in pair.compared if one.interval is not None}
            if (column := next((name for name in columns if name in known), None)) is not None:
                yield pair, known[column]


@dataclass(frozen=True, eq=False)
class Agreement:
    """The losses of a training of both engines, without dropout and on the same batches.

    Attributes:
        difference: the largest of any step.
    """

    minbert: Row
    transformers: Row
    steps: int
    difference: float

    @property
    def limit(self) -> float:
        """The largest difference that is allowed."""
        return TOLERANCE[self.minbert.amp]

    @property
    def agrees(self) -> bool:
        """Whether both engines did the same work."""
        return self.difference <= self.limit


def baselines(rows: Sequence[Row], values_of: ValuesOf) -> list[Baseline]:
    """The comparisons with each baseline that some rows have.

    Cells without dropout, in which losses are compared, count where there are no others.
    """
    by_engine = grouped(rows, lambda row: row.engine)
    ours, theirs = by_engine.get(MINBERT, []), by_engine.get(TRANSFORMERS, [])
    if any(row.dropout for row in theirs):
        ours, theirs = ([row for row in side if row.dropout] for side in (ours, theirs))
    by_kind = grouped(theirs, lambda row: (row.batching, row.compile))
    result = []
    for name, kind in _BASELINES.items():
        if ours and kind in by_kind:
            values = values_of, values_of
            compared = compare(by_kind[kind], ours, Limits(), named=_NAMED, values_of=values)
            result.append(Baseline(name, compared))
    return [baseline for baseline in result if baseline.comparison.pairs]


def agreements(rows: Sequence[Row], losses_of: LossesOf) -> list[Agreement]:
    """The losses of trainings without dropout that both engines have, on the same batches."""
    exact = [row for row in rows if row.is_ok and not row.dropout and not row.lora_dropout]
    by_engine = grouped([row for row in exact if row.repeat == 1], lambda row: row.engine)
    base, new = by_engine.get(TRANSFORMERS, []), by_engine.get(MINBERT, [])
    if not base or not new:
        return []
    result = []
    for match in matching(base, new, ("engine", "compile"), (no_values, no_values)).matches:
        theirs = {(row.seed, row.fold): row for row in match.base.ok}
        for row in match.new.ok:
            other = theirs.get((row.seed, row.fold))
            losses = losses_of(row), losses_of(other) if other is not None else ()
            if other is not None and all(losses):
                result.append(_agreement(row, other, *losses))
    return result


def _agreement(ours: Row, theirs: Row, one: Sequence[float], other: Sequence[float]) -> Agreement:
    differences = [abs(a - b) for a, b in zip(one, other, strict=False)]
    same = len(one) == len(other) and all(map(math.isfinite, differences))
    return Agreement(ours, theirs, len(differences), max(differences) if same else math.inf)


def share_of_limit(setting: Setting) -> float | None:
    """The time of the matrix products that a setting can't do without, as a share of its time;
    None where not measured."""
    times, products = (setting.by_run(column) for column in (TIME, "products_ms"))
    both = times.keys() & products.keys()
    if not both:
        return None
    return fmean(products[run] for run in both) / fmean(times[run] for run in both)
