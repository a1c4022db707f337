"""The cluster itself: what the tests of the executor take for granted."""

import os
import subprocess
import sys
import time
from contextlib import suppress

import psutil

from tests.components import need
from tests.slurm.cluster import NODES, Cluster, missing


def _nodes(cluster: Cluster, job_id: str, count: int) -> set[str]:
    return {cluster.job(f"{job_id}_{index}")["NodeList"] for index in range(count)}


def _run_on(cluster: Cluster, node: str, *options: str) -> str:
    """A job that runs on a node until something ends it."""
    job_id = cluster.submit("sleep 600", "-w", node, *options)
    output = cluster.folder / f"job-{job_id}-4294967294.out"
    cluster.wait_for(lambda: cluster.queue()[job_id][0] == "RUNNING", "the job runs")
    cluster.wait_for(output.exists, "its script has begun")
    return job_id


def test_an_array_runs_on_both_nodes(cluster: Cluster) -> None:
    job_id = cluster.submit("sleep 0.2; echo $SLURMD_NODENAME", "--array=0-3")
    cluster.wait_until_empty()
    assert _nodes(cluster, job_id, 4) == set(NODES)
    outputs = sorted(cluster.folder.glob(f"job-{job_id}-*.out"))
    assert {path.read_text().strip() for path in outputs} == set(NODES)


def test_a_dead_nodes_job_is_requeued_or_fails(cluster: Cluster) -> None:
    again = _run_on(cluster, "node1", "--requeue")
    never = _run_on(cluster, "node1", "--no-requeue")
    cluster.kill_node("node1")
    assert not cluster.has_node("node1")
    cluster.set_down("node1")
    assert cluster.queue()[again][0] == "PENDING"
    assert cluster.job(again)["Restarts"] == "1"
    assert cluster.job(never)["JobState"] == "NODE_FAIL"
    cluster.start_node("node1")
    cluster.resume("node1")
    cluster.wait_for(lambda: cluster.node_states()["node1"] == "idle", "the node is back")


def test_cancelling_and_requeueing(cluster: Cluster) -> None:
    job_id = _run_on(cluster, "node2")
    cluster.run("scontrol", "requeue", job_id)
    cluster.wait_for(lambda: cluster.queue()[job_id][0] == "PENDING", "it is queued again")
    cluster.run("scancel", job_id)
    cluster.wait_until_empty()
    assert cluster.job(job_id)["JobState"] == "CANCELLED"


def test_a_controller_goes_on_with_its_jobs(cluster: Cluster) -> None:
    job_id = _run_on(cluster, "node1")
    cluster.stop_controller()
    assert cluster.run("squeue", check=False).returncode != 0
    cluster.start_controller()
    cluster.wait_for(lambda: cluster.run("squeue", check=False).returncode == 0, "it answers")
    assert cluster.queue()[job_id] == ("RUNNING", "node1")


def test_accounting_keeps_what_became_of_jobs(accounting_cluster: Cluster) -> None:
    job_id = accounting_cluster.submit("exit $SLURM_ARRAY_TASK_ID", "--array=0-1")
    accounting_cluster.wait_until_empty()
    argv = ("sacct", "-X", "-n", "-P", "-j", job_id, "-o", "JobID,State,ExitCode")

    def rows() -> set[str]:
        return set(accounting_cluster.run(*argv).stdout.split())

    expected = {f"{job_id}_0|COMPLETED|0:0", f"{job_id}_1|FAILED|1:0"}
    accounting_cluster.wait_for(lambda: rows() == expected, "slurmdbd has both")


def test_nothing_outlives_a_killed_test_process() -> None:
    """The kernel ends the daemons; `stop` would have ended the jobs, too."""
    need((absent := missing()) is None, f"no Slurm cluster: {absent}", component="slurm")
    code = (
        "import os, signal; from tests.slurm.cluster import temporary_cluster\n"
        "with temporary_cluster() as cluster:\n"
        "    print(cluster.folder, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    folder = result.stdout.strip()
    assert folder
    deadline = time.monotonic() + 10
    while (living := _living(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert living == []


def _living(folder: str) -> list[str]:
    names = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and folder in " ".join(process.environ().values()):
                names.append(process.name())
    return names
