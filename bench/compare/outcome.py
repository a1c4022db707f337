"""A comparison in sentences, as lines for a terminal and as JSON. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property, partial
from itertools import chain, zip_longest
from typing import Any, Final

from bench.analysis.comparison import Compared, Comparison, Kind, Limits, Pair, Verdict
from bench.analysis.setting import Setting
from bench.compare.sides import Side, clean
from bench.plan.columns import group_names
from bench.report.text import count, fixed, signed, span
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
    base: Side
    new: Side
    limits: Limits
    strict: bool = False
    looks: int = 1

    @cached_property
    def exit_code(self) -> int:
        """1 for a regression, a newly failing cell or, if strict, an undecided result; else 0."""
        compared = self.comparison
        fails = compared.regressions or compared.failing or (self.strict and compared.undecided)
        return int(bool(fails))


def is_compared(comparison: Comparison) -> bool:
    """Whether anything at all was compared."""
    return (
        any(one.verdict is not Verdict.NOT_COMPARED for _, one in comparison.results)
        or bool(comparison.failing or comparison.passing)
        or bool(comparison.machines and comparison.machines.rows)
    )


def obstacles(comparison: Comparison) -> list[tuple[str, int]]:
    """The reasons why settings or measures were not compared, the most frequent first."""
    whys = [each.why for each in comparison.unmatched]
    whys += [one.why for _, one in comparison.results if one.verdict is Verdict.NOT_COMPARED]
    return Counter(filter(None, map(clean, whys))).most_common()


# In words


def figures(one: Compared) -> str:
    """A ratio, or difference of scores, with its interval."""
    if one.interval is None:
        return "–"
    value = one.interval.value
    digits = 2 if abs(value - 1) >= 0.095 else 3
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
    of = "" if one.measure.kind == "score" else " times that of BASE"
    return f"{name(pair)}: {one.measure.label} {figures(one)}{of}"


def summary(outcome: Outcome) -> list[str]:
    """The answer in a few sentences."""
    comparison = outcome.comparison
    if worse := _worse(comparison):
        more = f"; and {len(worse) - _NAMED:,} more" if len(worse) > _NAMED else ""
        lines = [f"{count(len(worse), 'regression')}: {'; '.join(worse[:_NAMED])}{more}."]
    elif comparison.pairs:
        lines = [f"No regression {_in_settings(len(comparison.pairs))}."]
    else:
        lines = ["No setting ran on a machine of both sides."]
    if excluded := _excluded(outcome):
        lines.append(f"Excluded: {excluded}.")
    if undecided := comparison.undecided:
        fails = ", which fails with --strict" if outcome.strict else ""
        lines.append(f"Undecided, for too few repeats: {_measures(undecided)}{fails}.")
    if better := comparison.improvements:
        lines.append(f"Improved: {_measures(better)}.")
    uncounted = [
        result for result in comparison.results
        if result[1].verdict is Verdict.REGRESSION and not result[1].gates
    ]  # fmt: skip
    if uncounted:
        why = Counter(clean(one.why) for _, one in uncounted).most_common(1)[0][0]
        lines.append(f"Worse, but not counted as a regression: {_measures(uncounted)} ({why}).")
    if comparison.passing:
        names = [name(pair) for pair in comparison.passing]
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        lines.append(f"Newly passing: {'; '.join(names[:_NAMED])}{more}.")
    return lines


def by_turns(results: Iterable[Result]) -> list[Result]:
    """Results over all settings, then the largest change of each measure, the second of each."""
    by_measure: dict[str, list[Result]] = {}
    for result in results:
        by_measure.setdefault(result[1].measure.column, []).append(result)
    for of_measure in by_measure.values():
        of_measure.sort(key=lambda result: (result[0] is not None, -_size(result[1])))
    turns = chain.from_iterable(zip_longest(*by_measure.values()))
    return [result for result in turns if result is not None]


def _size(one: Compared) -> float:
    value = one.interval.value if one.interval else 0.0
    return abs(value if one.measure.kind == "score" else math.log(max(value, 1e-9)))


def _worse(comparison: Comparison) -> list[str]:
    """Newly failing cells and regressions, each as a clause."""
    failing = [f"{name(pair)} newly fails: {clean(pair.failing)}" for pair in comparison.failing]
    return [*failing, *map(change, by_turns(comparison.regressions))]


def _in_settings(number: int) -> str:
    return f"in {count(number, 'setting')}"


def _measures(results: Iterable[Result]) -> str:
    """The measures of results, each with its number of settings."""
    settings: Counter[str] = Counter()
    for pair, one in results:
        settings[one.measure.label] += pair is not None
    return ", ".join(
        f"{label} {_in_settings(number) if number else 'over all settings'}"
        for label, number in settings.items()
    )


def _effect(kind: Kind, labels: str, limit: float | None, limits: Limits) -> str:
    """The change for the worse that is not tolerated: `a slowdown of more than 5%`."""
    if kind == "score":
        return f"a loss of more than {limits.score_drop} of {labels}"
    if kind == "time":
        return f"a slowdown of more than {100 * limits.slowdown:g}%"
    return f"an increase of {labels} by more than {100 * (limit or 0):g}%"


def _excluded(outcome: Outcome) -> str:
    """In how many settings a change for the worse is excluded, by measure."""
    shares: dict[str, list[bool]] = {}
    measures: dict[str, Compared] = {}
    for pair, one in outcome.comparison.results:
        if pair is not None and one.verdict is not Verdict.NOT_COMPARED:
            measures[one.measure.label] = one
            shares.setdefault(one.measure.label, []).append(one.verdict in EXCLUDED)
    clauses: dict[tuple[Kind, float | None, str], list[str]] = {}
    for label, one in measures.items():
        share = f"{sum(shares[label]):,} of {count(len(shares[label]), 'setting')}"
        clauses.setdefault((one.measure.kind, one.limit, share), []).append(label)
    return "; ".join(
        f"{_effect(kind, _joined(labels), limit, outcome.limits)} in {share}"
        for (kind, limit, share), labels in clauses.items()
    )


def _joined(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


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
    if one.needed is None:
        return clean(one.why)
    thing = "seed" if one.measure.kind == "score" else "repeat"
    return f"{count(one.needed, thing)} of each side would decide it"


# As data


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Everything, with null for what is empty or not finite."""
    comparison = outcome.comparison
    values = {
        "schema": SCHEMA,
        "exit_code": outcome.exit_code,
        "summary": summary(outcome),
        "regressions": len(comparison.regressions),
        "improvements": len(comparison.improvements),
        "undecided": len(comparison.undecided),
        "newly_failing": len(comparison.failing),
        "newly_passing": len(comparison.passing),
        "base": _side(outcome.base),
        "new": _side(outcome.new),
        "limits": asdict(outcome.limits),
        "strict": outcome.strict,
        "looks": outcome.looks,
        "multiplicity": comparison.family,
        "differs": [
            {"column": column, "base": base, "new": new} for column, base, new in comparison.differs
        ],
        "overall": [_compared(one) for one in comparison.overall],
        "settings": [
            {
                "setting": pair.label,
                "machine": pair.machine,
                "base": _axes(pair.base),
                "new": _axes(pair.new),
                "newly_failing": pair.failing or None,
                "newly_passing": pair.passing or None,
                "measures": [_compared(one) for one in pair.compared],
            }
            for pair in comparison.pairs
        ],
        "not_matched": [asdict(each) for each in comparison.unmatched],
        "machines": comparison.machines,
    }
    return {key: _plain(value) for key, value in values.items()}


def _side(side: Side) -> dict[str, Any]:
    versions = sorted({row.code_version for row in side.rows})
    return {"rows_of": side.name, "rows": len(side.rows), "code_versions": versions}


def _axes(setting: Setting) -> dict[str, Any]:
    axes = {axis: setting.rows[0][axis] for axis in group_names("axes")}
    return {axis: value for axis, value in axes.items() if axis not in ("seed", "fold")}


def _compared(one: Compared) -> dict[str, Any]:
    interval = one.interval or Interval(math.nan)
    return {
        "column": one.measure.column,
        "measure": one.measure.label,
        "kind": one.measure.kind,
        "is_ratio": one.measure.kind != "score",
        "verdict": one.verdict.value,
        "gates": one.gates,
        "change": interval.value,
        "low": interval.low,
        "high": interval.high,
        "limit": one.limit,
        "significant": one.significant,
        "base": one.base,
        "new": one.new,
        "runs": one.runs,
        "needed": one.needed,
        "why": one.why or None,
    }


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
