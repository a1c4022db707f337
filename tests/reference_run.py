"""The committed full grid at one epoch, in docs/, as real rows for tests."""

from pathlib import Path

from bench.analysis.groups import Group, groups
from bench.plan.columns import NAMES
from bench.plan.rows import Row
from bench.results.outcomes import ValuesOf, no_values, outcomes_file
from bench.results.rowfile import encode, record
from bench.results.store import read_rows

RUNS = Path(__file__).parents[1] / "docs" / "one-epoch.csv"
FROZEN = RUNS.with_name("frozen.csv")
"""Rows of the same run with adapted weights in half precision, which no grid makes any more."""


def reference_rows() -> list[Row]:
    """Its rows: those of the largest group."""
    return [*reference_group().rows]


def reference_group(values_of: ValuesOf = no_values, *others: Path) -> Group:
    """The group of its rows, and of those of other files."""
    rows = [row for path in (RUNS, *others) for row in read_rows(path)]
    return max(groups(rows, (), values_of), key=lambda group: len(group.rows))


def copy_reference(folder: Path) -> Path:
    """A runs.csv in a folder with its rows, and its predictions beside it."""
    path = folder / "runs.csv"
    path.write_bytes(record(NAMES) + b"".join(map(encode, reference_rows())))
    outcomes_file(path).write_bytes(outcomes_file(RUNS).read_bytes())
    return path
