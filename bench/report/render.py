"""Rows in, a report on disk out: index.html, report.md and figures/*.svg.

Importing this loads seaborn and matplotlib; a command does so when it has something to render.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.groups import Group, ValuesOf, groups, no_values
from bench.report import findings, tables, text, winners
from bench.report.commands import commands as repeat
from bench.report.figures import Drawing, inline
from bench.report.files import write_all
from bench.report.rates import rates_section
from bench.report.sections import Card, cards, sections, tradeoffs
from bench.report.tables import Table
from bench.report.terms import TERMS
from bench.schema import Row

_DRAWN: Final = 3
"""Groups after the first that get a picture; the others have their table."""
_NOTHING: Final = "There are no rows, so there is nothing to show."
_LISTED: Final = 500
"""Cells that report.md lists; a web host's view of it ends soon after."""


@dataclass(frozen=True)
class Other:
    """A group after the first."""

    number: int
    title: str
    said: Sequence[str]
    cards: Sequence[Card]
    drawings: Sequence[Drawing]
    table: Table


def render(
    rows: Sequence[Row],
    reports: Path,
    *,
    planned: Sequence[Row] = (),
    sources: Sequence[str] = (),
    values_of: ValuesOf = no_values,
) -> Path:
    """Write the report of some rows, and return its index.html.

    Args:
        rows: of runs.csv; of each cell's attempts the last counts.
        reports: the folder, made where it is missing.
        planned: axes, settings and ids of cells that were to run; those without a row are shown
            as not run, and their group comes first.
        sources: the files that the rows came from, as a command line would name them.
        values_of: the kept predictions of a row, as `bench.predictions` has them.

    Raises:
        InputError: if the folder can't be written.
        DiskFullError: if there is no space left.
    """
    facts = report(rows, planned, [Path(source).name for source in sources], values_of)
    drawings = [d for section in facts["sections"] for d in section.drawings]
    drawings += [d for other in facts["others"] for d in other.drawings]
    pages = {"report.md": _markdown(facts), "index.html": _html(facts)}
    write_all(reports, pages, {f"{drawing.stem}.svg": _file(drawing) for drawing in drawings})
    return reports / "index.html"


def report(
    rows: Sequence[Row],
    planned: Sequence[Row],
    sources: Sequence[str],
    values_of: ValuesOf = no_values,
) -> dict[str, Any]:
    """Everything that the pages say, before any markup."""
    clean = [_clean(row) for row in rows]
    found = groups(clean, [_clean(row) for row in planned], values_of)
    every = [row for group in found for row in group.rows]
    heading, failures = tables.failures_table(every)
    first = found[0] if found else None
    return {
        "title": findings.title(first) if first else "Nothing was run",
        "lead": findings.lead(first) if first else [_NOTHING],
        "cards": cards(first) if first else [],
        "cards_heading": winners.winners_heading(first) if first else "",
        "cards_note": winners.left_out(first) if first else [],
        "sections": [*sections(first), *rates_section(first, clean)] if first else [],
        "cells_heading": f"Every cell: {sum(g.ok for g in found):,} of {len(every):,} ended ok",
        "cells": tables.cells_table(found),
        "failures_heading": heading,
        "failures": failures,
        "others": [_other(group, found[0], i) for i, group in enumerate(found[1:], start=2)],
        "conditions": tables.conditions_table(first) if first else None,
        "commands": repeat(first, sources) if first else [],
        "terms": TERMS,
    }


def _clean(row: Row) -> Row:
    """A row without absolute paths, which a model's name or a message may hold."""
    changed = {
        name: text.without_paths(value)
        for name in ("model", "task", "grid", "message")
        if isinstance(value := row.get(name), str) and ("/" in value or "\\" in value)
    }
    return {**row, **changed} if changed else row


def _other(group: Group, first: Group, number: int) -> Other:
    drawings: list[Drawing] = []
    if number - 1 <= _DRAWN and group.has_quality:
        drawings = tradeoffs(group, tables.frame(group), f"group{number}-")
    return Other(
        number, findings.title(group),
        [findings.differs(group, first), *findings.lead(group), *winners.left_out(group)],
        cards(group), drawings, tables.settings_table(group),
    )  # fmt: skip


def _file(drawing: Drawing) -> str:
    return f'<?xml version="1.0" encoding="utf-8"?>\n{drawing.svg}'


@cache
def _text(name: str) -> str:
    return files("bench.report").joinpath(name).read_text("utf-8")


def _vendored(name: str) -> str:
    """A file of Tabulator without the comment that names its source map, which is not here."""
    lines = _text(f"vendor/tabulator-6.5.3/{name}").splitlines()
    return "\n".join(line for line in lines if "sourceMappingURL" not in line)


def _html(facts: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("bench.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals["inline"] = lambda drawing: Markup(inline(drawing))  # noqa: S704
    parts = {
        "style": Markup(_vendored("tabulator_simple.min.css") + _text("style.css")),  # noqa: S704
        "script": Markup(_vendored("tabulator.min.js") + "\n" + _text("cells.js")),  # noqa: S704
    }
    return environment.get_template("index.html.jinja").render(**facts, **parts)


def _markdown(facts: dict[str, Any]) -> str:
    environment = Environment(  # noqa: S701 (escaped for Markdown, by finalize)
        loader=PackageLoader("bench.report"), undefined=StrictUndefined, finalize=escape_markdown,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["code"] = _code
    return environment.get_template("report.md.jinja").render(**facts, listed=_LISTED)


_MARKDOWN: Final = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "$": "&#36;"}
    | {mark: f"\\{mark}" for mark in "\\`*_[]#"}
)


def escape_markdown(value: object) -> object:
    """A printed value so that Markdown shows it as it is, on one line; Markup stays."""
    if isinstance(value, Markup):
        return value
    return " ".join(str(value).split()).translate(_MARKDOWN)


def _code(lines: Sequence[str]) -> Markup:
    """Lines for an indented code block, in which nothing has a meaning."""
    return Markup("\n".join(f"    {line}" for line in lines))  # noqa: S704
