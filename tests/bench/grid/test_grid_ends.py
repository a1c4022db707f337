"""A grid that is interrupted, as a process of its own."""

import signal
import time

from tests.bench.grids import workers_of

TWO = ("--select", "mode=head")
"""Two cells: enough for one to be done while the other is stopped."""


def wait_for(condition, seconds=90.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


def test_an_interrupt_ends_cleanly_and_says_how_to_go_on(grid):
    process = grid.start(*TWO)
    wait_for(lambda: len(grid.rows()) == 1 and workers_of(grid.folder))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "to go on: python -m bench.grid --grid smoke" in err
    assert "report:" in out
    assert workers_of(grid.folder) == []
    assert grid.statuses()[-1] == "interrupted"
    done = grid.statuses().count("ok")
    assert grid.run(*TWO).returncode == 0
    ids = [row["cell_id"] for row in grid.rows() if row["status"] == "ok"]
    assert len(ids) == len(set(ids)) == 2
    assert done >= 1
