"""What a comparison says: sentences, lines for a terminal, JSON, and the exit code."""

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import chain, zip_longest
from typing import Any, Final

from bench.analysis.comparison import Compared, Comparison, Limits, Pair, Result, Verdict, compare
from bench.analysis.costpairs import MachineCost
from bench.analysis.setting import Setting
from bench.common.errors import InputError
from bench.common.grouping import grouped
from bench.common.messages import enumerated, finite
from bench.compare.sides import SideRows
from bench.plan.columns import group_names
from bench.report.pages import phrase, sentences
from bench.report.text import clean, fixed, signed, with_span
from bench.stats.intervals import Interval

SCHEMA: Final = 1  # raised when a key of the JSON changes its meaning
EXCLUDED: Final = (Verdict.SAME, Verdict.SMALL, Verdict.IMPROVEMENT)
"""Verdicts by which a change for the worse beyond the minimum effect is excluded."""


@dataclass(frozen=True, eq=False)
class Conclusion:
    """A comparison with its sides, its limits, and whether undecided results fail."""

    comparison: Comparison
    base: SideRows
    new: SideRows
    limits: Limits
    strict: bool = False
    looks: int = 1  # how often at most it was looked at while rows were measured

    @cached_property
    def is_open(self) -> bool:
        """Whether a change for the worse beyond the limit is not excluded somewhere."""
        return any(
            one.may_be_worse and one.verdict in (Verdict.UNDECIDED, Verdict.REGRESSION)
            for _, one in self.comparison.results
        )

    @cached_property
    def exit_code(self) -> int:
        """1 for a regression, a newly failing cell or, if strict, what may be one; else 0."""
        compared = self.comparison
        return int(bool(compared.regressions or compared.failing or (self.strict and self.is_open)))


def conclude(
    base: SideRows, new: SideRows, limits: Limits, named: Collection[str] = (),
    strict: bool = False, looks: int = 1,
) -> Conclusion:  # fmt: skip
    """The comparison of two sides, as by `compare`; InputError where nothing can be compared."""
    values_of = base.values_of, new.values_of
    compared = compare(base.rows, new.rows, limits, named=named, values_of=values_of, looks=looks)
    verdicts = {one.verdict for _, one in compared.results}
    changed = compared.failing or compared.passing
    machines = compared.machines and compared.machines.rows
    if not (verdicts - {Verdict.NOT_COMPARED} or changed or machines):
        whys = [each.why for each in compared.unmatched]
        whys += [one.why for _, one in compared.having(Verdict.NOT_COMPARED)]
        counts = Counter(filter(None, map(clean, whys))).most_common(2)
        why = "; ".join(text for text, _ in counts) or "no results that ended ok"
        raise InputError(f"{base.name} and {new.name}: nothing to compare: {why}")
    return Conclusion(compared, base, new, limits, strict, looks)


def figures(one: Compared) -> str:
    """A ratio, or difference of scores, with its interval."""
    if one.interval is None:
        return "–"
    value = one.interval.value
    digits = 2 if value >= 0.1 and abs(value - 1) >= 0.095 else 3
    form = signed if one.measure.kind == "score" else partial(fixed, digits=digits)
    return form(value) if one.measure.exact else with_span(one.interval, form)


def name(pair: Pair | None) -> str:
    return clean(pair.label) if pair else "all settings together"


def summary(conclusion: Conclusion, details: bool = False) -> list[str]:
    """The answer in a few sentences; with `details` followed by lines on regressions, and on what
    would decide the rest."""
    comparison = conclusion.comparison
    # a newly failing cell, regressions, and further newly failing cells
    failing = [(pair, None) for pair in comparison.failing]
    worse = [*failing[:1], *by_turns(comparison.regressions), *failing[1:]]
    undecided = comparison.having(Verdict.UNDECIDED)
    decidable = [result for result in undecided if result[1].needed is not None]
    return sentences(
        "compare", conclusion=conclusion, details=details, worse=worse, most_named=3,
        excluded=_excluded(comparison), gains=_gains(comparison),
        of_verdict={verdict.name: comparison.having(verdict) for verdict in Verdict},
        decidable=sorted(decidable, key=lambda result: result[1].needed or 0),
        name=name, figures=figures, by_reason=_by_reason, enumerated=enumerated,
    )  # fmt: skip


def _gains(comparison: Comparison) -> list[tuple[str, MachineCost]]:
    """By cost, the setting that gains most on NEW's machine, beyond full fine-tuning."""
    best: dict[str, tuple[float, str, MachineCost]] = {}
    for row in comparison.machines.rows if comparison.machines else ():
        for cost in row.costs:
            ratio = cost.normalised
            if ratio is not None and ratio.high is not None and ratio.high < 1:
                own = ratio.value, row.label, cost
                best[cost.label] = min(best.get(cost.label, own), own, key=lambda each: each[:2])
    return [(label, cost) for _, label, cost in best.values()]


def by_turns(results: Iterable[Result]) -> list[Result]:
    """Results over all settings, then the largest change of each measure, the second of each; what
    is counted exactly comes last in each turn."""
    ordered = sorted(results, key=lambda result: result[1].measure.exact)
    by_measure = grouped(ordered, lambda result: result[1].measure.column)
    for of_measure in by_measure.values():
        of_measure.sort(key=lambda result: (result[0] is not None, -_size(result[1])))
    turns = chain.from_iterable(zip_longest(*by_measure.values()))
    return [result for result in turns if result is not None]


def _size(one: Compared) -> float:
    value = one.interval.value if one.interval else 0.0
    return abs(value if one.measure.kind == "score" else math.log(max(value, 1e-9)))


def _by_reason(results: Iterable[Result]) -> list[tuple[int, str, list[str]]]:
    """Numbers of settings and reasons, with the labels of the measures that have them."""
    settings: Counter[tuple[str, str]] = Counter()
    for pair, one in results:
        settings[one.measure.label, clean(one.why)] += pair is not None
    alike = grouped(settings, lambda name: (settings[name], name[1]))
    return [(*key, [label for label, _ in names]) for key, names in alike.items()]


def _excluded(comparison: Comparison) -> dict[tuple[str, float | None, int, int], list[str]]:
    """By kind and limit the number of settings in which a change for the worse is excluded, and of
    all, with the labels of the measures."""
    compared = [one for pair in comparison.pairs for one in pair.compared
                if one.verdict is not Verdict.NOT_COMPARED]  # fmt: skip
    excluded: dict[tuple[str, float | None, int, int], list[str]] = {}
    for label, alike in grouped(compared, lambda one: one.measure.label).items():
        if number := sum(one.verdict in EXCLUDED for one in alike):
            key = alike[-1].measure.kind, alike[-1].limit, number, len(alike)
            excluded.setdefault(key, []).append(label)
    return excluded


def as_json(conclusion: Conclusion) -> dict[str, Any]:
    """Everything, with null for what is empty or not finite."""
    comparison = conclusion.comparison
    values = {
        "schema": SCHEMA, "exit_code": conclusion.exit_code, "summary": summary(conclusion),
        "regressions": len(comparison.regressions),
        "improvements": len(comparison.having(Verdict.IMPROVEMENT)),
        "undecided": len(comparison.having(Verdict.UNDECIDED)),
        "newly_failing": len(comparison.failing), "newly_passing": len(comparison.passing),
        "base": _side(conclusion.base), "new": _side(conclusion.new),
        "limits": asdict(conclusion.limits), "strict": conclusion.strict, "looks": conclusion.looks,
        "multiplicity": phrase("multiplicity", "family", comparison.family),
        "differs": [
            {"column": column, "base": base, "new": new} for column, base, new in comparison.differs
        ],
        "overall": [_compared(one) for one in comparison.overall],
        "settings": [
            {
                "setting": pair.label, "machine": pair.machine,
                "metric": pair.new.rows[0].dev_metric,
                "base": _axes(pair.base), "new": _axes(pair.new),
                "newly_failing": pair.failing or None, "newly_passing": pair.passing or None,
                "measures": [_compared(one) for one in pair.compared],
            }
            for pair in comparison.pairs
        ],
        "not_matched": [asdict(each) for each in comparison.unmatched],
        "machines": comparison.machines and asdict(comparison.machines),
    }  # fmt: skip
    return {key: finite(value, clean) for key, value in values.items()}


def _side(side: SideRows) -> dict[str, Any]:
    versions = sorted({row.code_version for row in side.rows})
    return {"rows_of": side.name, "rows": len(side.rows), "code_versions": versions}


def _axes(setting: Setting) -> dict[str, Any]:
    axes = [axis for axis in group_names("axes") if axis not in ("seed", "fold")]
    return {axis: setting.rows[0][axis] for axis in axes}


def _compared(one: Compared) -> dict[str, Any]:
    interval, measure = one.interval or Interval(math.nan), one.measure
    names = ("limit", "significant", "may_be_worse", "base", "new", "runs", "needed")
    return {
        "column": measure.column, "measure": measure.label, "kind": measure.kind,
        "is_ratio": measure.kind != "score", "verdict": one.verdict.value, "gates": one.gates,
        "change": interval.value, "low": interval.low, "high": interval.high,
        **{name: getattr(one, name) for name in names}, "why": one.why or None,
    }  # fmt: skip
