"""The files of a comparison: pages, pictures and JSON. Loads matplotlib."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Final

from bench.analysis.comparison import (
    Compared,
    Comparison,
    Measure,
    Pair,
    Result,
    Verdict,
    verdict_of,
)
from bench.analysis.costpairs import MachineRow, Machines
from bench.common.grouping import grouped
from bench.compare.conclusion import Conclusion, as_json, by_turns, figures, name, summary
from bench.plan.metrics import metric_of
from bench.report import text
from bench.report.drawing import Drawing
from bench.report.figures import Entry, intervals
from bench.report.pages import Facts, Section, called, markdown, phrase, sentences, write_pages
from bench.report.tables import DASH, Table, table

PAGES: Final = "compare"
_MOST: Final = 500  # rows of a table on the HTML page
_BRIEF: Final = (30, 15, 6, 3)
"""Rows that the table of results in the Markdown may have, if it is not too long with as many;
other tables have a third."""
_ALIKE: Final = 5
"""Rows of the table of results with one measure and one verdict; regressions may have more."""
_LARGEST: Final = 60_000  # bytes of the Markdown: a comment on GitHub holds 65,536 characters

ByMeasure = Mapping[Measure, Sequence[tuple[Pair, Compared]]]

_GAINS: Final = {Verdict[name]: words for name, words in text.LABELS["gains"].items()}
"""Verdicts of ratios relative to full fine-tuning in fp32."""


def write(conclusion: Conclusion, reports: Path) -> Path:
    """Write all files of a comparison into a folder, and return the path of the HTML page; errors
    as `write_pages`."""
    comparison = conclusion.comparison
    results, *rest = _sections(comparison, _BRIEF[0], _MOST)
    by_measure = _by_measure(comparison)
    drawings = [*_drawings(comparison, by_measure), *_machine_drawings(comparison.machines)]
    facts = _facts(conclusion, [
        results,
        Section("pictures", "In pictures", "Setting by setting", drawings=drawings),
        Section("settings", "In numbers", "Every setting", tables=_measure_tables(by_measure)),
        *rest,
    ])  # fmt: skip
    return write_pages(reports, PAGES, facts, data=as_json(conclusion), text=_brief(conclusion))


def _brief(conclusion: Conclusion) -> str:
    """The page as Markdown, short enough for a comment."""
    for most in _BRIEF:
        facts = _facts(conclusion, _sections(conclusion.comparison, most, most // 3))
        page = re.sub(r"\n{3,}", "\n\n", markdown(PAGES, facts))
        if len(page.encode()) <= _LARGEST:
            break
    return page


def _sections(comparison: Comparison, results: int, most: int) -> list[Section]:
    """The sections of both pages, with at most some results, and some rows in other tables."""
    caption = f"Over {text.count(len(comparison.pairs), 'setting')}."
    ended = [("newly fails", pair, pair.failing) for pair in comparison.failing]
    ended += [("newly passes", pair, pair.passing) for pair in comparison.passing]
    changed = [{"setting": name(pair), "what": what, "why": _cut(how)} for what, pair, how in ended]
    differs = [{"column": column, "base": _cut(base), "new": _cut(new)}
               for column, base, new in comparison.differs]  # fmt: skip
    return [
        Section("results", "Results", "Results", tables=[
            *_table([(None, one) for one in comparison.overall], caption, _MOST, "setting"),
            *_first(table("compare_changed", changed), most), *_results(comparison, results),
        ]),
        *_machines(comparison.machines, most),
        Section("differs", "What differs", "What differs between the sides",
                tables=_first(table("compare_differs", differs), _MOST)),
        Section("unmatched", "Not compared", "What is not compared, and why",
                tables=_obstacles(comparison, most)),
    ]  # fmt: skip


def _facts(conclusion: Conclusion, sections: Sequence[Section]) -> Facts:
    names = dict.fromkeys(pair.new.rows[0].dev_metric for pair in conclusion.comparison.pairs)
    return Facts(
        title=f"{conclusion.new.name} compared with {conclusion.base.name}",
        findings=summary(conclusion),
        sections=[each for each in sections if each.drawings or each.tables],
        notes=sentences(
            "compare-method", **vars(conclusion), metrics=[metric_of(n) for n in names if n],
        ),
        command=called("compare"),
        how="How it was computed",
    )  # fmt: skip


def _fields(pair: Pair | None, one: Compared) -> dict[str, str]:
    return {
        "setting": name(pair), "measure": one.measure.label, "verdict": _verdict(one),
        "change": figures(one), "base": _mean(one, one.base), "new": _mean(one, one.new),
        "runs": " + ".join(map(str, one.runs)) if any(one.runs) else DASH,
        "needed": DASH if one.needed is None else f"{one.needed:,}", "why": _cut(one.why),
    }  # fmt: skip


def _verdict(one: Compared) -> str:
    if one.verdict is Verdict.REGRESSION and not one.gates:
        return "worse, not counted"
    return one.verdict.value


def _mean(one: Compared, value: float | None) -> str:
    if value is None:
        return DASH
    return text.by_metric("accuracy", value) if one.measure.kind == "score" else text.num(value)


def _cut(sentence: str) -> str:
    return text.shortened(text.clean(sentence), 200)


def _table(
    results: Sequence[Result], caption: str, most: int, without: str = "", total: int = 0
) -> list[Table]:
    """A table of the first results, without a column and empty ones; none without results."""
    results = sorted(results, key=_rank)
    rows = [_fields(*result) for result in results[:most]]
    filled = {key for row in rows for key, field in row.items() if field not in ("", DASH)}
    rows = [{key: row[key] for key in row if key in filled - {without}} for row in rows]
    marks = ["failed" if r[1].verdict is Verdict.REGRESSION else "" for r in results[:most]]
    return _first(table("compare", rows, caption, marks), most, total or len(results))


def _rank(result: Result) -> tuple[bool, bool, int]:
    """Regressions come first, and what is counted exactly last."""
    _, one = result
    is_regression = one.verdict is Verdict.REGRESSION
    return not is_regression, one.measure.exact, [*Verdict].index(one.verdict)


def _first(table: Table, most: int, total: int = 0) -> list[Table]:
    """The first rows of a table, with the number of all in the caption; none without rows."""
    rows, total = table.rows[:most], total or len(table.rows)
    more = f" {len(rows):,} of {total:,} are shown; all are in compare.json."
    first = replace(table, rows=rows, caption=table.caption + more * (total > len(rows)))
    return [first] if table.rows else []


def _results(comparison: Comparison, most: int) -> list[Table]:
    """The largest results of settings in one table, without those that show no change."""
    by_setting = [result for result in comparison.results if result[0] is not None]
    same = sum(one.verdict is Verdict.SAME for _, one in by_setting)
    hidden = (Verdict.SAME, Verdict.NOT_COMPARED)
    results = [result for result in by_setting if result[1].verdict not in hidden]
    numbers: Counter[tuple[Measure, Verdict]] = Counter()
    shown = []
    for pair, one in by_turns(results):
        numbers[one.measure, one.verdict] += 1
        if one.verdict is Verdict.REGRESSION or numbers[one.measure, one.verdict] <= _ALIKE:
            shown.append((pair, one))
    caption = phrase("captions", "compare_results", same)
    return _table(shown, caption, most, total=len(results))


def _by_measure(comparison: Comparison) -> ByMeasure:
    """The results of settings by measure, of those that were compared anywhere; what is counted
    exactly comes last."""
    every = sorted(comparison.results, key=lambda result: result[1].measure.exact)
    by_measure = {
        measure: [(pair, one) for pair, one in results if pair is not None]
        for measure, results in grouped(every, lambda each: each[1].measure).items()
    }
    return {
        measure: results for measure, results in by_measure.items()
        if any(one.verdict is not Verdict.NOT_COMPARED for _, one in results)
    }  # fmt: skip


def _measure_tables(by_measure: ByMeasure) -> list[Table]:
    tables = []
    for measure, results in by_measure.items():
        verdicts = Counter(_verdict(one) for _, one in results)
        caption = phrase("captions", "compare_measure", measure.label, verdicts.most_common())
        tables += _table(results, caption, _MOST, "measure")
    return [replace(table, folded=True) for table in tables]


def _obstacles(comparison: Comparison, most: int) -> list[Table]:
    unmatched = [
        {"side": one.side, "setting": _cut(one.label), "rows": one.rows, "why": _cut(one.why)}
        for one in comparison.unmatched
    ]
    not_compared = comparison.having(Verdict.NOT_COMPARED)
    whys = Counter((one.measure.label, _cut(one.why)) for _, one in not_compared)
    measures = [
        {"measure": label, "number": number, "why": why}
        for (label, why), number in whys.most_common()
    ]
    return [
        *_first(table("compare_unmatched", unmatched), most),
        *_first(table("compare_not_compared", measures), most),
    ]


def _machines(machines: Machines | None, most: int) -> list[Section]:
    """The section on two machines: absolute and normalised ratios."""
    if machines is None or not machines.rows:
        return []
    kinds = ("absolute", "normalised")
    columns = [f"{column}_{kind}" for column in _costs(machines.rows) for kind in kinds]
    rows = [
        {"setting": text.clean(row.label), **dict.fromkeys(columns)}
        | {f"{cost.column}_{kind}": getattr(cost, kind) for cost in row.costs for kind in kinds}
        for row in machines.rows
    ]
    caption = f"{text.count(len(rows), 'setting')} that both machines ran."
    lines = sentences("compare-machines", machines=machines)
    heading, whole = "Through what both machines ran", table("compare_machines", rows, caption)
    return [Section("machines", "Machines", heading, lines, tables=_first(whole, most))]


def _costs(rows: Sequence[MachineRow]) -> dict[str, str]:
    return {cost.column: cost.label for row in rows for cost in row.costs}


def _machine_drawings(machines: Machines | None) -> list[Drawing]:
    """A picture of each cost relative to full fine-tuning in fp32 on the same machine."""
    drawings: list[Drawing] = []
    rows = machines.rows if machines else ()
    for column, label in _costs(rows).items():
        entries = [
            Entry(text.clean(row.label), ratio, verdict_of(log(ends[0]), log(ends[1]), 0)[0])
            for row in rows for cost in row.costs
            if cost.column == column and (ratio := cost.normalised) and (ends := ratio.ends())
        ]  # fmt: skip
        if entries:
            x_label = f"{label} relative to full fp32, NEW / BASE"
            drawings.append(intervals(entries, x_label, f"machines-{column}", words=_GAINS))
    return drawings


def _drawings(comparison: Comparison, by_measure: ByMeasure) -> list[Drawing]:
    overall = {
        one.measure: Entry("all settings", one.interval, one.verdict)
        for one in comparison.overall if one.interval
    }  # fmt: skip
    several = len({pair.machine for pair in comparison.pairs}) > 1
    drawings = []
    for measure, results in by_measure.items():
        is_ratio = measure.kind != "score"
        entries = [
            Entry(name(pair).partition(" against ")[0]
                  + (f" · {text.clean(pair.machine)}" if several else ""),
                  one.interval, one.verdict)
            for pair, one in results if one.interval
        ]  # fmt: skip
        if measure.exact and all(entry.interval.value == 1 for entry in entries):
            continue
        x_label = f"{measure.label}, NEW {'/' if is_ratio else '−'} BASE"
        drawings.append(intervals(
            entries, x_label, measure.column, is_ratio=is_ratio, overall=overall.get(measure),
            limit=next(one.limit for _, one in results if one.interval),
        ))  # fmt: skip
    return drawings
