"""runs.csv: what is written can be read, and nothing that was written is lost."""

import contextlib
import fcntl
import os
import resource
import signal
import stat
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest

from bench.common.errors import DiskFullError, InputError
from bench.common.files import write_atomically
from bench.plan.columns import NAMES, format_value
from bench.plan.rows import SCHEMA, latest
from bench.results import store as stores
from bench.results.rebuild import rebuild
from bench.results.rowfile import encode, read_rows, record
from bench.results.store import Store, cells_folder
from tests.bench.synthetic_rows import HERE, new_row, synthetic_rows


def row(number=0, **values):
    ids = {"cell_id": f"cell{number}", "conditions_id": "here", "attempt": 1, "status": "ok"}
    return new_row(**{**ids, **values})


def written(path, count=3):
    rows = [row(number) for number in range(count)]
    Store(path).append(*rows)
    return rows


def test_rows_are_appended_together_and_none_is_read_twice(tmp_path):
    path = tmp_path / "runs.csv"
    with mock.patch.object(stores.os, "fsync", wraps=os.fsync) as sync:
        written(path, 1)
    assert sync.call_count == 2, "of a new file and of its folder"
    store, rows = Store(path), [row(number) for number in range(1, 4)]
    with mock.patch.object(stores.os, "fsync", wraps=os.fsync) as sync:
        store.append(*rows)
        store.append()
    assert sync.call_count == 1
    assert read_rows(path) == store.rows == [row(0), *rows]
    with pytest.raises(ValueError, match="status"):
        store.append(row(4), row(5, status="lost"))
    assert read_rows(path) == [row(0), *rows]
    take = stores.Reading._take
    with mock.patch.object(stores.Reading, "_take", autospec=True, side_effect=take) as parsed:
        store.append(row(4))
        store.append(row(5))
    assert parsed.call_count == 1, "the row before the second, and not the four before both"


def test_messages_of_every_kind_can_be_read_again(tmp_path):
    path = tmp_path / "runs.csv"
    texts = ['a "b", c\nd', "a\udcffb", "x" * 1_000_000]
    Store(path).append(*(row(message=text) for text in texts))
    content = path.read_bytes()
    assert content.startswith(",".join(NAMES).encode() + b"\r\n")
    assert content.endswith(b"\r\n")
    assert b',"a ""b"", c\nd",' in content
    assert [each["message"] for each in read_rows(path)] == [texts[0], "a\\udcffb", texts[2]]


def test_a_missing_or_empty_file_and_one_that_an_editor_left_can_be_gone_on_with(tmp_path, capsys):
    (tmp_path / "empty.csv").touch()
    (tmp_path / "half.csv").write_bytes(record(NAMES)[:99])
    for name in ("new/runs.csv", "empty.csv", "half.csv"):
        path = tmp_path / name
        assert read_rows(path, lambda _: None) == []
        assert path.parent.exists() == (name != "new/runs.csv")
        rows = written(path)
        assert read_rows(path) == rows
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n") + b"\n")
    assert read_rows(path) == rows
    Store(path).append(row(9))
    assert read_rows(path) == [*rows, row(9)]
    assert capsys.readouterr().err == "", "there is nothing to note"


def test_an_ok_row_counts_until_another_ok_row_and_attempts_go_on_from_the_highest(tmp_path):
    store = Store(tmp_path / "runs.csv")
    assert store.next_attempt("cell0", "here") == 1
    store.append(row(0), row(1, conditions_id="there"))
    store.append(row(0, attempt=2, status="interrupted"), row(0, attempt=3, status="oom"))
    assert store.last("cell0", "here") == latest(store.rows)["cell0", "here", 1, "0.1.0"] == row(0)
    assert store.out_of_memory(row(0).cell, "here") == []
    assert store.next_attempt("cell0", "here") == 4
    assert store.next_attempt("cell1", "there") == 2
    assert (store.highest_attempt("cell0"), store.highest_attempt("cell9")) == (3, 0)
    store.append(row(0, attempt=4), row(0, repeat=2, status="oom"))
    assert store.last("cell0", "here") == row(0, attempt=4), "without a repeat it is the first"
    assert store.last("cell0", "here", 2)["status"] == "oom"
    assert store.last("cell0", "here", 3) is None
    assert [store.next_attempt("cell0", "here", repeat) for repeat in (1, 2, 3)] == [5, 2, 1]
    assert [each["repeat"] for each in store.out_of_memory(row(0).cell, "here")] == [2]
    assert [each["repeat"] for each in latest(store.rows).values()] == [1, 1, 2]


def test_a_score_is_that_of_this_machine_or_of_another_with_the_same_software(tmp_path):
    here = HERE | {"conditions_id": "here"}
    there = here | {"conditions_id": "there", "dev_score": 0.5}
    path = tmp_path / "runs.csv"
    store = Store(path)
    assert store.scored("cell0", here) is None
    store.append(row(0, **here, status="oom"))
    assert store.scored("cell0", here)["status"] == "oom"
    store.append(row(0, **(there | {"torch_version": "2.12"})))
    assert store.scored("cell0", here)["status"] == "oom"
    store.append(row(0, **(there | {"code_version": "a"})))
    assert store.scored("cell0", here)["conditions_id"] == "there"
    assert Store(path, "b").scored("cell0", here) is None
    store.append(row(0, **here, attempt=2, dev_score=0.4))
    assert store.scored("cell0", here)["dev_score"] == 0.4


def test_rows_of_other_writers_are_seen_and_indexed(tmp_path):
    path = tmp_path / "runs.csv"
    mine, other = Store(path), Store(path)
    assert mine.last("cell0", "here") is None
    mine.append(row(0, status="crashed"))
    other.append(row(0, attempt=2), row(2, attempt=3, status="oom"))
    assert mine.last("cell0", "here") == row(0, attempt=2)
    assert len(mine.rows) == len(other.rows) == 3
    rebuilt = [row(number) for number in range(7, 17)]
    write_atomically(path, record(NAMES) + b"".join(map(encode, rebuilt)))
    assert mine.rows == rebuilt
    assert mine.last("cell0", "here") is None
    path.write_bytes(record(NAMES) + encode(row(7)))
    assert mine.rows == [row(7)]
    assert mine.last("cell7", "here") == row(7)
    path.unlink()
    assert mine.rows == []


def test_writers_at_once_lose_nothing(tmp_path):
    """Each thread with a lock of its own, as a process has."""
    path, firsts = tmp_path / "runs.csv", (0, 100, 200)

    def write(first):
        store = Store(path)
        for number in range(20):
            store.append(row(first + number))

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, firsts))
    found = {str(each["cell_id"]) for each in read_rows(path)}
    assert found == {f"cell{first + number}" for first in firsts for number in range(20)}


def test_a_torn_record_is_left_out_reported_and_cut_off(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    torn = encode(row(7, message='with "quotes", and\r\nthree\nlines'))
    whole = record(NAMES) + encode(row(1))
    for length in (*range(1, len(torn), 3), len(torn) - 1):
        path.write_bytes(whole + torn[:length])
        store = Store(path)
        assert store.rows == read_rows(path) == [row(1)]
        assert f"note: {path}: the last line is incomplete" in capsys.readouterr().err
        store.append(row(8))
        assert store.rows == [row(1), row(8)]
        assert path.read_bytes() == whole + encode(row(8))


PLAIN = row(machine="Xeon")  # without quotes, so that an open one is closed nowhere


@pytest.mark.parametrize(("data", "line", "expected"), [
    (b"a,b\r\n1,2\r\n", 1, "columns"),
    (b"no newline", 1, "no header"),
    (b'"' + record(NAMES), 1, ""),
    (record([*NAMES, "host"]), 1, "also has host); if a newer version wrote it, update"),
    (record([*NAMES, "\x1b[2Jhost\u202e"]), 1, "also has"),
    (record(NAMES[1:]), 1, "lacks schema"),
    (record(NAMES[::-1]), 1, "order"),
    (record(NAMES) + encode(row()) + b"x\r\n" + encode(row()), 3, "1 fields"),
    (record(NAMES) + b"," * 10**6 + b"\r\n", 2, "fields"),
    (record(NAMES) + f"{SCHEMA + 1}".encode() + encode(row())[2:], 2, "schema is"),
    (record(NAMES) + encode(row()).replace(b"cell0", b""), 2, "cell_id is empty"),
    (record(NAMES) + encode(row()).replace(b"here", b"\xff\xfe"), 2, "utf-8"),
    (record(NAMES) + encode(PLAIN).replace(b"here", b'"here') + encode(PLAIN), 2, "unexpected"),
    (record(NAMES) + encode(row()).replace(b"here", b'"he"re'), 2, "expected after"),
])  # fmt: skip
def test_a_wrong_or_broken_file_names_its_line_and_is_left_alone(tmp_path, data, line, expected):
    path = tmp_path / "runs.csv"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_rows(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: ")
    assert expected in message
    assert message.isprintable()
    with pytest.raises(InputError):
        Store(path).append(row())
    assert path.read_bytes() == data


def contents(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_place_that_cannot_be_written_is_refused_and_each_is_left_as_it_was(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "locked.csv.lock").mkdir()
    (tmp_path / "blocked").touch()
    os.mkfifo(tmp_path / "pipe")
    rows = written(tmp_path / "runs.csv")
    cells_folder(tmp_path / "runs.csv").mkdir()
    before = contents(tmp_path)
    for name in ("file/runs.csv", "file/deeper/runs.csv", "folder", "pipe", "/dev/null",
                 "blocked.csv", "locked.csv", "x" * 300 + ".csv"):  # fmt: skip
        with pytest.raises(InputError, match="--runs") as caught:
            Store(tmp_path / name).check_writable()
        assert "\n" not in str(caught.value)
    for name in ("a/b/runs.csv", "runs.csv"):
        Store(tmp_path / name).check_writable()
    assert contents(tmp_path) == before
    assert read_rows(tmp_path / "runs.csv") == rows


@contextlib.contextmanager
def largest_file(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_or_a_lock_that_is_never_released_keeps_what_is_done(tmp_path, monkeypatch):
    path = tmp_path / "runs.csv"
    with largest_file(20), pytest.raises(DiskFullError):
        Store(path).append(row())
    assert contents(tmp_path) == ["runs.csv", "runs.csv.lock"]
    assert path.stat().st_size == 0
    rows = written(path)
    data = path.read_bytes()
    store = Store(path)
    with largest_file(len(data) + 20), pytest.raises(DiskFullError, match="File too large"):
        store.append(row(9))  # of which 20 bytes get written
    assert path.read_bytes() == data
    store.append(row(9))
    assert read_rows(path) == [*rows, row(9)]
    data = path.read_bytes()
    full = mock.Mock(side_effect=OSError(28, "No space left on device"))
    with monkeypatch.context() as without:
        without.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError, match="No space left on device"):
            Store(path).append(row(10))
    assert path.read_bytes() == data
    monkeypatch.setattr(stores, "LOCK_TIMEOUT_S", 0.1)
    with stores.FileLock(f"{path}.lock"), pytest.raises(DiskFullError, match="has held"):
        Store(path).append(row())


def test_a_file_is_replaced_whole_and_what_another_is_writing_is_left_alone(tmp_path):
    path, unfinished = tmp_path / "result.json", tmp_path / ".result.json.tmp"
    write_atomically(path, b"before")
    with largest_file(3), pytest.raises(OSError, match="File too large"):
        write_atomically(path, b"afterwards")
    assert path.read_bytes() == b"before"
    assert contents(tmp_path) == ["result.json"]
    with unfinished.open("wb") as others:
        fcntl.flock(others, fcntl.LOCK_EX)
        others.write(b"half of what it wanted to wri")
        write_atomically(path, b"mine")
        assert path.read_bytes() == b"mine"
        others.flush()
        assert unfinished.read_bytes() == b"half of what it wanted to wri"
    assert contents(tmp_path) == [".result.json.tmp", "result.json"]
    write_atomically(path, b"after")  # over what a writer left that was killed
    assert path.read_bytes() == b"after"
    assert contents(tmp_path) == ["result.json"]


@pytest.mark.parametrize("name", ["file", ".file.tmp"])
@pytest.mark.parametrize("link", [os.symlink, os.link, None], ids=["symbolic", "hard", "pipe"])
def test_a_link_is_replaced_and_its_target_stays(tmp_path, name, link):
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.write_bytes(b"mine")
    folder.mkdir()
    os.mkfifo(folder / name) if link is None else link(outside, folder / name)
    write_atomically(folder / "file", b"data")
    assert outside.read_bytes() == b"mine"
    assert stat.S_ISREG((folder / "file").lstat().st_mode)
    assert (folder / "file").read_bytes() == b"data"


def test_a_file_keeps_its_permissions_and_a_new_one_has_those_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"1")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
        (tmp_path / "file").chmod(0o600)
        (tmp_path / ".file.tmp").touch(0o644)  # by a writer that was killed
        write_atomically(tmp_path / "file", b"2")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def write_older(path, schema, names, **values):
    rows = list(synthetic_rows(3))
    lines = [
        {name: format_value(row[name]) for name in names} | {"schema": str(schema), **values}
        for row in rows
    ]
    path.write_bytes(b"".join(map(record, (names, *(line.values() for line in lines)))))
    return rows


def test_an_older_file_is_read_with_the_values_from_before_a_setting(tmp_path):
    path = tmp_path / "runs.csv"
    later = ("imports_anon_mib", "unfreeze", "head", "schedule", "regression_loss", "repeat")
    written = write_older(path, 1, [name for name in NAMES if name not in later])
    rows = read_rows(path)
    assert [row.cell_id for row in rows] == [row.cell_id for row in written]
    read = {(row.schema, row.head, row.schedule, row.repeat) for row in rows}
    assert read == {(SCHEMA, "linear", "linear", 1)}
    assert rows[0].imports_anon_mib is None
    assert all(row.unfreeze == (None if row.mode == "head" else "all") for row in rows)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"bench\.rebuild"):
        Store(path).append(rows[0])
    assert path.read_bytes() == before
    assert rebuild(path) == (3, 0, [], None)
    assert Store(path).rows == rows
    Store(path).append(rows[0])
    # when tf32 was a condition, its column was in another place
    written = write_older(path, 13, [*(name for name in NAMES if name != "tf32"), "tf32"], tf32="")
    same = [(row.cell_id, row.tf32, row.threads, row.code_version) for row in written]
    assert [(r.cell_id, r.tf32, r.threads, r.code_version) for r in read_rows(path)] == same
    with pytest.raises(InputError, match=r"their order differs\); python -m bench\.rebuild"):
        Store(path).append(rows[0])
