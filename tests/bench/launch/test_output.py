"""What is kept of what a worker prints."""

import errno
import os

import pytest

from bench.launch.output import HEAD, TAIL, Output

LINES = [f"line {number}\n".encode() for number in range(600_000)]
ALL = b"".join(LINES)


@pytest.mark.parametrize("size", [0, 1, HEAD, HEAD + 2 * TAIL])
def test_what_is_short_is_kept_as_it_is(tmp_path, size):
    data = ALL[:size]
    with Output(tmp_path / "file") as output:
        output.write(data[: size // 3])
        output.write(data[size // 3 :])
    assert (tmp_path / "file").read_bytes() == data


@pytest.mark.parametrize("chunk", [1000, 2**16, 2**20])
def test_of_what_is_long_head_and_tail_are_kept_and_the_rest_is_counted(tmp_path, chunk):
    path = tmp_path / "file"
    longest = 0
    with Output(path) as output:
        for at in range(0, len(ALL), chunk):
            output.write(ALL[at : at + chunk])
            longest = max(longest, path.stat().st_size)
    assert len(ALL) > 6 * 2**20
    assert longest <= HEAD + 2 * TAIL + 100
    data = path.read_bytes()
    assert data.startswith(ALL[:HEAD] + b"\n[... ")
    note, tail = data[HEAD:].split(b" bytes left out ...]\n")
    assert len(tail) >= TAIL
    assert ALL.endswith(tail)
    assert int(note.removeprefix(b"\n[... ").replace(b",", b"")) == len(ALL) - HEAD - len(tail)


def test_a_file_of_before_is_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"what was here before")
    with Output(tmp_path / "file") as output:
        output.write(b"now")
    assert (tmp_path / "file").read_bytes() == b"now"


def test_a_full_disk_loses_what_is_printed_and_raises_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Output(tmp_path / "file") as output:
        output.write(b"kept")
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", fail)
            output.write(b"lost")
        output.write(b"lost too")
    assert (tmp_path / "file").read_bytes() == b"kept"
