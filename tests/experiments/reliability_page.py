"""Prints docs/reliability.md from the fault suite's counts and the present outcomes of GPU faults.

`python -m tests.experiments.faults --n 1000 --json > faults.json`,
`python -m tests.experiments.faults --slurm 1000 --json > slurm.json`, then
`python -m tests.experiments.reliability_page faults.json slurm.json > docs/reliability.md`
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

from tests.experiments.faults import gpu, slurm
from tests.experiments.faults.kinds import KINDS

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
python -m tests.experiments.faults --n {faults} --json > faults.json
python -m tests.experiments.reliability_page faults.json slurm.json > docs/reliability.md
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

## On a Slurm cluster

{cluster}

## GPU faults

This table shows how a command reacts to a faulty GPU or driver before it runs anything. Drivers
and GPUs are simulated (`tests/experiments/faults/gpu.py`); the code that queries them is real.
Unless the fault says otherwise, there are two GPUs, torch is built with CUDA
13.0 and `--device` is `auto`. The tests run all of these cases.

| fault | outcome |
|---|---|
{gpu_faults}
"""

_CLUSTER: Final = """\
A second run struck grids on real Slurm clusters, each of two nodes on one machine
(`python -m tests.experiments.faults --slurm {injected} --seed {seed} --jobs {jobs} --json`,
{minutes:.0f} minutes).
Slurm, its daemons, folders and locks are real, and so is the code that submits array tasks,
collects their rows and supervises workers on nodes. Stubs replace the worker, the model and the
data, the flags that plan a grid, and the report.

**{injected:,} faults** were injected into {rounds} grids with {cells:,} cells, which took {rows:,}
attempts and {commands} commands. After the last fault of a grid its command was given again until
all cells were ok.

| | |
|---|---|
| results lost | **{lost}** |
| attempts or results twice | **{duplicated}** |
| processes left running | **{left_running}** |
| otherwise wrong | **{wrong}** |

A result counts as lost if a row of runs.csv is gone or changed, or if a cell has no `ok` row in
the end. Otherwise wrong are a traceback, an exit code that does not match, a submission whose rows
were not all collected, and a row that `bench.rebuild` finds in no folder, or that only a folder
has.

| kind | what happens | faults |
|---|---|---|
{kinds}

A controller that is killed has forgotten the last seconds when it is started again. It starts jobs
that are running already, then holds them and drains their nodes until an administrator releases
both; and it counts jobs as running that have ended, until their nodes report, which takes minutes.
The command waits for all of these. After its last fault the suite does what an administrator
would: it releases jobs and resumes nodes and, every half minute, restarts them.

Some 20 faults run with the tests (`tests/bench/executors/slurm/test_on_cluster.py`)."""


def page(counts: dict[str, Any], on_cluster: dict[str, Any]) -> str:
    """The page from the summaries of both runs of the suite."""
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
    kinds = [
        f"| {one['kind']} | {slurm.KINDS[one['kind']][1]} | {one['injected']} |"
        for one in on_cluster["counts"]
    ]
    minutes = on_cluster["seconds"] / 60
    cluster = _CLUSTER.format(**{**on_cluster, "minutes": minutes, "kinds": "\n".join(kinds)})
    tables = {"rows": "\n".join(rows), "gpu_faults": gpu.table(), "cluster": cluster}
    return _PAGE.format(**values, limits=limits if means else "", **tables)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m tests.experiments.reliability_page FAULTS.json SLURM.json")
    summaries = (json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:])
    sys.stdout.write(page(*summaries))
