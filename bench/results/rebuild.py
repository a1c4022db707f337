"""Rebuild runs.csv from the folders of its cells, or bring one of an older schema up to date.

Rows without a folder are kept; a line that can't be read is reported and left out, and the old
file kept as runs.csv.before. The outcome of each dev example is written to
runs.outcomes.safetensors, from which reports compute the same intervals where there are no
folders.

Examples:
  python -m bench.rebuild
  python -m bench.rebuild --runs results/runs.csv --json
"""

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from filelock import FileLock

from bench.common.command import described, options_in
from bench.common.errors import InputError
from bench.common.files import no_link, write_atomically
from bench.common.messages import echo
from bench.common.progress import note_to_stderr
from bench.plan.cell import Value
from bench.plan.columns import BY_NAME, NAMES, parse_value, row_of
from bench.plan.rows import SCHEMA, Row
from bench.results.outcomes import outcomes_file
from bench.results.predictions import keep_outcomes
from bench.results.row import kept_row
from bench.results.rowfile import encode, read_rows, record
from bench.results.store import LOCK_TIMEOUT_S, cells_folder
from minbert.files import is_file, is_folder

_LONGEST_HEADER: Final = 2**16


@described(__doc__)
@options_in(__file__, "rebuild.toml")
def main(path: Path, as_json: bool) -> int:
    try:
        _check(path)
        with FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT_S):
            kept, restored, problems = rebuild(path)
            counts = {"kept": kept, "from_folders": restored, "left_out": len(problems)}
            try:
                outcomes = keep_outcomes(path, read_rows(path))
            except ValueError as error:
                problems.append(f"{outcomes_file(path)}: is left as it is: {error}")
                outcomes = 0
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: can't be rebuilt ({reason})") from error
    note_to_stderr(*problems)
    summary = f"{kept + restored} rows in {path}: {kept} kept, {restored} from folders"
    if outcomes:
        counts["outcomes"] = outcomes
        what = "row" if outcomes == 1 else "rows"
        summary += f"\noutcomes of dev examples of {outcomes} {what} in {outcomes_file(path)}"
    echo(json.dumps(counts) if as_json else summary)
    return 0


def rebuild(path: Path) -> tuple[int, int, list[str]]:
    """Rewrite the CSV; return the numbers of rows kept and from folders, and lines left out. After
    an OSError the file stays as it was."""
    problems = list[str]()
    rows = _rows(path, problems) if path.exists() else []
    restored = rows_in_folders(path, rows)
    if problems:
        write_atomically(path.with_name(f"{path.name}.before"), path.read_bytes())
    every = b"".join(map(encode, [*rows, *restored]))
    write_atomically(path.resolve(), record(NAMES) + every)  # the CSV may be a link
    return len(rows), len(restored), problems


def rows_in_folders(path: Path, rows: Iterable[Row]) -> list[Row]:
    """The rows in the folders of a CSV's cells that are not among its `rows`."""
    folder, known = cells_folder(path), set(map(_key, rows))
    places = map(no_link, sorted(folder.iterdir())) if folder.exists() else []
    restored = [row for row in filter(None, map(kept_row, places)) if _key(row) not in known]
    return sorted(restored, key=lambda row: (row.finished_at or row.started_at or "", row.row_key))


def _check(path: Path) -> None:
    if os.path.lexists(path) and not is_file(path):
        raise InputError(f"{path}: is no file; name a runs.csv with --runs")
    folder = cells_folder(path)
    if is_file(path):
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            names = next(csv.reader([file.readline(_LONGEST_HEADER)]), [])
        if "cell_id" not in names or "schema" not in names:
            raise InputError(f"{path}, line 1: these are no columns of runs.csv")
    elif not folder.exists():
        raise InputError(f"{path}: is not there, and neither is a folder of its cells, {folder}")
    if folder.exists() and not is_folder(folder):
        raise InputError(f"{folder}: is no folder of cells; name another file with --runs")


def _rows(path: Path, problems: list[str]) -> list[Row]:
    """The rows of a CSV of this schema or an older one, each once; bad lines go to `problems`."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        text = list(file)
    is_torn = bool(text) and not text[-1].endswith("\n")
    lines = csv.reader(text)
    names = next(lines, [])
    rows: dict[tuple[Value, ...], Row] = {}
    while True:
        try:
            if fields := next(lines):
                if is_torn and lines.line_num == len(text):
                    raise ValueError("it is incomplete")
                pairs = dict(zip(names, fields, strict=True))
                if int(pairs["schema"]) > SCHEMA:
                    known = f"and this version knows {SCHEMA}"
                    raise ValueError(f"it is of schema {pairs['schema']}, {known}")
                row = row_of({n: parse_value(n, t) for n, t in pairs.items() if n in BY_NAME})
                encode(row)
                rows[_key(row)] = row
        except StopIteration:
            return list(rows.values())
        except (csv.Error, ValueError) as error:
            problems.append(f"{path}, line {lines.line_num}: left out: {error}")


def _key(row: Row) -> tuple[Value, ...]:
    """A unique key, also in a file merged from several, where two versions may share a row_key."""
    return *row.row_key, row.code_version
