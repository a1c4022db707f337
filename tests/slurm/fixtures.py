"""The cluster that a process's tests share."""

from collections.abc import Iterator

import pytest

from tests.components import need
from tests.slurm.cluster import NODES, Cluster, missing, temporary_cluster


@pytest.fixture(scope="session")
def _shared_cluster() -> Iterator[Cluster]:
    need((absent := missing()) is None, f"no Slurm cluster: {absent}", component="slurm")
    with temporary_cluster() as shared:
        yield shared


@pytest.fixture
def cluster(_shared_cluster: Cluster) -> Iterator[Cluster]:
    """Two idle nodes and an empty queue; the next test gets the same."""
    yield _shared_cluster
    _shared_cluster.run("scancel", "--me")
    for node, state in _shared_cluster.node_states().items():
        if not _shared_cluster.has_node(node):
            _shared_cluster.start_node(node)
        if state.startswith(("down", "drain")):
            _shared_cluster.resume(node)
    idle = dict.fromkeys(NODES, "idle")
    _shared_cluster.wait_for(
        lambda: not _shared_cluster.queue() and _shared_cluster.node_states() == idle,
        "an empty queue and two idle nodes",
    )
