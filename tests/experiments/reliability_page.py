"""Prints docs/reliability.md from the fault suite's counts and the present outcomes of GPU faults.

`python -m tests.experiments.faults --n 1000 --json > faults.json`,
`python -m tests.experiments.faults --slurm 1000 --json > slurm.json`, then
`python -m tests.experiments.reliability_page faults.json slurm.json > docs/reliability.md`
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

from tests.experiments.faults import gpu, slurm
from tests.experiments.faults.kinds import KINDS

_BAD = ("lost", "duplicated", "left_running", "wrong")
_MEANS = {
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

_PAGES = Path(__file__).parent / "pages"


def page(counts, on_cluster):
    """The page from the summaries of both runs of the suite."""
    of = {}
    for each in counts["counts"]:
        found = of.setdefault(each["kind"], Counter())
        found[each["worker"]] += each["injected"]
    rows = []
    for kind in KINDS:
        if (found := of.get(kind.name)) is None:
            continue
        numbers = [str(found[name]) for name in ("fake", "real")]
        rows.append(f"| {' | '.join([kind.name, _MEANS[kind.name], *numbers])} |")
    means = ", ".join(f"{name} {n} times" for name, n in sorted(counts["means"].items()))
    limits = f"Where the machine allows it, resource limits were real: {means}."
    values = {**counts, "minutes": counts["seconds"] / 60}
    kinds = [
        f"| {one['kind']} | {slurm.KINDS[one['kind']][1]} | {one['injected']} |"
        for one in on_cluster["counts"]
    ]
    minutes = on_cluster["seconds"] / 60
    text = (_PAGES / "reliability-cluster.md").read_text(encoding="utf-8").rstrip("\n")
    cluster = text.format(**{**on_cluster, "minutes": minutes, "kinds": "\n".join(kinds)})
    tables = {"rows": "\n".join(rows), "gpu_faults": _gpu_faults(), "cluster": cluster}
    text = (_PAGES / "reliability.md").read_text(encoding="utf-8")
    return text.format(**values, limits=limits if means else "", **tables)


def _gpu_faults():
    """The table of GPU faults: short UUIDs, no remedy, and a row for all faults of one outcome."""
    table = re.sub(r"(GPU-\w{8})-[\w-]+\)|; mend that, [^|]*? runs on the CPU", _kept, gpu.table())
    names = {}
    for row in table.splitlines():
        name, _, outcome = row.strip("| ").partition(" | ")
        outcome = re.sub(r" \(CUDA_VISIBLE_DEVICES='.*'\)", "", outcome)
        names.setdefault(outcome, []).append(name)
    return "\n".join(f"| {'; '.join(some)} | {outcome} |" for outcome, some in names.items())


def _kept(found):
    return f"{found[1]}…)" if found[1] else ""


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m tests.experiments.reliability_page FAULTS.json SLURM.json")
    summaries = (json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:])
    sys.stdout.write(page(*summaries))
