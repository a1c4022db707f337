"""Rows in, a report on disk out: index.html, report.md and figures/*.svg.

Importing this loads pandas and matplotlib, and the first figure loads seaborn, so commands import
it only when they have something to render.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from bench.analysis.groups import Group, differing, encoders_of, ordered_groups
from bench.analysis.recommendation import candidates_of, recommend
from bench.common.errors import InputError
from bench.common.files import read_tables
from bench.common.grouping import grouped
from bench.plan.cell import MULTITASK, Value
from bench.plan.columns import COLUMNS, CORRELATED, PART_SCORES
from bench.plan.metrics import ROW_METRICS
from bench.plan.rows import Row, latest
from bench.report import cells, pages, tables, text
from bench.report.authors import authors_section, group_section
from bench.report.changes import amp_section, changes_sections
from bench.report.claims import claims_section
from bench.report.commands import commands
from bench.report.data import data_section
from bench.report.drawing import Drawing
from bench.report.encoders import encoders_section
from bench.report.engines import engine_warnings, engines_section
from bench.report.explorer import explorer
from bench.report.forecasts import forecasts_section, lengths_section
from bench.report.labels import label_curve, labels_section
from bench.report.quality import quality_sections
from bench.report.recommendation import advice, subject
from bench.report.references import WARNING, final_line, reference_lines, reference_points
from bench.report.rounds import race_section, rates_section
from bench.report.tradeoff import between_processes, sections, tradeoffs
from bench.report.why import why_section
from bench.results.curves import CURVES, Curves, curves_key
from bench.results.facts import NO_FACTS, KnownFacts
from bench.results.rescoring import Results
from minbert.data.tasks import TASKS
from minbert.files import is_file

_MOST_DRAWN: Final = 3
"""Groups after the first that have figures; the others have their table alone."""
_MOST_OTHERS: Final = 20  # groups after the first that are shown
_BRIEF: Final = ("encoders", "race", "labels", "tradeoff", "why", "engines")
"""Anchors of the sections that report.md has too, and whose figures are files."""
_LONGEST: Final = 149  # lines of report.md
_ROWS: Final = (30, 20, 12, 4)
"""Rows that its longest table may have, if it is not too long with as many."""
_UNKNOWN: Final = "a version not recorded"
_MOST: Final = 6  # versions, machines or settings that a sentence names
_WITH_PATHS: Final = ("model", "task", "grid", "message")  # columns that may hold a path


def render(
    results: Results,
    reports: Path,
    *,
    planned: Sequence[Row] | None = None,
    code_version: str | None = None,
) -> Path:
    """Write the report on some results into a folder, and return the path of its index.html; errors
    as `write_all`, and InputError if no row is of `code_version`, the only one that is shown. Of a
    cell's attempts the last `ok` one counts. Planned cells, by default those that were planned
    last, are shown as not run where they have no row, and their group comes first."""
    content = report(results, planned, code_version)
    drawings = [d for section in _brief(content).values() for d in section.drawings]
    files = {"report.md": _markdown(content), "index.html": _html(content)}
    pages.write_all(reports, files, drawings)
    return reports / "index.html"


def report(
    results: Results, planned: Sequence[Row] | None = None, code_version: str | None = None
) -> dict[str, Any]:
    rows, facts = results.rows, results.facts
    planned = results.planned if planned is None else planned
    sources = [text.plain(path.name if path.is_absolute() else str(path)) for path in results.runs]
    if code_version is not None:
        rows = of_version(rows, code_version)
        planned = [row for row in planned if row.code_version == code_version]
    left_out = len(results.rows) - len(rows)
    rows, planned = printable(rows), printable(planned)
    every_group = ordered_groups(rows, planned, results.values_of)
    every_row = [row for group in every_group for row in group.rows]
    encoders = encoders_of(every_group)
    overall = recommend(candidates_of(encoders)) if encoders else None
    if encoders and overall and overall.setting:
        own = encoders.encoders[overall.setting.encoder]
        every_group.sort(key=lambda group: group is not own)
    first = every_group[0] if every_group else None
    points = reference_points(first, facts) if first else []
    recommended = recommend(candidates_of(first)) if first else None
    decision = overall or recommended
    curve = label_curve(decision, rows, results)
    fewer = {row.key for one in (curve.settings if curve else {}).values() for row in one.rows}
    rest = [group for group in every_group[1:] if not {row.key for row in group.rows} <= fewer]
    others = rest[:_MOST_OTHERS]
    failures_heading, failures = cells.failures_table(every_row)
    searches = rates_section(first, rows, planned)
    before, after = list[pages.Section](), list[pages.Section]()
    first_lines = [pages.phrase("groups", "without_cells", bool(searches))]
    if first and recommended:
        data = facts.get(str(first.shared("data_digest")))
        first_lines = [*lead(first, facts), *reference_lines(first, points)]
        if data is not None and data.final is not None:
            first_lines.append(final_line(data.final, first.metric))
        first_lines += unlearned(first)
        before += sections(first, points) + why_section(first, recommended.setting, facts)
        before += quality_sections(first, results.predictions_of, data) + amp_section(first)
        before += changes_sections(every_group)
        after += authors_section([first, *others]) + forecasts_section(first)
        after += lengths_section(_curves_of(first, results.runs))
        after += data_section(first, facts)
    shown = decision.candidates.group if decision else None
    # the rule of the explorer is not that of a race
    has_choice = shown is not None and shown.ok and len(shown.settings) > 1 and not shown.race
    return {
        "title": title(encoders or first) if first else "No cell was run",
        "warning": WARNING,
        "lead": [
            *([pages.phrase("groups", "encoders", encoders.encoders, first)] if encoders else []),
            *first_lines,
            *engine_warnings(rows, results.losses_of),
            *versions(latest(rows).values(), code_version, left_out),
        ],
        "advice": advice(decision, facts, results.exports, sources) if decision else None,
        "explorer": explorer(decision, sources, facts) if decision and has_choice else None,
        "sections": [
            *encoders_section(encoders), *race_section(recommended),
            *([labels_section(curve)] if curve else []),
            *engines_section(rows, results.values_of, results.losses_of),
            *before, *searches, *after, *claims_section(results.runs),
        ],
        "cells_heading": pages.phrase("groups", "cells", every_row, sum(g.ok for g in every_group)),
        "cells": cells.cells_table(every_group),
        "failures_heading": failures_heading, "failures": failures,
        "others": [
            _other(group, every_group[0], i, facts, encoders)
            for i, group in enumerate(others, start=2)
        ],
        "groups_left_out": len(rest) - len(others),
        "where": " and ".join(sources) or "the CSV",
        "kinds": tables.kinds_table(first) if first else None,
        "conditions": tables.conditions_table(first) if first else None,
        "conditions_lines": tables.conditions_lines(first) if first else [],
        "times_lines": between_processes(first) if first else [],
        "commands": commands(first, sources, facts, code_version) if first else [],
        "commands_lines": pages.sentences("commands"), "terms": _terms(),
    }  # fmt: skip


def _curves_of(group: Group, runs: Sequence[Path]) -> Curves | None:
    """The curves of a group's model on its kind of device, if they were forecast."""
    files = [path for path in runs if is_file(CURVES.path(path))]
    known = {key: curves for path in files for key, curves in CURVES.read(path).items()}
    return known.get(curves_key(str(group.shared("model_digest")), group.first.device))


def printable(rows: Iterable[Row]) -> list[Row]:
    """The rows with each text on one line, free of control characters and of absolute paths."""
    plain, clean = cache(text.plain), cache(text.clean)
    names = [column.name for column in COLUMNS if column.kind is str]
    forms = {name: clean if name in _WITH_PATHS else plain for name in names}

    def changed(row: Row) -> Row:
        texts = {name: forms[name](str(value)) for name in names if (value := row[name])}
        others = {name: new for name, new in texts.items() if new != row[name]}
        return row | others if others else row

    return [changed(row) for row in rows]


def _other(
    group: Group, first: Group, number: int, facts: KnownFacts, encoders: Group | None
) -> dict[str, Any]:
    """A group after the first, as the pages show it."""
    points, drawings = reference_points(group, facts), list[Drawing]()
    is_drawn = number - 1 <= _MOST_DRAWN
    prefix = f"group{number}-"
    if is_drawn and group.has_quality and group.learned:
        drawings = tradeoffs(group, tables.frame(group), prefix, points)
    is_same = group.shared("data_digest") == first.shared("data_digest")
    return {
        "number": number, "title": title(group),
        "differences": pages.phrase("groups", "differences", differences(group, first)),
        "lines": [
            differs(group, first, encoders),
            f"{advice(recommend(candidates_of(group)), facts).heading}.",
            *lead(group, facts), *reference_lines(group, points),
            *unlearned(group), *between_processes(group),
        ],
        "drawings": drawings, "table": tables.settings_table(group),
        "sections": [
            *changes_sections([group], prefix), *group_section(group, prefix, drawn=is_drawn),
            *([] if is_same else data_section(group, facts, prefix)),
        ],
    }  # fmt: skip


def _vendored(name: str) -> str:
    """A vendored file without the comment that names its source map, which is not here."""
    lines = pages.read(f"vendor/{name}").splitlines()
    return "\n".join(line for line in lines if "sourceMappingURL" not in line)


def _html(facts: dict[str, Any]) -> str:
    styles = [_vendored("tabulator-6.5.3/tabulator_simple.min.css"), pages.read("style.css")]
    scripts = ["tabulator-6.5.3/tabulator.min.js"]
    if facts["explorer"]:
        scripts += ["d3-7.9.0/d3.min.js", "plot-0.6.17/plot.umd.min.js"]
    parts = {
        "style": Markup("\n".join(styles)),  # noqa: S704
        "script": Markup("\n".join([*map(_vendored, scripts), pages.read("explore.js")])),  # noqa: S704
    }
    return pages.html_environment().get_template("index.html.jinja").render(**(facts | parts))


def _brief(facts: Mapping[str, Any]) -> dict[str, pages.Section]:
    return {section.anchor: section for section in facts["sections"] if section.anchor in _BRIEF}


def _markdown(facts: dict[str, Any]) -> str:
    template = pages.markdown_environment().get_template("report.md.jinja")
    content = facts | dict.fromkeys(_BRIEF) | _brief(facts) | {"listed": pages.LISTED}
    for rows in _ROWS:
        page = template.render(content | {"most": rows, "terms": {}})
        page = template.render(content | {"most": rows, "terms": _terms(page)})
        page = re.sub(r"\n{3,}", "\n\n", page)
        if len(page.splitlines()) <= _LONGEST:
            break
    return page


def _terms(page: str | None = None) -> dict[str, str]:
    """The report's terms with their definitions: all, or those of which a page has a word."""

    def is_used(term: str) -> bool:
        words = (re.escape(word) for word in re.split(", | and ", term))
        return any(re.search(rf"(?<!\w){word}s?(?!\w)", page or "") for word in words)

    terms = read_tables(__file__, "terms.toml").items()
    return {term: about for term, about in terms if page is None or is_used(term)}


def title(group: Group) -> str:
    return f"Fine-tuning {subject(group)}"


def lead(group: Group, facts: KnownFacts = NO_FACTS) -> list[str]:
    """The first lines: modes, model and task, how many cells ended ok, caps, and the machine."""
    task, known = TASKS.get(str(group.shared("task"))), facts.get(str(group.shared("data_digest")))
    every = [setting for setting in group.settings if setting.scores]
    cells = grouped([row for row in group.rows if row.is_ok], lambda row: row.cell_id).values()
    return pages.sentences(
        "lead", group=group, by_name=_by_name,
        seeds={len({row.seed for row in setting.ok}) for setting in group.settings if setting.ok},
        repeats={len({row.repeat or 1 for row in rows}) for rows in cells} or {1},
        several=any(len(setting.scores) > 1 for setting in every),
        is_kept=any(s.values.keys() == s.scores.keys() for s in every if len(s.scores) > 1),
        is_joined=all(s.values.keys() == s.scores.keys() for s in every), scored=every,
        row_metrics=ROW_METRICS, multitask=MULTITASK, notes=task.notes if task else (),
        parts=[part for part, name in PART_SCORES.items() if group.shared(name) is not None],
        correlated=CORRELATED,
        examples=known.train if known and group.folds is None else group.shared("max_train"),
        caution=text.plain(known.caution(group.metric)) if known else "",
        machines={
            (at, row.seed, row.fold): row.machine or "a machine not recorded"
            for at, setting in enumerate(group.settings) for row in setting.elsewhere
        },
    )  # fmt: skip


def differences(group: Group, first: Group) -> list[tuple[str, Value, Value]]:
    return [(n, group.shared(n), first.shared(n)) for n in differing(group, first)]


def differs(group: Group, first: Group, encoders: Group | None = None) -> str:
    is_encoder = encoders is not None and group in encoders.encoders.values()
    return pages.phrase("groups", "differs", differences(group, first), is_encoder)


def of_version(rows: Sequence[Row], version: str) -> list[Row]:
    """The rows of one version of the code; InputError if there are none."""
    selected = [row for row in rows if row.code_version == version]
    if rows and not selected:
        versions = _by_name(row.code_version or _UNKNOWN for row in rows)
        raise InputError(f"--code-version: no row is of {version!r}; there are {versions}")
    return selected


def versions(rows: Iterable[Row], only: str | None, left_out: int) -> list[str]:
    """A sentence on the versions of the code, if there are several, or one alone is shown."""
    if only is not None:
        return [pages.phrase("groups", "version", text.plain(only), left_out)]
    names = [str(row.code_version or _UNKNOWN) for row in rows]
    number = len(set(names))
    return [pages.phrase("groups", "versions", number, _by_name(names))] if number > 1 else []


def _by_name(names: Iterable[object]) -> str:
    return pages.phrase("groups", "by_name", Counter(map(str, names)).most_common(), _MOST)


def unlearned(group: Group) -> list[str]:
    """A sentence on the settings that are flagged `not_learned`, if there are any."""
    every = len(group.unlearned) == sum(bool(setting.ok) for setting in group.settings)
    return [line] if (line := pages.phrase("groups", "unlearned", group, every, _MOST)) else []
