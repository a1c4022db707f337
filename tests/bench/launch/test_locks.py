"""The locks that grids share, among real processes."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
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
            with hold(name, lambda: say("waits")):
                say(f"has {name}")
                sys.stdin.readline()
    except StoppedError:
        say("stopped")
"""


class Holder:
    """A process that takes locks; each is given back for a line on its stdin."""

    def __init__(self, path, *words):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path), *words],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def says(self):
        return self.process.stdout.readline().strip()

    def says_then(self):
        """What it says after it has waited."""
        while (line := self.says()) == "waits":
            pass
        return line

    def go_on(self):
        self.process.stdin.write("\n")


@pytest.fixture
def start(tmp_path):
    holders = []

    def start_one(*words):
        holders.append(Holder(tmp_path / "grids.lock", *words))
        return holders[-1]

    yield start_one
    for holder in holders:
        holder.process.kill()
        holder.process.communicate()


def test_one_at_a_time_has_a_device_and_others_have_theirs(start):
    first = start("using", "cpu")
    assert first.says() == "has cpu"
    assert start("using", "cuda:0").says() == "has cuda:0"
    second = start("using", "cpu")
    assert second.says() == "waits"
    first.go_on()
    assert second.says() == "has cpu"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_waits_can_be_stopped_and_uses_no_processor(start, number):
    first = start("using", "cpu")
    assert first.says() == "has cpu"
    second = start("using", "cpu")
    assert second.says() == "waits"
    process = psutil.Process(second.process.pid)
    before = sum(process.cpu_times()[:2])
    with pytest.raises(subprocess.TimeoutExpired):
        second.process.wait(0.5)
    assert round(sum(process.cpu_times()[:2]) - before, 3) <= 0.01  # a tick of the clock
    second.process.send_signal(number)
    assert second.says() == "stopped"
    assert second.process.wait(5) == 0


def test_who_has_just_had_a_device_queues_up_behind_who_waits(start):
    first = start("using", "cpu", "cpu")
    assert first.says() == "has cpu"
    second = start("using", "cpu", "cpu")
    assert second.says() == "waits"
    first.go_on()
    assert first.says() == "waits"  # and does not have it again
    assert second.says() == "has cpu"
    second.go_on()
    # on a machine so busy that the first has not begun to wait yet, the second may go on
    assert second.says() in ("waits", "has cpu")
    second.go_on()
    assert first.says_then() == "has cpu"


def test_without_waiting_it_is_known_that_another_has_it(tmp_path, start):
    other = start("holding", "b")
    assert other.says() == "has b"
    with Signals() as signals, Locks(tmp_path / "grids.lock", signals) as locks:
        with locks.holding("a") as has_a, locks.holding("b") as has_b:
            assert (has_a, has_b) == (True, False)
        other.go_on()
        with locks.holding("b", lambda: None) as has_b:
            assert has_b


def test_a_lock_is_given_back_when_it_is_done_with(tmp_path, start):
    with Signals() as signals, Locks(tmp_path / "grids.lock", signals) as locks:
        with locks.holding("b"):
            assert start("holding", "a").says() == "has a"
            assert start("holding", "b", "c").says() == "waits"
        assert start("holding", "d").says() == "has d"


def test_threads_of_a_process_have_a_device_together(tmp_path, start):
    with Signals() as signals, Locks(tmp_path / "grids.lock", signals) as locks:
        with locks.using("cpu", pytest.fail):
            with locks.using("cpu", pytest.fail):
                other = start("using", "cpu")
                assert other.says() == "waits"
            with locks.holding("next on cpu") as is_next:
                assert not is_next, "who waits comes before this process once more"
        assert other.says() == "has cpu"


def test_a_place_without_locks_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DiskFullError, match="can't be locked"):
        Locks(tmp_path / "file" / "grids.lock", Signals())


@pytest.fixture
def cache(monkeypatch):
    """The user's cache, in a folder that other users can enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    monkeypatch.delenv("MINBERT_BENCH_LOCKS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    yield folder
    shutil.rmtree(folder)


OTHER = """
import os, sys
os.setgid(65534), os.setuid(65534)
os.open(sys.argv[1], os.O_RDONLY)
"""


def test_no_other_user_can_open_the_locks_on_devices(cache):
    umask = os.umask(0)
    try:
        path = device_locks()
        with Signals() as signals, Locks(path, signals):
            pass
    finally:
        os.umask(umask)
    assert cache in path.parents
    assert (path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    if os.getuid() != 0:
        pytest.skip("opening it as another user takes root")
    done = subprocess.run([sys.executable, "-c", OTHER, path], stderr=subprocess.PIPE, check=False)
    assert b"PermissionError" in done.stderr


def test_a_folder_of_locks_that_others_can_use_is_refused(cache):
    folder = device_locks().parent
    folder.chmod(0o755)
    with pytest.raises(InputError, match=r"chmod 700.*MINBERT_BENCH_LOCKS"):
        device_locks()
    if os.getuid() != 0:
        pytest.skip("giving it to another user takes root")
    folder.chmod(0o700)
    os.chown(folder, 65534, 65534)
    with pytest.raises(InputError, match="other users can use its locks"):
        device_locks()


def test_a_link_is_no_file_of_locks(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(DiskFullError, match="link: can't be locked"):
        Locks(tmp_path / "link", Signals())
    assert not (tmp_path / "target").exists()
