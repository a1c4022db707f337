"""How jobs end, on real clusters, and what rows say of it."""

import re

import pytest

from tests.components import COMPONENTS, need
from tests.slurm.cluster import has_control_groups, missing, temporary_cluster
from tests.slurm.place import HANG, Place
from tests.slurm.stub_worker import FILL_MEMORY


@pytest.fixture
def accounting_cluster():
    """A cluster with slurmdbd; jobs that exceed their memory are ended."""
    need(not (absent := missing(accounting=True)), f"no {absent}", component="slurmdbd")
    with temporary_cluster(accounting=True) as cluster:
        yield cluster


def test_rows_say_how_slurm_ended_their_jobs(accounting_cluster, tmp_path):
    """One job reaches its time limit, for which Slurm looks twice a minute. Meanwhile one exceeds
    its memory, which Slurm itself limits as there are no control groups; an array task is
    cancelled, then its array, of which some wait for a CPU."""
    names = ("late", "full", "place")
    late, full, place = (Place(tmp_path / name, accounting_cluster) for name in names)
    late.order(HANG, 0)
    late_command = late.start("--cells", "1", "--slurm", "time=2")
    late.wait_for_starts(1)
    accounting_cluster.run("scontrol", "update", f"JobId={late.array_task(0)}", "EndTime=now")

    full.order(FILL_MEMORY, 0)
    assert full.run("--cells", "1", "--slurm", "mem=400").returncode == 1
    assert full.statuses() == {0: ["oom"]}
    assert full.rows()[0]["message"].startswith("its job exceeded the memory")

    place.order(HANG, *range(6))
    command = place.start("--cells", "6")
    place.wait_for_starts(3)
    first = place.starts()[0].seed
    accounting_cluster.run("scancel", place.array_task(first))
    accounting_cluster.wait_for(lambda: first in place.statuses(), "its row")
    place.wait_for_starts(4)  # another has its CPU
    begun = {start.seed for start in place.starts()}
    accounting_cluster.run("scancel", place.job())
    ended = place.end(command)
    assert ended.returncode == 1
    statuses = place.statuses()  # perhaps of one more, on the CPU of the job that was late
    assert statuses.keys() >= begun
    begun = set(statuses)
    assert statuses == {seed: ["interrupted"] for seed in begun}
    assert {row["message"] for row in place.rows()} == {"its job was cancelled"}
    never = re.findall(r"(\d+) array tasks? never began: its job was cancelled", ended.stderr)
    assert sum(map(int, never)) == 6 - len(begun)

    assert late.end(late_command).returncode == 1
    assert late.statuses() == {0: ["timeout"]}
    assert "time limit" in late.rows()[0]["message"]
    assert late.problems() == full.problems() == place.problems() == []


def test_a_cell_that_exceeds_the_memory_of_its_control_group(tmp_path):
    need(not (absent := missing()), f"no Slurm cluster: {absent}", component="slurm")
    need(has_control_groups(), COMPONENTS["cgroups"], component="cgroups")
    with temporary_cluster(control_groups=True) as limited:
        place = Place(tmp_path / "place", limited)
        place.order(FILL_MEMORY, 0)
        ended = place.run("--cells", "2", "--slurm", "mem=400")
        assert ended.returncode == 1, ended.stderr
        assert place.statuses() == {0: ["oom"], 1: ["ok"]}
        (row,) = (row for row in place.rows() if row["status"] == "oom")
        assert row["message"].startswith("the host ran out of memory and the kernel killed it")
        assert limited.job(place.array_task(0))["JobState"] == "OUT_OF_MEMORY"
        assert place.problems() == []
