"""Prints docs/runs-csv.md: `python -m tests.experiments.runs_csv_page > docs/runs-csv.md`."""

import sys
from collections.abc import Iterable, Mapping
from typing import Final

from bench.plan.columns import COLUMNS, Column
from bench.plan.rows import FLAGS, STATUSES
from tests.bench.column_checks import CHECKS

_KINDS: Final = {str: "text", int: "whole number", float: "number"}

_HEAD: Final = """\
# runs.csv

The results of this project, one row for each attempt at a cell. This page is printed from
[bench/plan/columns.toml](../bench/plan/columns.toml) and, for axes and settings,
[bench/plan/settings.toml](../bench/plan/settings.toml), which declare the columns. "Held by" is the
test that fails if a value does not have the stated meaning.

The file is UTF-8 in the format of RFC 4180, with a header. Numbers have up to seven significant
digits. The name of a column ends in its unit: `_ms`, `_s` (seconds), `_mib`, `_j` (joules). An
empty field means that the column does not apply to the row (see "applies to"; if that is empty,
it applies to all) or that it was not measured; 0 or another placeholder is never written for it.
No row contains a path or a host name.

Rows are only appended. A repeat of a cell is done when there is a row with its `cell_id`, the
present `conditions_id`, its `repeat` (empty: 1) and the status `ok`. It is run again after a
failure or on request, and its next row has the highest `attempt` + 1. For each repeat and
`code_version` the last `ok` row counts: rows of several versions are kept together, and a failed
attempt never replaces a result. If no version has an `ok` row, the last row of all counts. An
`ok` row flagged `unstable_timing`, `throttled` or `disturbed` no longer counts once a later
attempt of any version is `ok`."""


def page() -> str:
    """The text of the page."""
    parts = [_HEAD, "", _named("Statuses", "status", STATUSES), _named("Flags", "flag", FLAGS)]
    for group in dict.fromkeys(column.group for column in COLUMNS):
        rows = (column for column in COLUMNS if column.group == group)
        parts.append(_table(group.capitalize(), rows))
    return "\n".join(parts)


def _named(title: str, what: str, meanings: Mapping[str, str]) -> str:
    lines = [f"| `{name}` | {about} |" for name, about in meanings.items()]
    return "\n".join([f"## {title}", "", f"| {what} | meaning |", "|---|---|", *lines, ""])


def _table(title: str, columns: Iterable[Column]) -> str:
    lines = [
        f"| `{column.name}` | {_KINDS[column.kind]} | {column.meaning} "
        f"| {column.where} | {_held_by(CHECKS[column.name])} |"
        for column in columns
    ]
    head = ["| column | kind | meaning | applies to | held by |", "|---|---|---|---|---|"]
    return "\n".join([f"## {title}", "", *head, *lines, ""])


def _held_by(check: str) -> str:
    """A test's name as a sentence, which leads to its file."""
    file, _, name = check.partition("::")
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../{file})" if name else ""


if __name__ == "__main__":
    sys.stdout.write(page())
