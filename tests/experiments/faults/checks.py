"""What must hold after a fault: each check says what is wrong, in words, or nothing."""

import json
import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from bench.launch.runner import HEAD, TAIL
from bench.results.protocol import RESULT, STDERR, STDOUT
from tests.experiments.faults.notes import read, records, whole

BAD = ("lost", "duplicated", "left_running", "wrong")


@dataclass(kw_only=True)
class Findings:
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    left_running: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def good(self):
        return not self.lines()

    def lines(self):
        return [f"{kind}: {line}" for kind in BAD for line in getattr(self, kind)]


def counted(verdicts):
    return {name: sum(len(getattr(each, name)) for each in verdicts) for name in BAD}


def lost_rows(before, after):
    if whole(after).startswith(whole(before)):
        return []
    kept = records(after)
    gone = [row for row in records(before) if row not in kept]
    lines = [f"the row of {row['cell_id']}, attempt {row['attempt']}" for row in gone]
    return lines or ["the order of rows, or their form"]


def unfinished_cells(cell_ids, data):
    done = {row["cell_id"] for row in records(data) if row["status"] == "ok"}
    return [f"{cell_id} has no ok row" for cell_id in cell_ids if cell_id not in done]


def repeated_rows(data):
    """Cells with two ok rows, and attempts with two rows."""
    names = Counter()
    for row in records(data):
        names[f"{row['cell_id']} has {{}} rows of attempt {row['attempt']}"] += 1
        names[f"{row['cell_id']} has {{}} ok rows"] += row["status"] == "ok"
    return [name.format(count) for name, count in names.items() if count > 1]


def unmerged(source, place, data):
    """Rows of a merged file that are missing, and folders."""
    kept = records(data)
    lines = [f"the merged row of {r['cell_id']}" for r in records(read(source)) if r not in kept]
    names = [path.relative_to(source.parent) for path in source.with_suffix("").glob("*/*")]
    differ = [name for name in names if read(source.parent / name) != read(place / name)]
    return lines + [f"the merged {name}" for name in differ]


def repeated_work(launches, finished):
    """Launches of cells that were done, or whose result had been there since the first run."""
    return [
        f"{each.cell_id} ran again in run {each.run}"
        for each in launches
        if each.was_done or (each.run > 0 and (each.cell_id, each.attempt) in finished)
    ]


def finished(place, data):
    """Cells and attempts that have an ok result and no row yet."""
    ended = set()
    for folder in (place / "runs").glob("*-*"):
        job = read_json(folder / "cell.json")
        if job and read_json(folder / RESULT).get("status") == "ok":
            ended.add((job["cell_id"], int(job["attempt"])))
    return ended - {(row["cell_id"], int(row["attempt"])) for row in records(data)}


def read_json(path):
    value = None
    with suppress(ValueError):
        value = json.loads(read(path))
    return value if isinstance(value, dict) else {}


def wrong_rows(place, data):
    """Ok rows that say something else than the result in their folder, or have impossible times."""
    wrong = []
    for row in records(data):
        name = f"{row['cell_id']}, attempt {row['attempt']}"
        wall_s = float(row["wall_s"] or 0)
        if not 0 <= wall_s < 300 or row["started_at"] > row["finished_at"]:
            wrong.append(f"{name}: {row['started_at']} to {row['finished_at']}, {row['wall_s']} s")
        if row["status"] != "ok":
            continue
        end = f"-{row['cell_id']}-{row['conditions_id']}-{row['attempt']}"
        for path in (place / "runs").glob(f"*{end}/{RESULT}"):
            columns = read_json(path).get("columns")
            train_s = columns.get("train_s") if isinstance(columns, dict) else None
            if isinstance(train_s, float) and f"{train_s:.7g}" != row["train_s"]:
                wrong.append(f"{name}: train_s is {row['train_s']}, and the result's {train_s}")
    return wrong


def strays(place):
    """Files that nobody will use again."""
    usual = {"runs.csv", "runs.csv.lock", "runs.data.json", "runs", "reports"}
    usual |= {"runs.csv.before", "runs.csv.before-2", "runs.outcomes.safetensors"}
    hidden = [str(path.relative_to(place)) for path in place.rglob(".*")]
    return hidden + [path.name for path in place.iterdir() if path.name not in usual]


def long_outputs(place):
    """What workers printed, where more is kept than should be."""
    paths = (path for name in (STDOUT, STDERR) for path in (place / "runs").glob(f"*/{name}"))
    sizes = ((path.name, path.stat().st_size) for path in paths)
    return [f"{name} has {size:,} bytes" for name, size in sizes if size > HEAD + 2 * TAIL]


def left_running(folder):
    deadline = time.monotonic() + 3
    while (running := _running(folder)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in running:
        with suppress(psutil.Error):
            process.kill()
    return [f"process {process.pid}: {command}" for process, command in running.items()]


def _running(folder):
    """Processes whose command line or environment names a folder, with their command lines."""
    running = {}
    for process in psutil.process_iter(["cmdline", "environ"]):
        words, variables = process.info["cmdline"] or [], process.info["environ"] or {}
        if process.pid != os.getpid() and f"{folder}/" in " ".join([*words, *variables.values()]):
            running[process] = " ".join(words)
    return running
