"""Prints docs/runs-csv.md: `python -m tests.experiments.runs_csv_page > docs/runs-csv.md`."""

import sys

from bench.plan.columns import COLUMNS
from bench.plan.rows import FLAGS, KIND_NAMES, STATUSES
from tests.bench.column_checks import CHECKS
from tests.experiments.pages import made


def page():
    groups = {}
    for column in COLUMNS:
        groups.setdefault(column.group, []).append(column)
    return made(
        "runs-csv.md.jinja", groups=groups, statuses=STATUSES,
        flags=FLAGS, kinds=KIND_NAMES, checks=CHECKS, held_by=_held_by,
    )  # fmt: skip


def _held_by(check):
    """A test's name as a sentence, which leads to its file."""
    file, _, name = check.partition("::")
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../{file})" if name else ""


if __name__ == "__main__":
    sys.stdout.write(page())
