"""Rebuild runs.csv from the folders of its cells, or bring one of an older schema up to date.

Rows without a folder are kept; a line that can't be read is reported and left out, and the old
file kept as runs.csv.before, or runs.csv.before-2 if that is there, and so on. The outcome of each
dev example is written to runs.outcomes.safetensors, from which reports compute the same intervals
where there are no folders.

Examples:
  python -m bench.rebuild
  python -m bench.rebuild --runs results/runs.csv --json
"""

import csv
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from io import TextIOWrapper
from itertools import count
from pathlib import Path
from typing import Final, TextIO

from filelock import FileLock

from bench.common.command import described, options_in
from bench.common.errors import InputError
from bench.common.files import exists, no_link, sync, write_atomically
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
from minbert.files import is_file, is_folder, open_regular

_LONGEST_HEADER: Final = 2**16
_LARGEST: Final = 2**28  # bytes of a CSV, a quarter of a million rows


@described(__doc__)
@options_in(__file__, "rebuild.toml")
def main(path: Path, as_json: bool) -> int:
    try:
        _check(path)
        with FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT_S):
            kept, restored, problems, copy = rebuild(path)
            counts = {"kept": kept, "from_folders": restored, "left_out": len(problems)}
            problems += [] if copy is None else [f"{copy} is the file as it was"]
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


def rebuild(path: Path) -> tuple[int, int, list[str], Path | None]:
    """Rewrite the CSV; return the numbers of rows kept and from folders, lines left out, and, if
    there are any, the copy of the file as it was. After an OSError it stays as it was."""
    problems = list[str]()
    rows = _rows(path, problems)
    restored = rows_in_folders(path, rows)
    copy = _copied(path) if problems else None
    every = b"".join(map(encode, [*rows, *restored]))
    write_atomically(path.resolve(), record(NAMES) + every)  # the CSV may be a link
    return len(rows), len(restored), problems, copy


def _copied(path: Path) -> Path:
    """A durable copy of a file next to it, under a name that nothing has."""
    for number in count(1):
        copy = path.with_name(f"{path.name}.before" + (f"-{number}" if number > 1 else ""))
        with suppress(FileExistsError), copy.open("xb") as file:
            file.write(path.read_bytes())
            break
    sync(copy)
    sync(copy.parent)
    return copy


def rows_in_folders(path: Path, rows: Iterable[Row]) -> list[Row]:
    """The rows in the folders of a CSV's cells that are not among its `rows`."""
    known, places = set(map(_key, rows)), list[Path]()
    with suppress(FileNotFoundError):
        places = [*map(no_link, sorted(cells_folder(path).iterdir()))]
    restored = [row for row in filter(None, map(kept_row, places)) if _key(row) not in known]
    return sorted(restored, key=lambda row: (row.finished_at or row.started_at or "", row.row_key))


def _check(path: Path) -> None:
    if os.path.lexists(path) and not is_file(path):
        raise InputError(f"{path}: is no file; name a runs.csv with --runs")
    folder = cells_folder(path)
    header = ""
    with suppress(FileNotFoundError), _opened(path) as file:
        header = file.readline(_LONGEST_HEADER)
    if not header and not exists(folder):
        raise InputError(f"{path}: is not there, and neither is a folder of its cells, {folder}")
    names, is_torn = next(csv.reader([header]), []), record(NAMES).decode().startswith(header)
    if not is_torn and ("cell_id" not in names or "schema" not in names):
        raise InputError(f"{path}, line 1: these are no columns of runs.csv")
    if exists(folder) and not is_folder(folder):
        raise InputError(f"{folder}: is no folder of cells; name another file with --runs")


def _opened(path: Path) -> TextIO:
    return TextIOWrapper(open_regular(path, _LARGEST), "utf-8-sig", "replace", newline="")


def _rows(path: Path, problems: list[str]) -> list[Row]:
    """The rows of a CSV of this schema or an older one, each once; bad lines go to `problems`."""
    text: list[str] = []
    with suppress(FileNotFoundError), _opened(path) as file:
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
