"""A grid on a cluster that is struck at any moment loses nothing and does nothing twice.

These are a few of the faults of `python -m tests.experiments.faults --slurm`.
"""

from pathlib import Path

from tests.experiments.faults.slurm import TIME_LIMIT, Round, summary, text
from tests.slurm.cluster import Cluster

FAULTS = 20


def test_nothing_is_lost_or_done_twice_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    verdict = Round(cluster, tmp_path / "grid", 3, FAULTS).run()
    assert verdict.good, verdict
    assert verdict.injected.total() >= FAULTS / 2  # fewer if the grid is done before
    assert verdict.injected[TIME_LIMIT] == 0  # takes half a minute
    counts = summary([verdict], 3, 1.0)
    assert counts["injected"] == verdict.injected.total()
    assert "0 lost, 0 duplicated, 0 left running, 0 wrong" in text(counts)
