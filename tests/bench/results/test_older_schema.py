"""Files of an older schema are read, and not appended to; those of a newer one are refused."""

from pathlib import Path

import pytest

from bench.common.errors import InputError
from bench.plan.columns import NAMES, format_value
from bench.plan.rows import SCHEMA
from bench.results.rowfile import encode, read_rows, record
from bench.results.store import Store
from tests.bench.synthetic_rows import synthetic_rows

LATER = ("imports_anon_mib", "unfreeze", "head", "schedule", "regression_loss", "repeat")


def older_file(path: Path, schema: int = 1) -> None:
    names = [name for name in NAMES if name not in LATER]
    rows = (row | {"schema": schema} for row in synthetic_rows(3))
    lines = (record(format_value(row[name]) for name in names) for row in rows)
    path.write_bytes(record(names) + b"".join(lines))


def test_an_older_file_is_read_with_the_values_from_before_a_setting(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    older_file(path)
    rows = read_rows(path)
    assert [row.cell_id for row in rows] == [row.cell_id for row in synthetic_rows(3)]
    assert {(row.schema, row.head, row.repeat) for row in rows} == {(SCHEMA, "linear", 1)}
    assert rows[0].imports_anon_mib is None
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"bench\.rebuild"):
        Store(path).append(rows[0])
    assert path.read_bytes() == before


def test_columns_of_an_older_file_may_be_in_another_order(tmp_path: Path) -> None:
    path, rows = tmp_path / "runs.csv", list(synthetic_rows(3))
    names = [*(name for name in NAMES if name != "tf32"), "tf32"]  # which was a condition
    lines = [
        {n: format_value(row[n]) for n in names} | {"tf32": "", "schema": "13"} for row in rows
    ]
    path.write_bytes(b"".join(record(line) for line in (names, *(each.values() for each in lines))))
    same = [(row.cell_id, row.tf32, row.threads, row.code_version) for row in rows]
    assert [(r.cell_id, r.tf32, r.threads, r.code_version) for r in read_rows(path)] == same
    with pytest.raises(InputError, match=r"their order differs\); python -m bench\.rebuild"):
        Store(path).append(rows[0])


def test_a_broken_line_of_an_older_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    older_file(path)
    whole = path.read_bytes()
    path.write_bytes(whole + record(["x"] * 3))
    with pytest.raises(InputError, match="line 5: it has 3 fields"):
        read_rows(path)
    path.write_bytes(whole.replace(b",ok,", b",no,", 1))
    with pytest.raises(InputError, match="line 2: status"):
        read_rows(path)


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    older_file(path, SCHEMA + 1)
    with pytest.raises(InputError, match=f"schema is {SCHEMA + 1}, and this version reads"):
        read_rows(path)
    path.write_bytes(record([*NAMES, "humidity"]) + encode(synthetic_rows(1)[0]))
    with pytest.raises(InputError, match=r"it also has humidity.*update this project"):
        read_rows(path)
