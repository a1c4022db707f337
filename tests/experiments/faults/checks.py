"""What must hold after a fault: each check says what is wrong, in words, or nothing."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.launch.runner import HEAD, TAIL
from bench.results.protocol import RESULT, STDERR, STDOUT
from tests.experiments.faults.notes import Launch, read, records, whole

_GONE_S: Final = 3.0
_LONGEST_OUTPUT: Final = HEAD + 2 * TAIL
_AT_THE_TOP: Final = {"runs.csv", "runs.csv.lock", "runs.data.json", "runs", "reports"}
_LONGEST_CELL_S: Final = 300.0

BAD: Final = ("lost", "duplicated", "left_running", "wrong")


@dataclass(kw_only=True)
class Findings:
    """What is wrong after faults, in words."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    left_running: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.lines()

    def lines(self) -> list[str]:
        return [f"{kind}: {line}" for kind in BAD for line in getattr(self, kind)]


def counted(verdicts: Sequence[Findings]) -> dict[str, int]:
    """The number of findings of each kind."""
    return {name: sum(len(getattr(each, name)) for each in verdicts) for name in BAD}


def lost_rows(before: bytes, after: bytes) -> list[str]:
    if whole(after).startswith(whole(before)):
        return []
    kept = records(after)
    gone = [row for row in records(before) if row not in kept]
    lines = [f"the row of {row['cell_id']}, attempt {row['attempt']}" for row in gone]
    return lines or ["the order of rows, or their form"]


def unfinished_cells(cell_ids: Iterable[str], data: bytes) -> list[str]:
    done = {row["cell_id"] for row in records(data) if row["status"] == "ok"}
    return [f"{cell_id} has no ok row" for cell_id in cell_ids if cell_id not in done]


def repeated_rows(data: bytes) -> list[str]:
    """Cells with two ok rows, and attempts with two rows."""
    found = records(data)
    ok = Counter(row["cell_id"] for row in found if row["status"] == "ok")
    attempts = Counter((row["cell_id"], row["attempt"]) for row in found)
    return [f"{cell_id} has {count} ok rows" for cell_id, count in ok.items() if count > 1] + [
        f"{cell_id} has {count} rows of attempt {attempt}"
        for (cell_id, attempt), count in attempts.items()
        if count > 1
    ]


def repeated_work(launches: Iterable[Launch], finished: set[tuple[str, int]]) -> list[str]:
    """Launches of cells that were done, or whose result had been there since the first run."""
    return [
        f"{each.cell_id} ran again in run {each.run}"
        for each in launches
        if each.was_done or (each.run > 0 and (each.cell_id, each.attempt) in finished)
    ]


def finished(place: Path, data: bytes) -> set[tuple[str, int]]:
    """Cells and attempts that have an ok result and no row yet."""
    rows = {(row["cell_id"], int(row["attempt"])) for row in records(data)}
    found = set()
    for folder in (place / "runs").glob("*-*"):
        job = read_json(folder / "cell.json")
        if job and read_json(folder / RESULT).get("status") == "ok":
            found.add((str(job["cell_id"]), int(str(job["attempt"]))))
    return found - rows


def read_json(path: Path) -> dict[str, object]:
    """The object in a file; empty where there is none."""
    try:
        found = json.loads(read(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def wrong_rows(place: Path, data: bytes) -> list[str]:
    """Ok rows that say something else than the result in their folder, or have impossible times."""
    found = []
    for row in records(data):
        name = f"{row['cell_id']}, attempt {row['attempt']}"
        wall_s = float(row["wall_s"] or 0)
        if not 0 <= wall_s < _LONGEST_CELL_S or row["started_at"] > row["finished_at"]:
            found.append(f"{name}: {row['started_at']} to {row['finished_at']}, {row['wall_s']} s")
        if row["status"] != "ok":
            continue
        end = f"-{row['cell_id']}-{row['conditions_id']}-{row['attempt']}"
        for path in (place / "runs").glob(f"*{end}/{RESULT}"):
            columns: Any = read_json(path).get("columns")
            train_s = columns.get("train_s") if isinstance(columns, dict) else None
            if isinstance(train_s, float) and f"{train_s:.7g}" != row["train_s"]:
                found.append(f"{name}: train_s is {row['train_s']}, and the result's {train_s}")
    return found


def strays(place: Path) -> list[str]:
    """Files that nobody will use again."""
    found = [str(path.relative_to(place)) for path in place.rglob(".*")]
    return found + [path.name for path in place.iterdir() if path.name not in _AT_THE_TOP]


def long_outputs(place: Path) -> list[str]:
    """What workers printed, where more is kept than should be."""
    paths = (path for name in (STDOUT, STDERR) for path in (place / "runs").glob(f"*/{name}"))
    sizes = ((path.name, path.stat().st_size) for path in paths)
    return [f"{name} has {size:,} bytes" for name, size in sizes if size > _LONGEST_OUTPUT]


def tracebacks(notes: Path) -> list[str]:
    """Errors that a parent ended with and did not expect."""
    paths = sorted(notes.glob("run-*.err"))
    texts = ((path.name, path.read_text(errors="replace")) for path in paths)
    return [f"{name}: {text.splitlines()[-1]}" for name, text in texts if "Traceback" in text]


def left_running(folder: Path) -> list[str]:
    """Processes of a case that do not end; they are killed."""
    deadline = time.monotonic() + _GONE_S
    while (found := _running(folder)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [f"process {pid}: {command}" for pid, command in found.items()]


def _running(folder: Path) -> dict[int, str]:
    """Processes whose command line or environment names a folder, with their command lines."""
    name, found = f"{folder}/".encode(), {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if name in command or name in (entry / "environ").read_bytes():
                    found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found
