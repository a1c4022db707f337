"""Fixtures that more than one room's tests use."""

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.components import need
from tests.encoders import Checkpoints, need_transformers
from tests.slurm.cluster import NODES, Cluster, missing, temporary_cluster

settings.register_profile("untimed", deadline=None)  # these machines are shared
settings.load_profile("untimed")
os.environ.setdefault("OMP_NUM_THREADS", "1")
gc.set_threshold(50_000, 20)  # searching for garbage took a tenth of the time
worker = os.environ.get("PYTEST_XDIST_WORKER")
if worker and hasattr(os, "sched_setaffinity"):
    # A core for each: with more threads than cores, torch's threads spin and wait for each other,
    # which makes a cell ten times slower.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(config, items):
    """`pytest` runs the tests, `pytest --benchmark-only` what uses the fixture of that name."""
    wanted = config.getoption("benchmark_only")
    chosen, others = [], []
    for item in items:
        is_benchmark = "benchmark" in getattr(item, "fixturenames", ())
        (chosen if is_benchmark == wanted else others).append(item)
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = chosen


def pytest_xdist_auto_num_workers(config):
    """Two workers a core, up to four, as each holds a torch; benchmarks run alone."""
    return 0 if config.getoption("benchmark_only") else min(2 * (os.cpu_count() or 1), 4)


@pytest.fixture(scope="session")
def minilm():
    """The folder of the embedded default's real checkpoint, fetched on first use."""
    from minbert.assets.embedded import fetch

    return fetch("minilm")


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    """Tiny checkpoints of any architecture of transformers."""
    need_transformers()
    return Checkpoints(tmp_path_factory.mktemp("encoders"))


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
