"""The runner against real processes that end in every way, and the kernel's count of OOM kills."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import psutil
import pytest

from bench.common.errors import DiskFullError
from bench.launch import runner
from bench.launch.runner import oom_kills, run_worker
from bench.launch.signals import Signals

WORKER = Path(__file__).parents[1] / "fake_worker.py"
PARENT = """
import json, os, sys
from dataclasses import asdict
from pathlib import Path
from bench.launch.runner import run_worker
from bench.launch.signals import Signals

with Signals() as signals:
    outcome = run_worker(Path(sys.argv[1]), sys.argv[2:], env=os.environ, timeout_s=30.0,
                         on_progress=lambda _: None, signals=signals)
print(json.dumps(asdict(outcome)))
"""
SPOILS = "import sys; open(sys.argv[1] + '/result.json', 'w').write('[')"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}


def run(folder, *behaviours, argv=(), on_progress=lambda _: None, **limits):
    argv = argv or [sys.executable, str(WORKER), str(folder), *behaviours]
    limits = {"timeout_s": 30.0, "grace_s": 5.0} | limits
    options = {"env": ENVIRONMENT, "on_progress": on_progress, **limits}
    with Signals() as signals:
        return run_worker(folder, argv, signals=signals, **options)


def start_parent(folder, *behaviours, small=False):
    worker = [sys.executable, str(WORKER), str(folder), *behaviours]
    argv = [sys.executable, "-c", PARENT, str(folder), *worker]
    if small:  # what a shell forks starts with the shell's peak memory, not with that of pytest
        argv = ["/bin/sh", "-c", '"$@"; exit $?', "sh", *argv]
    return subprocess.Popen(argv, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)


def pids(folder):
    return [int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")]


def runs(pid):
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def wait_for(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def all_gone(folder, number):
    workers = pids(folder)
    assert len(workers) == number
    return wait_for(lambda: not any(map(runs, workers)), timeout_s=3)


def how(outcome):
    return outcome.status, outcome.message, outcome.signal


def test_a_valid_result_gives_the_status_and_ends_what_the_worker_leaves(tmp_path, monkeypatch):
    """What keeping weights took is no part of `wall_s`."""
    (tmp_path / "weights.safetensors").touch()  # of an earlier training
    outcome = run(tmp_path, "note_pid", "child", "result")
    assert how(outcome) == ("ok", "", None)
    assert outcome.result["columns"] == {"train_s": 1.5}
    assert outcome.result["flags"] == ["throttled"]
    assert not (tmp_path / "weights.safetensors").exists()
    assert all_gone(tmp_path, 2)
    for behaviour, wall_s in (("result", 10.0), ("result_that_was_kept", 7.0)):
        clock = iter([1000.0, 1010.0])
        monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=clock.__next__))
        outcome = run(tmp_path, behaviour)
        assert (outcome.status, outcome.wall_s) == ("ok", wall_s)
        begun, ended = map(datetime.fromisoformat, (outcome.started_at, outcome.finished_at))
        assert (ended - begun).total_seconds() == 10


def test_of_a_flood_only_head_and_tail_are_kept(tmp_path):
    no_file = ("crashed", "FileNotFoundError: [Errno 2] No such file", None)
    assert how(run(tmp_path, "flood", "error")) == no_file, "the exception's line, without a path"
    for name in ("stdout.txt", "stderr.txt"):
        assert (tmp_path / name).stat().st_size < 2**20
        text = (tmp_path / name).read_text()
        assert text.startswith("tick tock 100%|##########|\n" * 1000)
        [left_out] = re.findall(r"\n\[\.\.\. ([\d,]+) bytes left out \.\.\.\]\n", text)
        assert 0 <= int(left_out.replace(",", "")) - (13_500_000 - 2**19) < 2**12
    assert "Traceback" in (tmp_path / "stderr.txt").read_text()[-2000:]


def test_what_a_killed_worker_left_is_removed_and_the_kernels_count_is_asked(tmp_path, monkeypatch):
    killed = ("crashed", "killed by signal 9 (SIGKILL)", signal.SIGKILL)
    assert how(run(tmp_path, "unfinished", "kill")) == killed
    assert list(tmp_path.rglob(".*")) == []
    (tmp_path / ".result.json.tmp").touch()  # by a parent and a worker that died together
    assert run(tmp_path, "result", "segfault").status == "ok", "the result counts"
    assert not list(tmp_path.glob(".*"))
    for counts, status in (([4, 5], "oom"), ([4, 4], "crashed"), ([None, 1], "crashed")):
        monkeypatch.setattr(runner, "oom_kills", iter(counts).__next__)
        assert run(tmp_path, "kill").status == status
    monkeypatch.setattr(runner, "oom_kills", iter([4, 5]).__next__)
    assert run(tmp_path, "segfault").status == "crashed"


def test_a_worker_fails_by_its_result_or_its_last_line_or_without_a_result(tmp_path):
    (tmp_path / "result.json").write_text('{"status": "ok"}')  # of before
    assert how(run(tmp_path)) == ("crashed", "ended without a result", None)
    failed = ("invalid", "the loss is not finite, at step 7", None)
    assert how(run(tmp_path, "failed_result")) == failed
    assert how(run(tmp_path, "end_with_3")) == ("crashed", "the reason", None)
    outcome = run(tmp_path, argv=[sys.executable, "-c", SPOILS, str(tmp_path)])
    assert outcome.status == "crashed"
    assert outcome.message.startswith("left a result.json that can't be used: ")
    outcome = run(tmp_path, argv=["/no/such/python"])
    assert how(outcome) == ("crashed", "could not be started: No such file or directory", None)
    (tmp_path / "file").touch()
    with pytest.raises(DiskFullError, match="can't be written"):
        run(tmp_path / "file" / "cell")


def test_progress_comes_as_it_was_sent_and_an_error_of_the_display_leaves_no_worker(tmp_path):
    """Though the worker has ended, and without garbage."""
    seen = []

    def slow(message):
        seen.append(message)
        time.sleep(0.3)

    behaviours = "train", "moment", "train", "garbage", "result"
    assert run(tmp_path, *behaviours, on_progress=slow).status == "ok"
    sent = [{"phase": "train"}, {"step": 3, "steps": 10, "loss": 0.5}]
    assert seen == [*sent, *sent, {"phase": "told"}]
    fail = mock.Mock(side_effect=RuntimeError("display"))
    with pytest.raises(RuntimeError, match="display"):
        run(tmp_path, "note_pid", "child", "train", "hang", on_progress=fail)
    assert all_gone(tmp_path, 2)


def test_peak_memory_is_the_workers_own_and_no_descriptor_is_left_open(tmp_path):
    parent = start_parent(tmp_path, "allocate", "result", small=True)
    assert 200 < json.loads(parent.communicate(timeout=20)[0])["peak_rss_mib"] < 260
    ours = b"x" * (100 * 2**20)
    assert run(tmp_path, "result").peak_rss_mib is None, "the parent has more"
    assert ours
    before = psutil.Process().num_fds()
    run(tmp_path, "result")
    run(tmp_path, "hang", timeout_s=0.2)
    assert psutil.Process().num_fds() == before


def test_a_timeout_ends_the_whole_group_and_until_then_the_parent_sleeps(tmp_path):
    begun = time.process_time()
    outcome = run(tmp_path, "note_pid", "child", "train", "hang", timeout_s=2)
    assert time.process_time() - begun < 1
    assert how(outcome) == ("timeout", "took longer than 2 s (phase: train)", signal.SIGTERM)
    assert 2 < outcome.wall_s < 5  # it went when asked to
    assert all_gone(tmp_path, 2)


def test_what_ignores_the_request_is_killed_after_the_grace_and_its_result_counts(tmp_path):
    too_long = "took longer than 1.5 s (phase: start)"
    outcome = run(tmp_path, "note_pid", "ignore_term", "hang", timeout_s=1.5, grace_s=0.5)
    assert how(outcome) == ("timeout", too_long, signal.SIGKILL)
    assert outcome.wall_s >= 2
    assert all_gone(tmp_path, 1)
    assert run(tmp_path, "result", "hang", timeout_s=1.5).status == "ok"
    outcome = run(tmp_path, "result_when_asked_to_end", "hang", timeout_s=1.5)
    assert (outcome.status, outcome.message) == ("timeout", too_long), "the result came later"
    assert outcome.result["columns"] == {"train_s": 2.0}


def test_ctrl_c_ends_the_worker_in_good_order_and_a_second_kills_at_once(tmp_path):
    outcome = run(tmp_path, "note_pid", "child", "train", "interrupt_parent", "hang")
    assert how(outcome) == ("interrupted", "stopped by the user (phase: train)", signal.SIGTERM)
    assert all_gone(tmp_path, 2)
    for path in tmp_path.glob("pid-*"):
        path.unlink()
    outcome = run(
        tmp_path, "note_pid", "interrupt_parent_when_asked_to_end", "interrupt_parent",
        "hang", "hang", grace_s=30,
    )  # fmt: skip
    assert (outcome.status, outcome.signal) == ("interrupted", signal.SIGKILL)
    assert outcome.wall_s < 10
    assert all_gone(tmp_path, 1)


def test_after_a_stop_nothing_is_started_and_handlers_are_restored(tmp_path):
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with Signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        outcome = run_worker(tmp_path, [sys.executable, "-c", "1"], env={}, timeout_s=None,
                             on_progress=lambda _: None, signals=signals)  # fmt: skip
    assert outcome.status == "interrupted"
    assert list(tmp_path.iterdir()) == []
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("behaviours", [
    ("attach", "note_pid", "hang_with_the_lock"),
    ("note_pid", "child", "hang"),
    ("attach", "ignore_term", "note_pid", "hang"),
], ids=" ".join)  # fmt: skip
def test_a_worker_does_not_outlive_a_killed_parent(tmp_path, behaviours):
    parent = start_parent(tmp_path, *behaviours)
    assert wait_for((tmp_path / "hangs").exists)
    workers = pids(tmp_path)
    assert all(map(runs, workers))
    assert os.getsid(workers[0]) in workers, "a terminal's SIGINT is not the worker's to handle"
    parent.kill()
    parent.communicate(timeout=10)
    assert all_gone(tmp_path, 1 + ("child" in behaviours))


def test_a_parent_that_died_before_the_lifeline_held_is_noticed_and_none_is_needed(tmp_path):
    argv = [sys.executable, str(WORKER), str(tmp_path), "attach", "train", "result"]
    for more, code in (({"BENCH_PARENT_PID": "1"}, -signal.SIGKILL), ({}, 0)):
        assert not (tmp_path / "result.json").exists()
        done = subprocess.run(
            argv, env=ENVIRONMENT | more, stdin=subprocess.DEVNULL, start_new_session=True,
            timeout=10, check=False,
        )  # fmt: skip
        assert done.returncode == code
    assert (tmp_path / "result.json").exists()


V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
V2 = "low 0\nhigh 12\nmax 9\noom 8\noom_kill {}\noom_group_kill 1\n"


@pytest.mark.parametrize(("cgroups", "files", "count"), [
    ("0::/user.slice/a\n", {"user.slice/a/memory.events": V2.format(3)}, 3),
    ("0::/host/only\n", {"memory.events": V2.format(5)}, 5),
    (
        "9:name=systemd:/\n4:cpu,memory:/a:b\n0::/\n",
        {"memory/a:b/memory.oom_control": V1.format(6), "memory.events": V2.format(1)},
        6,
    ),
    ("4:memory:/docker/x\n", {"memory/memory.oom_control": V1.format(7)}, 7),
    ("4:memory:/old\n", {"memory/old/memory.oom_control": "under_oom 0\n"}, None),
    ("\n::\nnonsense\n", {}, None),
])  # fmt: skip
def test_the_count_by_version_and_place(tmp_path, cgroups, files, count):
    for name, text in files.items():
        path = tmp_path / "mounts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "cgroup").write_text(cgroups)
    assert oom_kills(tmp_path / "cgroup", tmp_path / "mounts") == count
