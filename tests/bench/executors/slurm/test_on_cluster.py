"""Grids of stub cells on a real cluster of two nodes, and what happens to jobs there.

All tests that need it are in this module, so that one process starts it. The last strikes a grid
with a few of the faults of `python -m tests.experiments.faults --slurm`.
"""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from bench.executors.slurm import commands
from bench.executors.slurm import executor as slurm_executor
from bench.executors.slurm.executor import POLL, find_cluster
from bench.executors.slurm.submission import submissions_folder
from bench.results.row import kept_row
from tests.bench.grids import GridRuns
from tests.experiments.faults.checks import BAD
from tests.experiments.faults.slurm import TIME_LIMIT, Round, summary
from tests.slurm.cluster import NODES, URGENT
from tests.slurm.place import HANG, PAIRS, POLL_S, Place
from tests.slurm.stub_grid import WORKER
from tests.slurm.stub_worker import CELLS

FAULTS = 20

ALONE = ("--slurm", "exclusive")
"""One array task on a node at a time."""


@pytest.fixture
def place(cluster, tmp_path):
    """A fresh place on the cluster; in the end its rows are those in the folders."""
    one = Place(tmp_path / "place", cluster)
    yield one
    assert one.problems() == []


def test_a_grid_is_an_array_on_both_nodes(place):
    first = place.run("--cells", "4")
    assert first.returncode == 0, first.stderr
    assert {start.node for start in place.starts()} == set(NODES)
    assert place.statuses() == {seed: ["ok"] for seed in range(4)}
    assert not any(node in place.csv.read_text() for node in NODES)
    (submission,) = place.submissions()
    assert (submission.folder / "done").exists()
    again = place.run("--cells", "5")
    assert again.returncode == 0, again.stderr
    assert place.statuses() == {seed: ["ok"] for seed in range(5)}
    assert [start.seed for start in place.starts()[4:]] == [4]


def test_the_nodes_of_a_partition(cluster, monkeypatch):
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    for partition in ("", "main"):
        assert commands.nodes_of(partition).keys() == set(NODES)
    assert commands.hostnames("node[1-2]") == set(NODES)


def test_each_array_task_has_its_own_time_limit(cluster, monkeypatch):
    """The id of an array's last job is also that of the array."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    job = int(cluster.submit("sleep 60", "--array=0-1", "--time=5"))
    cluster.wait_for(
        lambda: [state for state, _ in cluster.queue().values()] == ["RUNNING"] * 2, "both run"
    )
    cluster.run("scontrol", "update", f"JobId={job}_0", "TimeLimit=9")
    limits = [commands.time_limit(job, index) for index in range(2)]
    assert [limit and limit[1] for limit in limits] == ["9:00", "5:00"]


def test_cells_of_a_node_that_fails_run_again(place):
    place.order(HANG, 0)
    command = place.start("--cells", "2", *ALONE)
    place.wait_for_starts(2)
    place.order("0.1", 0)
    node = next(start.node for start in place.starts() if start.seed == 0)
    place.cluster.kill_node(node)
    place.cluster.set_down(node)
    assert place.end(command).returncode == 0
    assert place.statuses() == {0: ["interrupted", "ok"], 1: ["ok"]}
    assert {start.node for start in place.starts() if start.seed == 0} == set(NODES)
    (row,) = (row for row in place.rows() if row["status"] == "interrupted")
    assert "its node failed, or Slurm started its job again" in row["message"]


def test_a_preempted_cell_runs_again(place):
    place.order(HANG, 0)
    command = place.start("--cells", "1")
    place.wait_for_starts(1)
    place.order("0.1", 0)
    job = place.cluster.submit("true", f"--partition={URGENT}", "--exclusive", "--nodes=2")
    ended = place.end(command)
    assert ended.returncode == 0, ended.stderr
    assert place.cluster.job(job)["JobState"] == "COMPLETED"
    assert place.statuses() == {0: ["interrupted", "ok"]}
    (row,) = (row for row in place.rows() if row["status"] == "interrupted")
    assert row["message"] == "its job was preempted"
    assert len(place.starts()) == 2


def test_a_command_outlives_the_controller(place):
    place.order("2", 0)
    command = place.start("--cells", "2")
    place.wait_for_starts(2)
    place.cluster.stop_controller()
    place.cluster.wait_for(lambda: bool(place.rows()), "the short cell's row")
    place.cluster.start_controller()
    ended = place.end(command)
    assert ended.returncode == 0, ended.stderr
    assert "jobs go on, asking again" in ended.stderr
    assert place.statuses() == {0: ["ok"], 1: ["ok"]}


def test_a_cell_runs_again_while_others_of_its_array_still_run(place):
    place.order("crash", 0)
    place.order(HANG, 1)
    command = place.start("--cells", "2")
    place.cluster.wait_for(lambda: 0 in place.statuses(), "a row")
    os.killpg(command.pid, signal.SIGKILL)
    place.end(command)
    place.order("0.1", 0)
    again = place.start("--cells", "2", "--rerun", "crashed")
    place.cluster.wait_for(lambda: place.statuses()[0] == ["crashed", "ok"], "a further row")
    place.cluster.run("scancel", str(place.submissions()[0].job))
    assert place.end(again).returncode == 1
    assert place.statuses() == {0: ["crashed", "ok"], 1: ["interrupted"]}


def test_nodes_are_checked_whenever_it_is_wanted(tmp_path, cluster, monkeypatch):
    """Twice, so that the second check does not use the folders of the first."""

    def with_stub_workers(*arguments, **options):
        executor = find_cluster(*arguments, **options)
        executor._submitter = replace(executor._submitter, worker=WORKER)
        return executor

    monkeypatch.setattr(slurm_executor, "find_cluster", with_stub_workers)
    pairs, grid = GridRuns(tmp_path, Path("bert-tiny")), tmp_path / "pairs.toml"
    grid.write_text(PAIRS)
    orders = tmp_path / "orders"
    orders.mkdir()
    (orders / "0").write_text("0.5")  # so that both nodes work at the same time
    for name, value in (cluster.environment | {CELLS: str(orders), POLL: POLL_S}).items():
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
    assert pairs.statuses() == ["ok"]


def test_nothing_is_lost_or_done_twice_on_a_cluster(cluster, tmp_path):
    first = ["second command", "command killed"]
    verdict = Round(cluster, tmp_path / "grid", 3, FAULTS, first).run()
    assert verdict.good, verdict
    assert all(verdict.injected[kind] for kind in first)
    assert verdict.injected.total() >= FAULTS / 2  # fewer if the grid is done before
    assert verdict.injected[TIME_LIMIT] == 0  # takes half a minute
    counts = summary([verdict], 3, 1.0)
    assert counts["injected"] == verdict.injected.total()
    assert {counts[name] for name in BAD} == {0}
