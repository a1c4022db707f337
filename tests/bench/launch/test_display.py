"""What a person sees of a run, on a terminal and in a log."""

import io
import os
import pty
import re
import select
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest import mock

import pytest

from bench.launch.display import Display, clock_time
from tests.bench.synthetic_rows import cell, planned_row

CELL = cell("lora", 8, "all-lin-only", "bf16")
NAME = "lora-r8-all-lin-only-bf16-s0"
OTHER = "head-fp32-s0"
FOR = "waiting for another grid (process 7, since 2026-01-01 08:00: python -m bench.grid)"


def ended(status="ok", **values):
    measured = {"wall_s": 61.23, "dev_metric": "accuracy", "dev_score": 0.5124,
                "peak_rss_mib": 1234.4}  # fmt: skip
    return planned_row(CELL) | {"status": status} | (measured if status == "ok" else {}) | values


@pytest.fixture
def terminal(monkeypatch):
    """A pseudo-terminal: what is written to its stream can be seen as a person would see it."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    read, write = pty.openpty()

    def seen():
        data = b""
        while select.select([read], [], [], 0.05)[0]:
            data += os.read(read, 2**16)
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode())

    with os.fdopen(write, "w") as stream:
        yield SimpleNamespace(stream=stream, seen=seen)
    os.close(read)


def test_without_a_terminal_there_is_a_line_a_cell():
    stream = io.StringIO()
    with Display(68, 2, stream) as display:
        display.start(NAME)
        display.progress({"phase": "train"})
        display.progress({"step": 1, "steps": 10, "loss": 0.7})
        display.finish(ended())
        display.finish(ended("crashed", wall_s=2.0, message="ValueError: no [bold] luck"))
        display.finish(ended("skipped", message="a smaller cell ran out of memory"))
        display.note("going on\nwith the rest of /tmp/x/runs.csv")
        display.finish(ended(flags="not_learned", peak_cuda_allocated_mib=77.7, wall_s=7.0))
    assert stream.getvalue().splitlines() == [
        f"2/68 cells  0:00 gone; {NAME}  start  0:00",
        f"[ 3/68] {NAME}  ok  61.2 s  dev accuracy 0.512  1,234 MiB",
        f"[ 4/68] {NAME}  crashed  2.0 s  ValueError: no [bold] luck",
        f"[ 5/68] {NAME}  skipped  a smaller cell ran out of memory",
        "going on with the rest of /tmp/x/runs.csv",
        f"[ 6/68] {NAME}  ok  7.0 s  dev accuracy 0.512  78 MiB  (not_learned)",
    ]


def test_a_log_gets_at_most_a_line_a_minute_on_what_runs():
    stream, now = io.StringIO(), 0.0

    def new():
        seen = stream.getvalue().splitlines()
        stream.seek(0)
        stream.truncate()
        return seen

    with Display(8, 2, stream, lambda: now, title="search, round 2", noun="candidates") as display:
        display.stage("reference points")
        assert new() == ["search, round 2: 2/8 candidates  0:00 gone; reference points"]
        display.waiting(FOR)
        [line] = new()
        assert line == f"search, round 2: 2/8 candidates  0:00 gone; reference points  {FOR}  0:00"
        display.start(NAME, 100.0, 500.0)
        began = "search, round 2: 2/8 candidates  0:00 gone, about 10:00 left"
        assert new() == [f"{began}; {NAME}  start  0:00"]
        display.waiting(FOR, NAME)
        assert new() == [], "it was already printed"
        now = 59.0
        display.progress({"phase": "train"})
        assert new() == []
        now = 60.0
        display.progress({"step": 30, "steps": 100, "loss": 0.5})
        later = "search, round 2: 2/8 candidates  1:00 gone, about 9:00 left"
        assert new() == [f"{later}; {NAME}  train  step 30/100  loss 0.5000  1:00"]
        now = 110.0
        display.finish(ended(wall_s=110.0))
        assert len(new()) == 1
        display.start(OTHER, 100.0, 400.0)
        now = 169.0
        display.progress({"phase": "train"})
        assert new() == [], "the line of the cell that ended is under a minute old"
        now = 170.0
        display.waiting("waiting for another grid (process 8)", OTHER)
        assert new()[0].endswith(f"{OTHER}  waiting for another grid (process 8)  1:00")
    assert [clock_time(s) for s in (7.4, 59.6, 3723)] == ["0:07", "1:00", "1:02:03"]


def test_on_a_terminal_everything_is_shown_as_it_happens(terminal):
    now = 0.0
    with Display(68, 2, terminal.stream, lambda: now) as display:
        display.start(NAME)
        assert "2/68 cells  0:00 gone\r\n" in terminal.seen()
        now = 5.0
        display.progress({"phase": "train"})
        display.progress({"step": 1200, "steps": 3000, "loss": 0.69314})
        seen = terminal.seen()
        assert f"{NAME}  train  step 1,200/3,000  loss 0.6931  0:05" in seen
        assert "left" not in seen
        display.progress({"phase": "evaluate"})
        assert f"{NAME}  evaluate  0:05" in terminal.seen()
        now = 60.0
        display.finish(ended(wall_s=60.0))
        seen = terminal.seen()
        assert f"[ 3/68] {NAME}  ok  60.0 s" in seen
        assert "3/68 cells  1 ok  1:00 gone, about 1:05:00 left" in seen
        display.finish(ended("oom", wall_s=30.0))
        assert "4/68 cells  1 ok  1 oom  1:00 gone, about 48:00 left" in terminal.seen()
        display.start(NAME)
        now = 900.0  # longer than the mean: the estimate goes on counting the cells behind it
        display.progress({"phase": "train"})
        assert "about 47:15 left" in terminal.seen()


def test_each_cell_that_runs_has_a_line_and_the_expected_time_left_is_shared(terminal):
    now = 0.0
    with Display(10, 0, terminal.stream, lambda: now) as display:
        display.stage("reference points")
        seen = terminal.seen()
        assert "reference points" in seen
        assert "start" not in seen
        display.start(NAME, 100.0, 900.0)
        seen = terminal.seen()
        assert "reference points" not in seen
        assert "about 16:40 left" in seen
        now = 20.0
        display.start(OTHER, 60.0, 840.0)
        display.progress({"phase": "train"}, NAME)
        display.waiting("waiting for another grid", OTHER)
        seen = terminal.seen()
        assert f"{NAME}  train  0:20" in seen
        assert f"{OTHER}  waiting for another grid  0:00" in seen
        assert "about 8:10 left" in seen, "(840 + 80 + 60) s by two"
        display.progress({"phase": "lost"}, "a cell that does not run")
        assert "lost" not in terminal.seen()
        display.finish(ended(wall_s=100.0))
        seen = terminal.seen().rpartition("1/10 cells")[2]
        assert OTHER in seen
        assert NAME not in seen
        assert "about 15:00 left" in seen, "one runs: (840 + 60) s"
        now = 150.0  # longer than expected: those after it are still to come
        display.progress({"phase": "train"}, OTHER)
        assert "about 14:00 left" in terminal.seen()
        display.start(NAME, 60.0, 780.0, 120.0)
        assert "about 2:30 left" in terminal.seen(), "the budget's 120 s, and (0 + 60) s by two"


def test_of_very_many_cells_some_are_shown_and_threads_share_a_display(terminal):
    with Display(1000, 0, terminal.stream) as display:
        for number in range(30):
            display.start(f"cell {number}.")
            seen = terminal.seen()
    assert "cell 15." in seen.rpartition("0/1000 cells")[2]
    assert "cell 16." not in seen.rpartition("0/1000 cells")[2]
    stream = io.StringIO()
    with Display(200, 0, stream) as display, ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda _: display.finish(ended()), range(200)):
            pass
    assert len(stream.getvalue().splitlines()) == 200
    assert "[200/200]" in stream.getvalue()


def test_it_draws_only_when_asked_and_leaves_stdout_alone(terminal, capsys, monkeypatch):
    """A dumb terminal gets lines."""
    threads = threading.active_count()
    with Display(3, 0, terminal.stream) as display:
        display.start(NAME)
        assert threading.active_count() == threads
        assert terminal.seen()
        sys.stdout.write("for a program\n")
        assert terminal.seen() == ""
    assert capsys.readouterr().out == "for a program\n"
    terminal.seen()
    monkeypatch.setenv("TERM", "dumb")
    with Display(3, 0, terminal.stream) as display:
        display.start(NAME)
    assert terminal.seen() == f"0/3 cells  0:00 gone; {NAME}  start  0:00\r\n"


def test_what_a_worker_cannot_have_meant_does_no_harm(terminal):
    with Display(3, 0, terminal.stream) as display:
        display.start(NAME)
        for message in (
            {"phase": ["train"]}, {"step": "1", "steps": 2}, {"step": True, "steps": None},
            {"step": -1, "steps": 10}, {"step": 1, "steps": 2, "loss": float("nan")},
            {"phase": "\x1b[2J[red]" + "x" * 5000}, {},
        ):  # fmt: skip
            terminal.seen()
            display.progress(message)
            assert NAME in terminal.seen(), message


def test_nobody_looking_any_more_and_a_full_disk_stop_no_cell(terminal):
    full, closed = io.StringIO(), io.StringIO()
    full.write = mock.Mock(side_effect=OSError(28, "No space left on device"))
    for stream in (closed, terminal.stream, full):
        with Display(3, 0, stream) as display:
            display.start(NAME)
            if stream is not full:
                stream.close()
            display.progress({"phase": "train"})
            display.finish(ended())
            display.note("still here")
