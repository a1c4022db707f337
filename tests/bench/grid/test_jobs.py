"""Several workers at a time on the CPU, real ones."""

from collections import defaultdict
from contextlib import suppress

import psutil
import pytest

from bench.machine.cores import usable_cores
from tests.bench.grids import workers_of

CELLS = ("--select", "mode=full,lora amp=off")
CORES = usable_cores()
needs_cores = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")


@needs_cores
def test_two_jobs_have_cores_of_their_own_and_are_a_condition(grid):
    jobs = ("--jobs", "2")
    plan = grid.run(*CELLS, *jobs, "--dry-run")
    assert "in all, 2 cells at a time" in plan.stdout
    seen: defaultdict[int, set[tuple[int, ...]]] = defaultdict(set)
    process = grid.start(*CELLS, *jobs)
    at_once = 0
    while process.poll() is None:
        workers = workers_of(grid.folder)
        at_once = max(at_once, len(workers))
        for pid in workers:
            with suppress(psutil.Error):
                seen[pid].add(tuple(psutil.Process(pid).cpu_affinity()))
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "2 cells: 2 ok" in out
    assert at_once == 2
    assert all(len(own) == 1 for own in seen.values()), "bound before it begins"
    first, second = (set(own) for [own] in seen.values())
    assert not first & second
    rows = grid.rows()
    half = len(CORES) // 2
    assert {(row.threads, row.sharing, row.device) for row in rows} == {(half, "2 workers", "cpu")}
    assert {len([core for core in CORES if core & own]) for own in (first, second)} == {half}
