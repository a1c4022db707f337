"""A comparison in sentences, as lines for a terminal and as JSON. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property, partial
from itertools import chain, zip_longest
from typing import Any, Final

from bench.analysis.comparison import Compared, Comparison, Kind, Limits, Pair, Verdict
from bench.analysis.setting import Setting
from bench.common.grouping import grouped
from bench.common.messages import enumerated
from bench.compare.sides import SideRows
from bench.plan.columns import group_names
from bench.report.text import clean, count, fixed, signed, span
from bench.stats.intervals import Interval

SCHEMA: Final = 1
"""Raised when a key of the JSON changes its meaning."""
_NAMED: Final = 3
"""Regressions in the first sentence."""
EXCLUDED: Final = (Verdict.SAME, Verdict.SMALL, Verdict.IMPROVEMENT)
"""Verdicts by which a change for the worse beyond the minimum effect is excluded."""

Result = tuple[Pair | None, Compared]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A comparison with its sides, its limits, and whether undecided results fail.

    Attributes:
        looks: how often at most it was looked at while rows were measured.
    """

    comparison: Comparison
    base: SideRows
    new: SideRows
    limits: Limits
    strict: bool = False
    looks: int = 1

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


def is_compared(comparison: Comparison) -> bool:
    """Whether anything at all was compared."""
    return (
        any(one.verdict is not Verdict.NOT_COMPARED for _, one in comparison.results)
        or bool(comparison.failing or comparison.passing)
        or bool(comparison.machines and comparison.machines.rows)
    )


def obstacles(comparison: Comparison) -> list[str]:
    """The reasons why settings or measures were not compared, the most frequent first."""
    whys = [each.why for each in comparison.unmatched]
    whys += [one.why for _, one in comparison.results if one.verdict is Verdict.NOT_COMPARED]
    return [why for why, _ in Counter(filter(None, map(clean, whys))).most_common()]


def figures(one: Compared) -> str:
    """A ratio, or difference of scores, with its interval."""
    if one.interval is None:
        return "–"
    value = one.interval.value
    digits = 2 if value >= 0.1 and abs(value - 1) >= 0.095 else 3
    form = signed if one.measure.kind == "score" else partial(fixed, digits=digits)
    ends = "" if one.measure.exact else span(one.interval, form)
    return f"{form(value)}{f' ({ends})' if ends else ''}"


def name(pair: Pair | None) -> str:
    """The name of a result's setting."""
    return clean(pair.label) if pair else "all settings together"


def change(result: Result) -> str:
    """A result as a clause: `full, fp32 takes 1.50 (1.42 to 1.58) times as long`."""
    pair, one = result
    if one.measure.kind == "time":
        return f"{name(pair)} {'takes' if pair else 'take'} {figures(one)} times as long"
    unit = "" if one.measure.kind == "score" else " times that of BASE"
    return f"{name(pair)}: {one.measure.label} {figures(one)}{unit}"


def summary(outcome: Outcome) -> list[str]:
    """The answer in a few sentences."""
    comparison = outcome.comparison
    if worse := _worse(comparison):
        more = f"; and {len(worse) - _NAMED:,} more" if len(worse) > _NAMED else ""
        lines = [f"{count(len(worse), 'regression')}: {'; '.join(worse[:_NAMED])}{more}."]
    elif comparison.pairs:
        shown = " shown" if outcome.is_open else ""
        lines = [f"No regression{shown} in {count(len(comparison.pairs), 'setting')}."]
    else:
        lines = ["No setting ran on a machine of both sides."]
    if excluded := _excluded(outcome):
        lines.append(f"Excluded: {excluded}.")
    of_verdict = grouped(comparison.results, lambda result: result[1].verdict)
    worse_uncounted = [r for r in of_verdict.get(Verdict.REGRESSION, ()) if not r[1].gates]
    for heading, results in (
        ("Undecided", comparison.undecided),
        ("Improved", comparison.improvements),
        ("Significant, but below the minimum effect", of_verdict.get(Verdict.SMALL)),
        ("Worse, but not counted as a regression", worse_uncounted),
        ("Not compared", of_verdict.get(Verdict.NOT_COMPARED)),
    ):
        if results:
            lines.append(f"{heading}: {_measures(results)}.")
    if outcome.strict and outcome.is_open:
        lines.append("A regression is not excluded, which fails with --strict.")
    lines += _of_machines(comparison)
    if unmatched := comparison.unmatched:
        lines.append(f"Without a match: {count(len(unmatched), 'setting')}.")
    if passing := [name(pair) for pair in comparison.passing]:
        more = f" and {len(passing) - _NAMED:,} more" if len(passing) > _NAMED else ""
        lines.append(f"Newly passing: {'; '.join(passing[:_NAMED])}{more}.")
    return lines


def _of_machines(comparison: Comparison) -> list[str]:
    """A sentence on two machines: by cost, what gains most on NEW's, beyond full fine-tuning."""
    machines = comparison.machines
    if machines is None:
        return []
    best: dict[str, tuple[float, str]] = {}
    for row in machines.rows:
        for cost in row.costs:
            ratio = cost.normalised
            if ratio is not None and ratio.high is not None and ratio.high < 1:
                text = f"{clean(row.label)} in {cost.label}, {fixed(ratio.value, 2)}"
                text += f" ({span(ratio, partial(fixed, digits=2))})"
                best[cost.label] = min(best.get(cost.label, (1.0, "")), (ratio.value, text))
    gains = "; ".join(text for _, text in best.values())
    return [
        f"Costs of two machines, {clean(machines.base)} and {clean(machines.new)}: relative to "
        "full fine-tuning in fp32 on the same machine, "
        + (f"most is gained on NEW's by {gains}." if gains else "no setting gains more on NEW's.")
    ]


def by_turns(results: Iterable[Result]) -> list[Result]:
    """Results over all settings, then the largest change of each measure, the second of each."""
    by_measure = grouped(results, lambda result: result[1].measure.column)
    for of_measure in by_measure.values():
        of_measure.sort(key=lambda result: (result[0] is not None, -_size(result[1])))
    turns = chain.from_iterable(zip_longest(*by_measure.values()))
    return [result for result in turns if result is not None]


def _size(one: Compared) -> float:
    value = one.interval.value if one.interval else 0.0
    return abs(value if one.measure.kind == "score" else math.log(max(value, 1e-9)))


def _worse(comparison: Comparison) -> list[str]:
    """A newly failing cell, regressions, and further newly failing cells, each as a clause."""
    failing = [f"{name(pair)} newly fails: {clean(pair.failing)}" for pair in comparison.failing]
    return [*failing[:1], *map(change, by_turns(comparison.regressions)), *failing[1:]]


def _measures(results: Iterable[Result]) -> str:
    """The measures of results, with their numbers of settings and the reasons."""
    settings: Counter[tuple[str, str]] = Counter()
    for pair, one in results:
        why = clean(one.why) or ("too few repeats" if one.verdict is Verdict.UNDECIDED else "")
        settings[one.measure.label, why] += pair is not None
    alike = grouped(settings, lambda name: (settings[name], name[1]))
    clauses = []
    for (number, why), names in alike.items():
        where = f"in {count(number, 'setting')}" if number else "over all settings"
        labels = enumerated([label for label, _ in names])
        clauses.append(f"{labels} {where}{f' ({why})' if why else ''}")
    return "; ".join(clauses)


def _effect(kind: Kind, labels: str, limit: float | None, limits: Limits) -> str:
    """The change for the worse that is not tolerated: `a slowdown of more than 5%`."""
    if kind == "score":
        return f"a loss of more than {limits.score_drop} of {labels}"
    if kind == "time":
        return f"a slowdown of more than {100 * limits.slowdown:g}%"
    return f"an increase of {labels} by more than {100 * (limit or 0):g}%"


def _excluded(outcome: Outcome) -> str:
    """In how many settings a change for the worse is excluded, by measure."""
    compared = [
        one
        for pair, one in outcome.comparison.results
        if pair is not None and one.verdict is not Verdict.NOT_COMPARED
    ]
    clauses: dict[tuple[Kind, float | None, str], list[str]] = {}
    for label, alike in grouped(compared, lambda one: one.measure.label).items():
        if number := sum(one.verdict in EXCLUDED for one in alike):
            share = f"{number:,} of {count(len(alike), 'setting')}"
            clauses.setdefault((alike[-1].measure.kind, alike[-1].limit, share), []).append(label)
    return "; ".join(
        f"{_effect(kind, enumerated(labels), limit, outcome.limits)} in {share}"
        for (kind, limit, share), labels in clauses.items()
    )


def lines(outcome: Outcome) -> list[str]:
    """The answer for a terminal: sentences, regressions, and what would decide the rest."""
    comparison = outcome.comparison
    worse = [f"regression: {text}" for text in _worse(comparison)]
    known = [result for result in comparison.undecided if result[1].needed is not None]
    known.sort(key=lambda result: result[1].needed or 0)
    undecided = [f"undecided: {change(result)}; {needed(result[1])}" for result in known]
    unmatched = [
        f"not compared: {each.side}, {clean(each.label)}: {clean(each.why)}"
        for each in comparison.unmatched
    ]
    return [*summary(outcome), *_first(worse), *_first(undecided, 5), *_first(unmatched, 5)]


def _first(texts: list[str], most: int = 10) -> list[str]:
    more = [f"… and {len(texts) - most:,} more"] if len(texts) > most else []
    return texts[:most] + more


def needed(one: Compared) -> str:
    """How many repeats, or seeds, would decide a result."""
    thing = "seed" if one.measure.kind == "score" else "repeat"
    return f"{count(one.needed or 0, thing)} of each side would decide it"


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Everything, with null for what is empty or not finite."""
    comparison = outcome.comparison
    values = {
        "schema": SCHEMA, "exit_code": outcome.exit_code, "summary": summary(outcome),
        "regressions": len(comparison.regressions), "improvements": len(comparison.improvements),
        "undecided": len(comparison.undecided), "newly_failing": len(comparison.failing),
        "newly_passing": len(comparison.passing),
        "base": _side(outcome.base), "new": _side(outcome.new),
        "limits": asdict(outcome.limits), "strict": outcome.strict, "looks": outcome.looks,
        "multiplicity": comparison.family,
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
        "machines": comparison.machines,
    }  # fmt: skip
    return {key: _plain(value) for key, value in values.items()}


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


def _plain(value: Any) -> Any:
    """A value of JSON: clean texts, and null for numbers that are not finite."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return clean(value) if isinstance(value, str) else value
