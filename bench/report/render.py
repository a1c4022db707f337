"""Rows in, a report on disk out: index.html, report.md and figures/*.svg.

Importing this loads pandas and matplotlib, the first figure loads seaborn; a command does so when
it has something to render.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from bench.analysis.groups import Group, group_key, groups
from bench.plan.cell import Row
from bench.plan.columns import COLUMNS, latest
from bench.report import cells, findings, provenance, tables, text, winners
from bench.report.authors_sections import authors_section, group_section
from bench.report.changes import changes_section, hub_first
from bench.report.commands import Repeat
from bench.report.commands import commands as repeat
from bench.report.drawing import Drawing, as_file
from bench.report.files import write_all
from bench.report.frozen import frozen_section
from bench.report.markup import html_environment, markdown_environment, style
from bench.report.predictions import predictions_section
from bench.report.rates import rates_section
from bench.report.sections import Card, Section, cards, sections, tradeoffs
from bench.report.tables import Table
from bench.report.terms import TERMS
from bench.results.outcomes import ValuesOf, no_values

_DRAWN: Final = 3
"""Groups after the first that get a picture; the others have their table."""
_NOTHING: Final = "There are no rows, so there is nothing to show."
_TRIES: Final = "There are only tries of a search for learning rates, and no cell at its rates."
_LISTED: Final = 500
"""Rows of a table that report.md lists; a web host's view of it ends soon after."""
_MOST_OTHERS: Final = 20
"""Groups after the first that are shown."""
_TEXTS: Final = tuple(column.name for column in COLUMNS if column.kind is str)
_NAMING: Final = ("model", "task", "grid", "message")
"""Columns that may hold a path."""


@dataclass(frozen=True)
class Other:
    """A group after the first."""

    number: int
    title: str
    said: Sequence[str]
    cards: Sequence[Card]
    drawings: Sequence[Drawing]
    table: Table
    sections: Sequence[Section] = ()


def render(
    rows: Sequence[Row],
    reports: Path,
    *,
    planned: Sequence[Row] = (),
    sources: Sequence[str] = (),
    values_of: ValuesOf = no_values,
    code_version: str | None = None,
) -> Path:
    """Write the report of some rows, and return its index.html.

    Args:
        rows: of runs.csv; of each cell's attempts the last `ok` one counts.
        reports: the folder, made where it is missing.
        planned: axes, settings and ids of cells that were to run; those without a row are shown
            as not run, and their group comes first.
        sources: the files that the rows came from, as a command line would name them.
        values_of: the kept predictions of a row, as `bench.results.predictions` has them.
        code_version: the one whose rows alone are shown; None: those of all.

    Raises:
        InputError: if the folder can't be written, or no row is of that version.
        DiskFullError: if there is no space left.
    """
    names = [text.plain(Path(source).name) for source in sources]
    facts = report(rows, planned, names, values_of, code_version)
    drawings = [d for section in facts["sections"] for d in section.drawings]
    for other in facts["others"]:
        drawings += [*other.drawings, *(d for of in other.sections for d in of.drawings)]
    pages = {"report.md": _markdown(facts), "index.html": _html(facts)}
    write_all(reports, pages, {f"{drawing.stem}.svg": as_file(drawing) for drawing in drawings})
    return reports / "index.html"


def report(
    rows: Sequence[Row],
    planned: Sequence[Row],
    sources: Sequence[str],
    values_of: ValuesOf = no_values,
    code_version: str | None = None,
) -> dict[str, Any]:
    """Everything that the pages say, before any markup."""
    clean = _Cleaner()
    narrowed: list[str] = []
    if code_version is not None:
        every_version, rows = rows, provenance.of_version(rows, code_version)
        planned = [row for row in planned if row.get("code_version") == code_version]
        narrowed = [provenance.left_out(len(every_version) - len(rows), text.plain(code_version))]
    cleaned = [clean(row) for row in rows]
    waiting = [clean(row) for row in planned]
    found = hub_first(groups(cleaned, waiting, values_of), {group_key(row) for row in waiting})
    every = [row for group in found for row in group.rows]
    heading, failures = cells.failures_table(every)
    first = found[0] if found else None
    others = found[1 : 1 + _MOST_OTHERS]
    searches = rates_section(first, cleaned, waiting)
    again = Repeat([], [])
    if first:
        again = repeat(first, sources, alone=not others, code_version=code_version)
    return {
        "title": findings.title(first) if first else "No cell was run",
        "lead": [
            *(findings.lead(first) if first else [_TRIES if searches else _NOTHING]),
            *(narrowed or provenance.versions(latest(cleaned).values())),
        ],
        "cards": cards(first) if first else [],
        "cards_heading": winners.winners_heading(first) if first else "",
        "cards_note": winners.left_out(first) if first else [],
        "sections": _sections(found, searches) if found else searches,
        "cells_heading": (
            f"Every {text.one_of(every)}: {sum(g.ok for g in found):,} of {len(every):,} ended ok"
        ),
        "cells": cells.cells_table(found),
        "failures_heading": heading,
        "failures": failures,
        "others": [_other(group, found[0], i) for i, group in enumerate(others, start=2)],
        "groups_left_out": max(len(found) - 1 - len(others), 0),
        "where": " and ".join(sources) or "the CSV",
        "conditions": tables.conditions_table(first) if first else None,
        "commands": again.lines,
        "commands_said": again.said,
        "terms": TERMS,
    }


def _sections(found: Sequence[Group], searches: Sequence[Section]) -> list[Section]:
    """Those of the first group, and what is said of several: of settings that differ, and of the
    authors' figures for all that are shown."""
    first, shown = found[0], found[: 1 + _MOST_OTHERS]
    return [
        *sections(first),
        *frozen_section(first),
        *changes_section(found),
        *searches,
        *authors_section(shown),
        *predictions_section(first),
    ]


class _Cleaner:
    """Gives rows whose texts can be shown: in one line, and without absolute paths."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._named: dict[str, str] = {}

    def __call__(self, row: Row) -> Row:
        changed: Row = {}
        for name in _TEXTS:
            value = row.get(name)
            if not isinstance(value, str):
                continue
            shown = self._known.get(value)
            if shown is None:
                shown = self._known[value] = text.plain(value)
            if name in _NAMING and ("/" in shown or "\\" in shown):
                shown = self._named.setdefault(shown, text.without_paths(shown))
            if shown != value:
                changed[name] = shown
        return {**row, **changed} if changed else row


def _other(group: Group, first: Group, number: int) -> Other:
    drawings: list[Drawing] = []
    drawn = number - 1 <= _DRAWN
    if drawn and group.has_quality and group.learned:
        drawings = tradeoffs(group, tables.frame(group), f"group{number}-")
    return Other(
        number, findings.title(group),
        [
            findings.differs(group, first), *findings.lead(group), *winners.left_out(group),
            *provenance.between_processes(group),
        ],
        cards(group), drawings, tables.settings_table(group),
        [
            *frozen_section(group, f"group{number}-"),
            *group_section(group, f"group{number}-", drawn=drawn),
        ],
    )  # fmt: skip


@cache
def _text(name: str) -> str:
    return files("bench.report").joinpath(name).read_text("utf-8")


def _vendored(name: str) -> str:
    """A file of Tabulator without the comment that names its source map, which is not here."""
    lines = _text(f"vendor/tabulator-6.5.3/{name}").splitlines()
    return "\n".join(line for line in lines if "sourceMappingURL" not in line)


def _html(facts: dict[str, Any]) -> str:
    parts = {
        "style": Markup(_vendored("tabulator_simple.min.css") + style()),  # noqa: S704
        "script": Markup(_vendored("tabulator.min.js") + "\n" + _text("cells.js")),  # noqa: S704
    }
    return html_environment().get_template("index.html.jinja").render(**facts, **parts)


def _markdown(facts: dict[str, Any]) -> str:
    template = markdown_environment().get_template("report.md.jinja")
    return template.render(**facts, listed=_LISTED)
