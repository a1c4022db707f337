"""Prints docs/reliability.md from the fault suite's counts and the present outcomes of GPU faults.

`python -m tests.faults --n 1000 --json > faults.json`, then
`python -m tests.reliability_page faults.json > docs/reliability.md`
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

from tests.faults import gpu
from tests.faults.kinds import KINDS

_BAD: Final = ("lost", "duplicated", "left_running", "wrong")
_MEANS: Final = {
    "worker killed": "SIGKILL of the worker",
    "parent killed": "SIGKILL of the grid's own process, also in the middle of an append",
    "parent stopped": "SIGINT or SIGTERM, once or twice",
    "host memory": "the worker allocates until the kernel's limit kills it",
    "cuda memory": "the allocator's error of a full GPU, faked where there is none",
    "hang": "the worker stops answering, with a timeout set",
    "garbage printed": "text that looks like results, on stdout and stderr",
    "flood printed": "16 MiB to 1 GiB on stdout",
    "result spoilt": "the result file is garbage or cut off",
    "disk full": "no space, or a limit on the size of files",
    "row torn": "the end of runs.csv is cut off within a record",
    "clock jump": "the wall clock jumps by an hour or ten years",
    "folder deleted": "the cell's folder is deleted",
    "two parents": "two grids on one runs.csv, one of them killed or stopped",
}

_PAGE: Final = """# What a fault costs

No result is lost and no work is done twice, whatever fails and whenever. This page shows the
counts of one run of the fault suite, which took {minutes:.0f} minutes on two cores:

```sh
python -m tests.faults --n {faults} --json > faults.json
python -m tests.reliability_page faults.json > docs/reliability.md
```

**{injected:,} faults** were injected into a running grid: {at_real_workers} with real torch
workers that train `bert-tiny` on real sentences, the others with a fake worker that uses the
same protocol without torch. {missed} of them missed, because their target had already ended.
Grid, store, runner, locks and files are the real ones throughout. Kind, phase and moment are
drawn from seed {seed}.

| | |
|---|---|
| results lost | **{lost}** |
| cells done twice | **{duplicated}** |
| processes left running | **{left_running}** |
| otherwise wrong | **{wrong}** |

After each fault the same command is run again until the grid is done. A result counts as lost if
a row of runs.csv is gone or changed, or if a cell has no `ok` row in the end. A cell counts as
done twice if it has two `ok` rows, or if a worker was started for a cell that was done or had
already written its result. Otherwise wrong are a status that does not match the fault, a
traceback, a leftover file, more output kept than the limit, and a row that differs from the
result it came from.

{limits}

## By kind and phase

| kind | what happens | phase | fake worker | real worker | missed | lost | duplicated |
|---|---|---|---|---|---|---|---|
{rows}

A fast part of the suite runs with the tests (`tests/bench/grid/test_faults.py`).

## GPU faults

This table shows how a command reacts to a faulty GPU or driver before it runs anything. Drivers
and GPUs are simulated (`tests/faults/gpu.py`); the code that queries them is the real one.
Unless the fault says otherwise, there are two GPUs, torch is built with CUDA
13.0 and `--device` is `auto`. The tests run all of these cases.

| fault | outcome |
|---|---|
{gpu_faults}
"""


def page(counts: dict[str, Any]) -> str:
    """The page from the suite's summary."""
    of: dict[tuple[str, str], Counter[str]] = {}
    for each in counts["counts"]:
        found = of.setdefault((each["kind"], each["phase"]), Counter())
        found[each["worker"]] += each["injected"]
        found.update({name: each[name] for name in ("missed", *_BAD)})
    rows = []
    for kind in KINDS:
        told = kind.name, _MEANS[kind.name]
        for phase in kind.phases:
            if (found := of.get((kind.name, phase))) is None:
                continue
            names = ("fake", "real", "missed", "lost", "duplicated")
            numbers = [str(found[name]) for name in names]
            rows.append(f"| {' | '.join([*told, phase, *numbers])} |")
            told = "", ""
    means = ", ".join(f"{name} {n} times" for name, n in sorted(counts["means"].items()))
    limits = f"Where the machine allows it, resource limits were real: {means}."
    values = {**counts, "minutes": counts["seconds"] / 60}
    tables = {"rows": "\n".join(rows), "gpu_faults": gpu.table()}
    return _PAGE.format(**values, limits=limits if means else "", **tables)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.reliability_page FAULTS.json")
    sys.stdout.write(page(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
