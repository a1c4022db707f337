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
    yield (one := _shared_cluster)
    one.run("scancel", "--me")
    for node, state in one.node_states().items():
        if not one.has_node(node):
            one.start_node(node)
        if state.startswith(("down", "drain")):
            one.resume(node)
    idle = dict.fromkeys(NODES, "idle")
    one.wait_for(lambda: not one.queue() and one.node_states() == idle, "two idle nodes")
