"""Fixtures: a cluster that a process's tests share, and one with accounting."""

from collections.abc import Iterator

import pytest

from tests.components import need
from tests.slurm.cluster import NODES, Cluster, missing, temporary_cluster


@pytest.fixture(scope="session")
def _shared_cluster() -> Iterator[Cluster]:
    absent = missing()
    need(absent is None, f"no Slurm cluster: {absent}", component="slurm")
    with temporary_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def _shared_accounting() -> Iterator[Cluster]:
    absent = missing(accounting=True)
    need(absent is None, f"no Slurm cluster with accounting: {absent}", component="slurmdbd")
    with temporary_cluster(accounting=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(_shared_cluster: Cluster) -> Iterator[Cluster]:
    """Two idle nodes and an empty queue, without accounting."""
    yield _shared_cluster
    _clear(_shared_cluster)


@pytest.fixture
def accounting_cluster(_shared_accounting: Cluster) -> Iterator[Cluster]:
    """Two idle nodes and an empty queue, with slurmdbd; jobs that exceed their memory are ended."""
    yield _shared_accounting
    _clear(_shared_accounting)


def _clear(cluster: Cluster) -> None:
    """Leave two idle nodes and an empty queue to the next test."""
    cluster.run("scancel", "--me")
    for node, state in cluster.node_states().items():
        if not cluster.has_node(node):
            cluster.start_node(node)
        if state.startswith(("down", "drain")):
            cluster.resume(node)
    cluster.wait_for(
        lambda: not cluster.queue() and cluster.node_states() == dict.fromkeys(NODES, "idle"),
        "an empty queue and two idle nodes",
    )
