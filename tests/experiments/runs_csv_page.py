"""Prints docs/runs-csv.md: `python -m tests.experiments.runs_csv_page > docs/runs-csv.md`."""

import sys
from pathlib import Path

from bench.plan.columns import COLUMNS
from bench.plan.rows import FLAGS, KIND_NAMES, STATUSES
from tests.bench.column_checks import CHECKS

_HEAD = Path(__file__).with_name("pages") / "runs-csv.md"


def page():
    """The text of the page."""
    head = _HEAD.read_text(encoding="utf-8")
    parts = [head, _named("Statuses", "status", STATUSES), _named("Flags", "flag", FLAGS)]
    for group in dict.fromkeys(column.group for column in COLUMNS):
        rows = (column for column in COLUMNS if column.group == group)
        parts.append(_table(group.capitalize(), rows))
    return "\n".join(parts)


def _named(title, what, meanings):
    lines = [f"| `{name}` | {about} |" for name, about in meanings.items()]
    return "\n".join([f"## {title}", "", f"| {what} | meaning |", "|---|---|", *lines, ""])


def _table(title, columns):
    lines = [
        f"| `{column.name}` | {KIND_NAMES[column.kind]} | {column.meaning} "
        f"| {column.where} | {_held_by(CHECKS[column.name])} |"
        for column in columns
    ]
    head = ["| column | kind | meaning | applies to | held by |", "|---|---|---|---|---|"]
    return "\n".join([f"## {title}", "", *head, *lines, ""])


def _held_by(check):
    """A test's name as a sentence, which leads to its file."""
    file, _, name = check.partition("::")
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../{file})" if name else ""


if __name__ == "__main__":
    sys.stdout.write(page())
