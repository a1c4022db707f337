"""Grids and jobs on a real cluster of two nodes; in one module, so that one process starts it."""

import re
from pathlib import Path

import pytest

from bench.executors.slurm import commands
from bench.executors.slurm.executor import POLL
from bench.executors.slurm.submission import submissions_folder
from bench.results.row import kept_row
from bench.results.submission import Submission
from tests.bench.grids import GridRuns
from tests.components import COMPONENTS, need
from tests.experiments.faults.slurm import TIME_LIMIT, Round, summary
from tests.slurm.cluster import NODES, URGENT, has_control_groups, missing, temporary_cluster
from tests.slurm.place import HANG, PAIRS, POLL_S, Place
from tests.slurm.stub_worker import FILL_MEMORY

FAULTS = 10


@pytest.fixture
def place(cluster, tmp_path):
    """A fresh place on the cluster; in the end its rows are those in the folders."""
    one = Place(tmp_path / "place", cluster)
    yield one
    assert one.problems() == []


def test_a_grid_is_an_array_on_both_nodes_and_a_preempted_cell_runs_again(place):
    place.order(HANG, 4)
    command = place.start("--cells", "5")
    place.wait_for_starts(5)
    place.cluster.wait_for(lambda: len(place.statuses()) == 4, "the rows of the others")
    assert {start.node for start in place.starts()} == set(NODES)
    place.order("0.1", 4)
    job = place.cluster.submit("true", f"--partition={URGENT}", "--exclusive", "--nodes=2")
    ended = place.end(command)
    assert ended.returncode == 0, ended.stderr
    assert place.cluster.job(job)["JobState"] == "COMPLETED"
    assert place.statuses() == {**{seed: ["ok"] for seed in range(4)}, 4: ["interrupted", "ok"]}
    assert sorted(start.seed for start in place.starts()) == [0, 1, 2, 3, 4, 4]
    (row,) = (row for row in place.rows() if row["status"] == "interrupted")
    assert row["message"] == "its job was preempted"
    assert not any(node in place.csv.read_text() for node in NODES)
    (submission,) = place.submissions()
    assert (submission.folder / "done").exists()


def test_commands_read_what_this_slurm_prints(cluster, monkeypatch):
    """The id of an array's last job is also that of the array."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    for partition in ("", "main"):
        assert commands.nodes_of(partition).keys() == set(NODES)
    assert commands.hostnames("node[1-2]") == set(NODES)
    job = int(cluster.submit("sleep 60", "--array=0-1", "--time=5"))
    states = lambda: [state for state, _ in cluster.queue().values()]  # noqa: E731
    cluster.wait_for(lambda: states() == ["RUNNING"] * 2, "both run")
    cluster.run("scontrol", "update", f"JobId={job}_0", "TimeLimit=9")
    limits = [commands.time_limit(job, index) for index in range(2)]
    assert [limit and limit[1] for limit in limits] == ["9:00", "5:00"]


def test_rows_say_how_slurm_ended_their_jobs(cluster, tmp_path):
    """Slurm looks at time limits twice a minute, and at memory itself without control groups."""
    late, full, place = (Place(tmp_path / name, cluster) for name in ("late", "full", "place"))
    late.order(HANG, 0)
    late_command = late.start("--cells", "1", "--slurm", "time=2")
    late.wait_for_starts(1)
    cluster.run("scontrol", "update", f"JobId={late.array_task(0)}", "EndTime=now")

    full.order(FILL_MEMORY, 0)
    assert full.run("--cells", "1", "--slurm", "mem=400").returncode == 1
    assert full.statuses() == {0: ["oom"]}
    assert full.rows()[0]["message"].startswith("its job exceeded the memory")

    place.order(HANG, *range(6))
    command = place.start("--cells", "6")
    place.wait_for_starts(3)
    first = place.starts()[0].seed
    cluster.run("scancel", place.array_task(first))
    cluster.wait_for(lambda: first in place.statuses(), "its row")
    place.wait_for_starts(4)  # another has its CPU
    begun = {start.seed for start in place.starts()}
    cluster.run("scancel", place.job())
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


def test_cells_train_on_nodes_that_are_checked_twice(tmp_path, cluster, monkeypatch):
    """Twice, so that the second check does not use the folders of the first."""
    pairs, grid = GridRuns(tmp_path / "place", Path("bert-tiny")), tmp_path / "pairs.toml"
    grid.write_text(PAIRS)
    for name, value in (cluster.environment | {POLL: POLL_S}).items():
        monkeypatch.setenv(name, value)
    options = ("--slurm", "exclusive", "--check-nodes", "--select", "mode=head batching=by-length")
    for _ in range(2):
        done = pairs.run("--executor", "slurm", *options, grid=str(grid))
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stderr.splitlines() if "ms for 1,000 tokens" in line]
        assert [line.split()[1] for line in lines] == list(NODES)
    folder = submissions_folder(pairs.csv) / "nodes"
    for node in NODES:
        rows = [kept_row(place) for place in (folder / node).glob("head-*")]
        assert sorted((row.status, row.attempt) for row in rows) == [("ok", 1), ("ok", 2)]
    [row] = pairs.rows()
    assert row.is_ok
    assert row.steps_timed > 0
    submission = Submission.check(pairs.folder)
    assert (submission.problems, +submission.unchecked) == ([], {})


def test_nothing_is_lost_or_done_twice_on_a_cluster(cluster, tmp_path):
    """Struck by a few of the faults of `python -m tests.experiments.faults --slurm`."""
    struck = ["second command", "command killed", "node dies", "controller restarted"]
    first = [*struck, "requeue", "worker killed", "array task killed", "array task cancelled"]
    verdict = Round(cluster, tmp_path / "grid", 3, FAULTS, first).run()
    assert verdict.good, verdict
    assert all(verdict.injected[kind] for kind in struck)
    assert verdict.injected.total() >= FAULTS / 2  # fewer if the grid is done before
    assert verdict.injected[TIME_LIMIT] == 0  # takes half a minute
    assert summary([verdict], 3, 1.0)["injected"] == verdict.injected.total()
