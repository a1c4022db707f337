"""A side of a comparison whose `bench.grid` writes rows at once, without training.

`make_side` copies this file into the side's folder as `bench/grid/__main__.py`, where it needs the
standard library only. The file `side.json` there has the cells and how their runs end:

- `cells`: each with `plan`, as in the JSON of a dry run; `select`, values by axis; `row`, texts by
  column of runs.csv; `ms`, its times by repeat, in turn; and `status`.
- `log`: the file of all runs of both sides, from which their times follow.
- `refuses`: the line with which it refuses its input.
- `silent`: it writes no rows.
- `slow`: a cell takes a minute, and Ctrl-C ends it as interrupted.
- `older`: its rows don't record what shares the machine."""

import csv
import fcntl
import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

FOLDER = Path(__file__).parents[2]
LOG = "log.txt"


def main():
    side = json.loads((FOLDER / "side.json").read_text())
    if "refuses" in side:
        sys.stderr.write(f"note: something else\nerror: {side['refuses']}\n")
        return 2
    words = [word for word in sys.argv[1:] if word not in ("--dry-run", "--json")]
    options = dict(zip(words[::2], words[1::2], strict=True))
    terms = dict(term.split("=") for term in options.get("--select", "").split())

    def is_selected(cell):
        return all(str(cell["select"][axis]) in terms[axis].split(",") for axis in terms)

    cells = list(filter(is_selected, side["cells"]))
    if "--dry-run" in sys.argv:
        print(json.dumps({"cells": [cell["plan"] for cell in cells]}))
        return 0
    repeat, runs = int(options["--repeats"]), Path(options["--runs"])
    for cell in cells:
        if (code := run(side, cell, repeat, runs, options.get("--device", ""))) != 0:
            return code
    return 0


def run(side, cell, repeat, runs, device):
    """Add a row with the next second as its start, as if a run took a second."""
    log = Path(side["log"])
    with log.open("a") as file:
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        file.write(f"{FOLDER.name} {cell['plan']['name']} {repeat} {device} {cores}\n")
    status, code = cell["status"], 0
    if side.get("slow"):
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            status, code = "interrupted", 130
    if side.get("silent"):
        sys.stderr.write("stopped: no space left\n")
        return 1
    start = datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=log.read_text().count("\n"))
    at = start.strftime("%Y-%m-%dT%H:%M:%SZ")
    workers = os.environ.get("MINBERT_BENCH_WORKERS")
    row = cell["row"] | {
        "repeat": repeat,
        "sharing": "" if workers is None or side.get("older") else f"{workers} workers",
        "status": status,
        "ms_per_1k_tokens": cell["ms"][(repeat - 1) % len(cell["ms"])],
        "started_at": at,
        "finished_at": at,
    }
    with runs.with_suffix(".turn").open("w") as turn:  # cells of several slots end at once
        fcntl.flock(turn, fcntl.LOCK_EX)
        lines = StringIO(newline="")
        writer = csv.DictWriter(lines, row)
        if not runs.exists():
            writer.writeheader()
        writer.writerow(row)
        before = runs.read_bytes() if runs.exists() else b""
        new = runs.with_suffix(".new")
        new.write_bytes(before + lines.getvalue().encode())
        new.replace(runs)
    return code


def make_side(folder, cells, **behaviour):
    """Write a side with cells, each of `synthetic_rows.cell`, its times and perhaps a status."""
    from bench.plan.columns import NAMES, format_value
    from tests.bench.synthetic_rows import result_row

    listed = []
    for of, ms, *status in cells:
        rate = of.learning_rate_head if of.mode == "head" else None
        row = result_row(of)
        listed.append({
            "plan": {**of.columns(), "name": of.name},
            "select": {**of.columns(), **({"learning_rate": rate} if rate else {})},
            "row": {name: format_value(row[name]) for name in NAMES},
            "ms": ms, "status": status[0] if status else "ok",
        })  # fmt: skip
    grid = folder / "bench" / "grid"
    grid.mkdir(parents=True, exist_ok=True)
    log = str(folder.parent / LOG)
    for package in (grid.parent, grid):
        (package / "__init__.py").touch()
    (grid / "__main__.py").write_text(Path(__file__).read_text())
    (folder / "side.json").write_text(json.dumps({"cells": listed, "log": log, **behaviour}))
    return folder


if __name__ == "__main__":
    sys.exit(main())
