"""The files of a comparison: pages, pictures and JSON. Loads matplotlib."""

import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.analysis.comparison import Compared, Comparison, Measure, Pair, Verdict
from bench.analysis.machines import MachineCost, Machines
from bench.compare.drawing import Entry, dumbbells, intervals
from bench.compare.outcome import Outcome, Result, as_json, by_turns, figures, name, summary
from bench.compare.sides import clean
from bench.report.drawing import Drawing
from bench.report.pages import Facts, html, markdown, write_all
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table
from bench.report.text import by_metric, count, num, span, times

PAGES: Final = "compare"
_MOST: Final = 500
"""Rows of a table on the HTML page."""
_BRIEF: Final = (30, 15, 5, 0)
"""Rows that the longest table of the Markdown may have, if it is not too long with as many."""
_LARGEST: Final = 60_000
"""Bytes of the Markdown: a comment on GitHub holds 65,536 characters."""
_ORDER: Final = (
    Verdict.REGRESSION, Verdict.IMPROVEMENT, Verdict.UNDECIDED, Verdict.SMALL, Verdict.SAME,
    Verdict.NOT_COMPARED,
)  # fmt: skip

Columns = Sequence[tuple[Head, Callable[[Result], str]]]


def write(outcome: Outcome, reports: Path) -> Path:
    """Write all files of a comparison into a folder, and return the path of the HTML page.

    Raises:
        InputError: if the folder can't be written.
        DiskFullError: if there is no space left.
    """
    facts = content(outcome)
    pages = {
        f"{PAGES}.json": json.dumps(as_json(outcome), indent=1, allow_nan=False),
        f"{PAGES}.md": brief(outcome),
        f"{PAGES}.html": html(PAGES, facts),
    }
    drawings = [drawing for section in facts.sections for drawing in section.drawings]
    write_all(reports, pages, drawings, PAGES)
    return reports / f"{PAGES}.html"


def content(outcome: Outcome) -> Facts:
    """The content of the HTML page."""
    comparison = outcome.comparison
    worse = [*_worse(comparison, _BRIEF[0]), *_changed_cells(comparison, _MOST)]
    sections = [
        Section("worse", "Regressions", "What is worse", tables=worse),
        Section("all", "All settings", "All settings together", [_OVERALL], tables=_overall(
            comparison
        )),
        Section("pictures", "In pictures", "Setting by setting", drawings=_drawings(comparison)),
        Section("settings", "In numbers", "Every setting", tables=_by_measure(comparison)),
        *_machines(comparison),
        Section("differs", "What differs", "What differs between the sides",
                tables=_differs(comparison)),
        Section("unmatched", "Not compared", "What is not compared, and why",
                tables=_obstacles(comparison, _MOST)),
    ]  # fmt: skip
    return _facts(outcome, sections)


def brief(outcome: Outcome) -> str:
    """The page as Markdown, short enough for a comment."""
    comparison = outcome.comparison
    for most in _BRIEF:
        sections = [
            Section("results", "", "Results", tables=[
                *_overall(comparison), *_changed_cells(comparison, most),
                *_results(comparison, most),
            ]),
            *(replace(each, drawings=()) for each in _machines(comparison, most)),
            Section("differs", "", "What differs between the sides", tables=_differs(comparison)),
            Section("unmatched", "", "What is not compared, and why",
                    tables=_obstacles(comparison, most)),
        ]  # fmt: skip
        page = markdown(PAGES, _facts(outcome, sections))
        page = re.sub(r"\n{3,}", "\n\n", page)
        if len(page.encode()) <= _LARGEST:
            break
    return page


def _facts(outcome: Outcome, sections: Iterable[Section]) -> Facts:
    arguments = ["python", "-m", "bench.compare", *sys.argv[1:]]
    return Facts(
        title=f"{outcome.new.name} compared with {outcome.base.name}",
        findings=summary(outcome),
        sections=[each for each in sections if each.drawings or each.tables],
        said=_method(outcome),
        command=clean(shlex.join(arguments)),
        how="How it was computed",
    )


_OVERALL: Final = (
    "Geometric means of the settings' ratios, and mean differences of scores. Their errors come "
    "from resampling repeats within each setting; the settings are fixed."
)


def _method(outcome: Outcome) -> list[str]:
    limits = outcome.limits
    looks = (
        f" Rows were looked at up to {outcome.looks} times while they were measured; each look has "
        "a level that keeps this true of all together."
        if outcome.looks > 1
        else ""
    )
    return [
        f"BASE is {outcome.base.name}, {count(len(outcome.base.rows), 'row')}; NEW is "
        f"{outcome.new.name}, {count(len(outcome.new.rows), 'row')}.",
        f"{outcome.comparison.family}{looks}",
        f"A regression is a change whose interval lies wholly beyond the minimum effect: "
        f"{100 * limits.slowdown:g}% more time, {100 * limits.memory:g}% more memory, "
        f"{100 * limits.work:g}% more counted work, or {limits.score_drop} of score lost.",
        "Time counts only where both sides were measured in alternation, as bench.compare --run "
        "does; otherwise its interval includes the drift between two sessions.",
        "docs/comparing.md explains every verdict.",
    ]


# Tables


_SETTING: Final = (Head("setting", "setting"), lambda result: name(result[0]))
_MEASURE: Final = (Head("measure", "measure"), lambda result: result[1].measure.label)


def _columns(*first: tuple[Head, Callable[[Result], str]]) -> Columns:
    """The columns of a result after those that name it."""
    return [
        *first,
        (Head("verdict", "verdict"), lambda result: _verdict(result[1])),
        (Head("change", "NEW / BASE", "ratio, or difference of scores, with the interval", True),
         lambda result: figures(result[1])),
        (Head("base", "BASE", "mean", True), lambda result: _mean(result[1], result[1].base)),
        (Head("new", "NEW", "mean", True), lambda result: _mean(result[1], result[1].new)),
        (Head("runs", "runs", "of BASE and NEW; of scores, seeds", True),
         lambda result: " + ".join(map(str, result[1].runs)) if any(result[1].runs) else DASH),
        (Head("needed", "needed", "runs, or seeds, of each side that would decide it", True),
         lambda result: DASH if result[1].needed is None else f"{result[1].needed:,}"),
        (Head("why", "note"), lambda result: _cut(result[1].why)),
    ]  # fmt: skip


def _verdict(one: Compared) -> str:
    if one.verdict is Verdict.REGRESSION and not one.gates:
        return "worse, not counted"
    return one.verdict.value


def _mean(one: Compared, value: float | None) -> str:
    if value is None:
        return DASH
    return by_metric("accuracy", value) if one.measure.kind == "score" else num(value)


def _cut(text: str) -> str:
    text = clean(text)
    return text if len(text) <= 200 else f"{text[:199]}…"


def _table(
    columns: Columns, results: Sequence[Result], caption: str, most: int, folded: bool = False
) -> Table:
    """A table of the first results, with its whole length in the caption."""
    results = sorted(results, key=lambda result: _ORDER.index(result[1].verdict))
    if len(results) > most:
        caption += f" {most:,} of {len(results):,} are shown; all are in compare.json."
    rows = [[field(result) for _, field in columns] for result in results[:most]]
    marks = ["failed" if r[1].verdict is Verdict.REGRESSION else "" for r in results[:most]]
    heads = [head for head, _ in columns]
    filled = [i for i in range(len(heads)) if any(row[i] not in ("", DASH) for row in rows)]
    return Table(
        [heads[i] for i in filled], [[row[i] for i in filled] for row in rows], caption, marks,
        folded,
    )  # fmt: skip


def _worse(comparison: Comparison, most: int) -> list[Table]:
    results = by_turns(r for r in comparison.results if r[1].verdict is Verdict.REGRESSION)
    caption = f"{count(len(results), 'result')} worse than the minimum effect."
    return [_table(_columns(_SETTING, _MEASURE), results, caption, most)] if results else []


def _results(comparison: Comparison, most: int) -> list[Table]:
    """The results of settings in one table, without those that show no change."""
    results = [
        (pair, one) for pair, one in comparison.results
        if pair is not None and one.verdict not in (Verdict.SAME, Verdict.NOT_COMPARED)
    ]  # fmt: skip
    same = sum(pair is not None and one.verdict is Verdict.SAME for pair, one in comparison.results)
    if not results:
        return []
    caption = "Results by setting"
    caption += f", without {same:,} that show no measurable difference." if same else "."
    return [_table(_columns(_SETTING, _MEASURE), results, caption, most)]


def _overall(comparison: Comparison) -> list[Table]:
    results: list[Result] = [(None, one) for one in comparison.overall]
    caption = f"Over {count(len(comparison.pairs), 'setting')}."
    return [_table(_columns(_MEASURE), results, caption, _MOST)] if results else []


def _measures(comparison: Comparison) -> dict[str, Measure]:
    return {one.measure.column: one.measure for _, one in comparison.results}


def _of(comparison: Comparison, column: str) -> list[tuple[Pair, Compared]]:
    """The results of a measure by setting."""
    return [
        (pair, one) for pair in comparison.pairs for one in pair.compared
        if one.measure.column == column
    ]  # fmt: skip


def _by_measure(comparison: Comparison) -> list[Table]:
    tables = []
    for column, measure in _measures(comparison).items():
        results = _of(comparison, column)
        verdicts = Counter(_verdict(one) for _, one in results)
        counts = ", ".join(f"{number:,} {verdict}" for verdict, number in verdicts.most_common())
        caption = f"{_capital(measure.label)}: {counts or 'no setting'}."
        tables.append(_table(_columns(_SETTING), results, caption, _MOST, folded=True))
    return tables


def _changed_cells(comparison: Comparison, most: int) -> list[Table]:
    """Settings that newly fail, and that newly pass."""
    changed = [("newly fails", pair, pair.failing) for pair in comparison.failing]
    changed += [("newly passes", pair, pair.passing) for pair in comparison.passing]
    rows = [[name(pair), what, _cut(how)] for what, pair, how in changed]
    heads = [Head("setting", "setting"), Head("what", "what"), Head("why", "how its runs end")]
    return _listed(heads, rows, "Cells that end otherwise than in BASE.", most)


def _differs(comparison: Comparison) -> list[Table]:
    heads = [Head("column", "column"), Head("base", "BASE"), Head("new", "NEW")]
    rows = [[column, _cut(base), _cut(new)] for column, base, new in comparison.differs]
    return _listed(heads, rows, "Conditions and filters; all else is the same.", _MOST)


def _obstacles(comparison: Comparison, most: int) -> list[Table]:
    """Settings without a match, and measures that were not compared, by reason."""
    unmatched = [
        [each.side, _cut(each.label), f"{each.rows:,}", _cut(each.why)]
        for each in comparison.unmatched
    ]
    heads = [
        Head("side", "side"), Head("setting", "setting"), Head("rows", "rows", numeric=True),
        Head("why", "why"),
    ]  # fmt: skip
    whys = Counter(
        (one.measure.label, _cut(one.why)) for _, one in comparison.results
        if one.verdict is Verdict.NOT_COMPARED
    )  # fmt: skip
    measures = [[label, f"{number:,}", why] for (label, why), number in whys.most_common()]
    number = Head("number", "results", numeric=True)
    return [
        *_listed(heads, unmatched, "Settings without a match.", most),
        *_listed([_MEASURE[0], number, Head("why", "why")], measures,
                 "Measures that were not compared.", most),
    ]  # fmt: skip


def _listed(
    heads: Sequence[Head], rows: Sequence[Sequence[str]], caption: str, most: int
) -> list[Table]:
    if len(rows) > most:
        caption += f" {most:,} of {len(rows):,} are shown; all are in compare.json."
    return [Table(heads, rows[:most], caption)] if rows else []


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# Machines


def _machines(comparison: Comparison, most: int = _MOST) -> list[Section]:
    """The section on two machines: absolute and normalised ratios."""
    machines = comparison.machines
    if machines is None or not machines.rows:
        return []
    labels = {cost.column: cost.label for row in machines.rows for cost in row.costs}
    heads = [Head("setting", "setting")]
    for column, label in labels.items():
        heads += [
            Head(f"{column}_absolute", f"{label}, NEW / BASE", "absolute", True),
            Head(f"{column}_normalised", f"{label}, of full fp32",
                 "each machine's value relative to its full fine-tuning in fp32, NEW / BASE", True),
        ]  # fmt: skip
    rows = []
    for row in machines.rows:
        costs = {cost.column: cost for cost in row.costs}
        fields = [field for column in labels for field in _cost(costs.get(column))]
        rows.append([clean(row.label), *fields])
    said = [
        f"BASE ran on {clean(machines.base)}, NEW on {clean(machines.new)}. Nothing here decides "
        "the exit code. Of full fp32: the value relative to full fine-tuning in fp32 on the same "
        "machine; below 1, a setting gains more on NEW's machine.",
        *([f"{_capital(clean(machines.why))}."] if machines.why else []),
        machines.family,
    ]
    caption = f"{count(len(rows), 'setting')} that both machines ran."
    return [Section("machines", "Machines", "Through what both machines ran", said,
                    _dumbbells(machines, labels), _listed(heads, rows, caption, most))]  # fmt: skip


def _dumbbells(machines: Machines, labels: Mapping[str, str]) -> list[Drawing]:
    """A picture of each cost relative to full fine-tuning in fp32 on both machines."""
    drawings = []
    for column, label in labels.items():
        rows = [
            (clean(row.label), cost.relative, cost.relative * cost.normalised.value)
            for row in machines.rows for cost in row.costs
            if cost.column == column and cost.relative and cost.normalised
        ]  # fmt: skip
        if rows:
            names = clean(f"BASE: {machines.base}"), clean(f"NEW: {machines.new}")
            drawings.append(dumbbells(rows, names, f"{label}, × full fp32", f"machines-{column}"))
    return drawings


def _cost(cost: MachineCost | None) -> list[str]:
    return [
        f"{times(ratio.value)} ({span(ratio, times)})" if ratio and ratio.ends()
        else times(ratio.value) if ratio else DASH
        for ratio in (cost.absolute if cost else None, cost.normalised if cost else None)
    ]  # fmt: skip


# Pictures


def _drawings(comparison: Comparison) -> list[Drawing]:
    """A picture of each measure that differs anywhere."""
    overall = {one.measure.column: one for one in comparison.overall}
    several = len({pair.machine for pair in comparison.pairs}) > 1
    drawings = []
    for column, measure in _measures(comparison).items():
        is_ratio = measure.kind != "score"
        entries = [
            Entry(f"{name(pair)}{f' · {clean(pair.machine)}' if several else ''}",
                  one.interval, one.verdict)
            for pair, one in _of(comparison, column)
            if one.interval is not None and one.verdict is not Verdict.NOT_COMPARED
        ]  # fmt: skip
        if not entries or (measure.exact and all(e.interval.value == 1 for e in entries)):
            continue
        total = overall.get(column)
        both = Entry("all settings", total.interval, total.verdict) if (
            total is not None and total.interval is not None
            and total.verdict is not Verdict.NOT_COMPARED
        ) else None  # fmt: skip
        limit = next(one.limit for _, one in _of(comparison, column) if one.interval is not None)
        x_label = f"{measure.label}, NEW {'/' if is_ratio else '−'} BASE"
        drawings.append(intervals(entries, both, limit, x_label, column, is_ratio=is_ratio))
    return drawings
