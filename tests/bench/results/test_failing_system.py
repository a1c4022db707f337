"""Errors of the system, at each of its calls in turn, and what it is asked to make durable."""

import builtins
import contextlib
import errno
import fcntl
import io
import os
import shutil
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.common.errors import DiskFullError, InputError
from bench.launch.attempt import keep
from bench.plan.columns import NAMES
from bench.results import merge, rebuild
from bench.results.facts import DataFacts, update_facts
from bench.results.origins import folder_of
from bench.results.outcomes import outcomes_file, read_outcomes
from bench.results.row import keep_row, kept_row
from bench.results.rowfile import encode, read_rows, record
from bench.results.store import Store, write_plan
from tests.bench.results.test_merge import again, fill
from tests.bench.synthetic_rows import synthetic_rows
from tests.experiments.shards import content

ERRORS = (errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EACCES)
OF_OS = (
    "open", "fsync", "replace", "rename", "stat", "lstat", "fstat", "mkdir", "rmdir", "unlink",
    "scandir", "listdir", "fchmod", "chmod", "utime", "sendfile",
)  # fmt: skip


class System:
    """The calls to the system that concern files in a folder; the n-th fails."""

    def __init__(self, folder, nth, monkeypatch):
        self.folder, self.nth, self.calls = str(folder), nth, 0
        self.error = self.at = None
        for owner, name in [*((os, name) for name in OF_OS), (fcntl, "flock")]:
            monkeypatch.setattr(owner, name, self.failing(name, getattr(owner, name)))
        for owner in (io, builtins):
            monkeypatch.setattr(owner, "open", self.open)
        for name, of in (("exists", "exists"), ("is_file", "isfile"), ("is_dir", "isdir")):
            monkeypatch.setattr(Path, name, getattr(os.path, of))  # as from Python 3.14 on

    def call(self, name, at):
        if isinstance(at, str | os.PathLike) and not os.fspath(at).startswith(self.folder):
            return
        self.calls += 1
        if self.calls == self.nth:
            self.error, self.at = ERRORS[self.nth % len(ERRORS)], f"{name} of {at}"
            raise OSError(self.error, os.strerror(self.error), at)

    def failing(self, name, function):
        def call(at=".", *arguments, **named):
            if arguments != (fcntl.LOCK_UN,):  # the end of a process releases it, too
                self.call(name, at)
            return function(at, *arguments, **named)

        return call

    def open(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **more):
        """As `io.open`, with a file whose reads, writes and cuts can fail."""
        self.call("open", file)
        raw = File(file, mode.replace("b", "").replace("t", ""), **more)
        raw.system = self
        if buffering == 0:
            return raw
        kind = io.BufferedRandom if "+" in mode else io.BufferedReader
        buffered = kind(raw) if "+" in mode or raw.readable() else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


class File(io.FileIO):
    system = None

    def __init__(self, file, *arguments, **named):
        super().__init__(file, *arguments, **named)
        self.at = file

    def _call(self, name):
        self.system.call(name, self.at)

    def write(self, data):
        self._call("write")
        return super().write(data)

    def truncate(self, size=None):
        self._call("truncate")
        return super().truncate(size)

    def readinto(self, buffer):
        self._call("readinto")
        return super().readinto(buffer)

    def readall(self):
        self._call("readall")
        return super().readall()


def append(to, rows):
    Store(to).append(*rows[2:4])


def before_append(state):
    def make(to, rows):
        known = rows[:2] if state == "rows" else []
        whole = record(NAMES) + b"".join(map(encode, known))
        ends = {"rows": encode(rows[4])[:50], "no rows": b"", "half a header": b""}
        if state in ends:
            to.write_bytes(whole[:40] if state == "half a header" else whole + ends[state])
        return known, known + rows[2:4]

    return make


def before_rebuild(to, rows):
    Store(to).append(*rows[:2])
    with to.open("ab") as file:
        file.write(b"spoilt\r\n")
    for row in rows[1:4]:
        keep_row(folder_of(to, row), row)
    return rows[:2], rows[:4]


def before_merge(to, rows):
    source = fill(to.with_name("source.csv"), [again(rows[0]), rows[1], rows[2]])
    keep_row(folder_of(source, rows[3]), rows[3])
    (folder_of(source, rows[3]) / "stdout.txt").touch()
    write_plan(source, rows[4:5])
    facts = DataFacts(task="movies", problem="single_label", train=10, dev=4)
    update_facts(source, "d", lambda _: facts)
    fill(to, rows[:2])
    folder_of(to, rows[2]).mkdir(parents=True)  # of a run that was killed
    return rows[:2], [*rows[:4], again(rows[0])]


def command(main, *arguments):
    done = CliRunner().invoke(main, [*map(str, arguments)], standalone_mode=False)
    if done.exception is not None:
        raise done.exception


CASES = {
    "check of an empty folder": (lambda *_: ([], []), lambda to, _: Store(to).check_writable()),
    "append to nothing": (before_append("nothing"), append),
    "append to rows and a part of one": (before_append("rows"), append),
    "append to a header": (before_append("no rows"), append),
    "append to half a header": (before_append("half a header"), append),
    "rebuild": (before_rebuild, lambda to, _: command(rebuild.main, "--runs", to)),
    "merge": (before_merge,
              lambda to, _: command(merge.main, to.with_name("source.csv"), "--to", to)),
}  # fmt: skip
"""What is there before a command, and the command. The first gives the rows of the file before and
after."""


def counted(rows):
    return Counter(map(content, rows))


@pytest.mark.parametrize("case", CASES)
def test_an_error_at_any_call_to_the_system_loses_no_row_and_doubles_none(case, tmp_path):
    make, run = CASES[case]
    to, made = tmp_path / "place" / "runs.csv", tmp_path / "made"
    to.parent.mkdir()
    Store(made / "rows.csv").append(*synthetic_rows(5))
    rows = read_rows(made / "rows.csv")
    shutil.rmtree(made)
    known, every = make(to, rows)
    to.parent.rename(made)
    failed = 0
    for nth in count(1):
        shutil.copytree(made, to.parent)
        ended = None
        with pytest.MonkeyPatch.context() as patched:
            system = System(to.parent, nth, patched)
            with contextlib.suppress(InputError, DiskFullError):
                try:
                    run(to, rows)
                except BaseException as error:
                    ended = error
                    raise
        if system.error is None:
            break
        failed += ended is not None
        where = f"call {nth}, {errno.errorcode[system.error]}, at {system.at}: {ended}"
        assert "\n" not in str(ended), where
        assert to.parent.is_dir(), where
        left = counted(read_rows(to, lambda _: None) if case != "rebuild" else readable(to))
        assert counted(known) <= left <= counted(every), where
        assert ended is not None or left == counted(every), where
        folders_left = without_folder(to) if case == "merge" else []
        run(to, rows)
        assert counted(read_rows(to)) == counted(every), where
        if case == "merge":
            assert ended is not None or folders_left == [], where
            assert without_folder(to) == [], where
            assert len(read_outcomes(outcomes_file(to))) == 4, where
        shutil.rmtree(to.parent)
    assert ended is None
    assert failed > nth / 3


def without_folder(path):
    """The rows of a file whose folder is missing, or another's."""
    rows = read_rows(path, lambda _: None)
    kept = [(row, kept_row(folder), folder / "stdout.txt")
            for row in rows for folder in [folder_of(path, row)]]  # fmt: skip
    return [row for row, own, output in kept if own != row or not output.exists()]


def readable(path):
    """The rows of a file that may have a spoilt line."""
    whole = path.with_name("readable.csv")
    whole.write_bytes(path.read_bytes().replace(b"spoilt\r\n", b""))
    return read_rows(whole)


def kept(to, rows):
    row = rows[0]
    folder = folder_of(to, row)
    (folder / "profile").mkdir(parents=True)
    for name in ("weights.safetensors", "steps.csv", "result.json", "profile/trace.json"):
        (folder / name).write_text(name)
    return folder, folder / "row.json", lambda: keep(folder, row)


def merged(to, rows):
    source = to.with_name("source.csv")
    *_, keep_it = kept(source, rows)
    keep_it()
    Store(source).append(rows[0])
    place = folder_of(to, rows[0])
    return place, to, lambda: command(merge.main, source, "--to", to)


@pytest.mark.parametrize("made", [kept, merged])
def test_all_that_a_row_says_is_there_is_durable_before_the_row(made, tmp_path, monkeypatch):
    folder, last, run = made(tmp_path / "all.csv", [*synthetic_rows(1)])
    synced, sync, replace = {}, os.fsync, os.replace
    at_end = []

    def noted_sync(descriptor):
        sync(descriptor)
        status = os.fstat(descriptor)
        synced[status.st_ino] = status.st_size, status.st_mtime_ns

    def noted_replace(source, target, **named):
        if Path(target) == last:
            at_end.append(dict(synced))
        return replace(source, target, **named)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    run()
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "row.json"]
    assert len(files) == 5
    [before] = at_end
    for path in files:
        status = path.stat()
        assert before.get(status.st_ino) == (status.st_size, status.st_mtime_ns), path
    for path in (folder, folder / "profile", folder.parent, tmp_path):
        assert path.stat().st_ino in before, path
