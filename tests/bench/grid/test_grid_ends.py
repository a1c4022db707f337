"""How a grid ends: on a timeout, an interrupt or a kill, beside another grid, on a full disk."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.bench.grids import GridRuns, workers_of
from tests.components import need

TWO = ("--select", "mode=head")
"""Two cells: enough for one to be done while the other is stopped."""


def wait_for(condition, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


def fill(descriptor: int) -> None:
    while True:
        os.write(descriptor, b"\0" * 4096)


def test_a_timeout_is_a_row_and_the_grid_goes_on(grid: GridRuns) -> None:
    grid.workers_here = False
    result = grid.run("--select", "mode=head", "--timeout", "0.2")
    assert result.returncode == 1
    assert grid.statuses() == ["timeout", "timeout"]
    assert workers_of(grid.folder) == []
    kept = grid.run("--select", "mode=head")
    assert kept.returncode == 1
    assert "to run again what ended timeout: python -m bench.grid" in kept.stderr
    assert "--rerun timeout" in kept.stderr
    assert grid.statuses() == ["timeout", "timeout"]
    grid.workers_here = True
    again = grid.run("--select", "mode=head amp=off", "--rerun", "timeout")
    assert again.returncode == 0, again.stderr
    assert grid.statuses() == ["timeout", "timeout", "ok"]
    assert [row["attempt"] for row in grid.rows()] == [1, 1, 2]


def test_cells_left_out_for_a_budget_run_by_the_same_command_with_more(grid: GridRuns) -> None:
    for _ in range(2):
        result = grid.run(*TWO, "--budget", "0.0001")
        assert result.returncode == 1, result.stderr
        assert "2 cells: 2 skipped" in result.stdout
        assert "2 cells were left out for the budget of 0 min" in result.stderr
        assert "to go on: python -m bench.grid --grid smoke" in result.stderr
        assert "--rerun" not in result.stderr
        assert grid.statuses() == ["skipped", "skipped"]
    assert "used up" in str(grid.rows()[0]["message"])
    assert "1 other cell left out" in (grid.reports / "report.md").read_text()
    again = grid.run(*TWO, "--budget", "60")
    assert again.returncode == 0, again.stderr
    assert grid.statuses() == ["skipped", "skipped", "ok", "ok"]
    assert [row["attempt"] for row in grid.rows()] == [1, 1, 2, 2]
    assert grid.run(*TWO, "--budget", "0.0001").returncode == 0, "nothing is left to do"


def test_a_search_that_fails_for_all_modes_skips_their_cells_twice_alike(grid: GridRuns) -> None:
    grid.workers_here = False
    quick = ("--max-train", "192", "--max-dev", "32", "--epochs", "1", "--device", "cpu")
    one = ("--lr", "auto", "--select", "mode=head amp=off", "--timeout", "0.01")
    for _ in range(2):
        result = grid.run(*one, quick=quick)
        assert result.returncode == 1, result.stderr
        assert "1 cells: 1 skipped" in result.stdout
        assert "--rerun timeout" in result.stderr
    assert grid.statuses() == ["timeout"] * 5 + ["skipped"]
    assert "5 timeout; --rerun timeout tries them again" in str(grid.rows()[-1]["message"])
    assert "1 search, 0 with a rate that is used" in (grid.reports / "index.html").read_text()


def test_an_interrupt_ends_cleanly_and_says_how_to_go_on(grid: GridRuns) -> None:
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


def test_two_grids_at_once_share_the_work_and_the_device(grid: GridRuns) -> None:
    processes = [grid.start(*TWO) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    rows = grid.rows()
    assert grid.statuses() == ["ok", "ok"]
    assert len({row["cell_id"] for row in rows}) == 2
    assert any("another grid" in text for text in errors)
    one, other = sorted((row["started_at"], row["finished_at"]) for row in rows)
    assert one[1] <= other[0]


def test_a_loss_that_is_not_finite_is_invalid_and_the_grid_goes_on(
    grid: GridRuns, tmp_path: Path
) -> None:
    huge = tmp_path / "huge"
    shutil.copytree(grid.model, huge)
    weights = load_file(huge / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    save_file({**weights, name: np.full_like(weights[name], 3e38)}, huge / "model.safetensors")
    result = grid.run("--model", str(huge), "--select", "mode=head")
    assert result.returncode == 1
    assert grid.statuses() == ["invalid", "invalid"]
    for row in grid.rows():
        assert "loss" in str(row["message"])
        assert row["dev_score"] is None
        assert row["peak_rss_mib"] is not None
    assert "not finite" in (grid.reports / "report.md").read_text()


def test_a_disk_that_fills_stops_the_run_and_keeps_what_is_done(
    grid: GridRuns, tmp_path: Path
) -> None:
    three = ("--select", "mode=head amp=off", "--seeds", "3")  # one begins on the full disk
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(disk)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
    need(mounted, "mounting a small disk takes root", component="mounts")
    try:
        small = GridRuns(disk, grid.model, workers_here=True)
        process = small.start(*three)
        wait_for(lambda: len(small.rows()) == 1)
        with (disk / "filler").open("wb") as file, pytest.raises(OSError, match="No space"):
            fill(file.fileno())
        _, err = process.communicate(timeout=120)
        assert process.returncode == 1
        assert "finished cells are kept" in err
        assert "Traceback" not in err
        rows = small.rows()
        assert rows
        assert {row["status"] for row in rows} <= {"ok", "crashed"}
        (disk / "filler").unlink()
        assert small.run(*three, "--rerun", "crashed").returncode == 0
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)  # noqa: S607
