"""The locks that grids share, among real processes, and a closed terminal."""

import os
import pty
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from bench.common.errors import DiskFullError, InputError
from bench.launch.locks import Locks, device_locks
from bench.launch.signals import Signals

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys, time
from pathlib import Path
from bench.launch.locks import Locks, device_locks
from bench.common.errors import StoppedError
from bench.launch.signals import Signals

def say(text):
    print(text, flush=True)

with Signals() as signals, Locks(Path(sys.argv[1]), signals) as locks:
    hold = getattr(locks, sys.argv[2])
    try:
        for name in sys.argv[3:]:
            with hold(name, say):
                say(f"has {name}")
                sys.stdin.readline()
    except StoppedError:
        say("stopped")
"""


class Holder(subprocess.Popen):
    """A process that takes locks; each is given back for a line on its stdin."""

    def says(self):
        line = self.stdout.readline().strip()
        return "waits" if line.startswith("waiting for another grid (process ") else line

    def go_on(self):
        self.stdin.write("\n")


@pytest.fixture
def start(tmp_path):
    holders = []

    def start_one(*words):
        holders.append(Holder(
            [sys.executable, "-c", HOLDER, str(tmp_path / "grids.lock"), *words],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        ))  # fmt: skip
        return holders[-1]

    yield start_one
    for holder in holders:
        holder.kill()
        holder.communicate()


def test_who_waits_knows_for_whom_uses_no_processor_and_can_be_stopped(tmp_path, start):
    first = start("using", "cpu")
    assert first.says() == "has cpu"
    begun = datetime.fromtimestamp(psutil.Process(first.pid).create_time()).astimezone()
    second = start("using", "cpu")
    which = f"waiting for another grid (process {first.pid}, since {begun:%Y-%m-%d %H:%M}: python"
    text = second.stdout.readline()
    assert text.startswith(which)
    assert text.endswith(")\n")
    with Signals() as signals, Locks(tmp_path / "grids.lock", signals) as locks:
        assert locks._holder("a lock that nobody has") == ""
    process = psutil.Process(second.pid)
    before = sum(process.cpu_times()[:2])
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.5)
    assert round(sum(process.cpu_times()[:2]) - before, 3) <= 0.01  # a tick of the clock
    second.send_signal(signal.SIGTERM)
    assert second.says() == "stopped"
    assert second.wait(5) == 0


def test_who_has_just_had_a_device_queues_up_behind_who_waits(start):
    first = start("using", "cpu", "cpu")
    assert first.says() == "has cpu"
    assert start("using", "cuda:0").says() == "has cuda:0"
    second = start("using", "cpu", "cpu")
    assert second.says() == "waits"
    first.go_on()
    assert first.says() == "waits"  # and does not have it again
    assert second.says() == "has cpu"
    second.go_on()
    # on a machine so busy that the first has not begun to wait yet, the second may go on
    assert second.says() in ("waits", "has cpu")
    second.go_on()
    while (line := first.says()) == "waits":
        pass
    assert line == "has cpu"


def test_without_waiting_it_is_known_that_another_has_it(tmp_path, start):
    other = start("holding", "b")
    assert other.says() == "has b"
    with Signals() as signals, Locks(tmp_path / "grids.lock", signals) as locks:
        with locks.holding("a") as has_a, locks.holding("b") as has_b:
            assert (has_a, has_b) == (True, False)
            assert start("holding", "a").says() == "waits"
        other.go_on()
        with locks.holding("b", lambda _: None) as has_b:
            assert has_b
        assert start("holding", "b").says() == "has b"


def test_threads_of_a_process_have_a_device_together(tmp_path, start):
    with Signals() as signals, Locks(tmp_path / "grids.lock", signals) as locks:
        with locks.using("cpu", pytest.fail):
            with locks.using("cpu", pytest.fail):
                other = start("using", "cpu")
                assert other.says() == "waits"
            with locks.holding("next on cpu") as is_next:
                assert not is_next, "who waits comes before this process once more"
        assert other.says() == "has cpu"


def test_no_other_user_can_open_the_locks_on_devices(tmp_path, monkeypatch):
    """A folder that others can use is refused, and so is a link or a place without locks."""
    monkeypatch.delenv("MINBERT_BENCH_LOCKS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    umask = os.umask(0)
    try:
        path = device_locks()
        with Signals() as signals, Locks(path, signals):
            pass
    finally:
        os.umask(umask)
    folder = path.parent
    assert tmp_path in path.parents
    assert (folder.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    folder.chmod(0o755)
    with pytest.raises(InputError, match=r"chmod 700.*MINBERT_BENCH_LOCKS"):
        device_locks()
    if os.getuid() == 0:  # giving it to another user takes root
        folder.chmod(0o700)
        os.chown(folder, 65534, 65534)
        with pytest.raises(InputError, match="other users can use its locks"):
            device_locks()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for path in (tmp_path / "file" / "grids.lock", tmp_path / "link"):
        with pytest.raises(DiskFullError, match="can't be locked"):
            Locks(path, Signals())
    assert not (tmp_path / "target").exists()


RUN = """
import signal, sys, time
from pathlib import Path
from bench.launch.signals import Signals

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # pytest may run under nohup
with Signals() as signals:
    print("ready", flush=True)
    while not Path(sys.argv[1]).exists() and signals.stops < 2:
        time.sleep(0.01)
    print("it goes on", file=sys.stderr, flush=True)
Path(sys.argv[2]).write_text(str(signals.stops))
"""


def test_a_hangup_counts_once_and_no_output_to_a_closed_terminal_fails(tmp_path):
    ours, theirs = pty.openpty()
    sent, stops = tmp_path / "sent", tmp_path / "stops"
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(sent), str(stops)],
        cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        line = b""
        while not line.endswith(b"\n"):  # or its writer fails where the terminal is closed
            line += os.read(ours, 16)
        assert line.split() == [b"ready"]
        os.close(ours)
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
            time.sleep(0.2)  # or both are one
        sent.touch()
        assert process.wait() == 0
    assert stops.read_text() == "1"


@pytest.mark.parametrize(("usual", "stops"), [(signal.SIG_DFL, 1), (signal.SIG_IGN, 0)])
def test_under_nohup_a_hangup_counts_not_at_all(usual, stops):
    before = signal.signal(signal.SIGHUP, usual)
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signals.stops == stops
