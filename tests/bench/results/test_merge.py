"""Files of results united, whatever they share, and rebuilt from the folders of cells."""

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.common.errors import InputError
from bench.plan.columns import NAMES, values_of
from bench.results import exports, facts, outcomes
from bench.results import merge as merging
from bench.results import rebuild as rebuilding
from bench.results import store as stores
from bench.results.exports import EXPORTS, Figures, read_exports
from bench.results.facts import DataFacts, FinalScore, Reference, read_facts, update_facts
from bench.results.merge import SHARDS, Shards, main
from bench.results.origins import folder_of
from bench.results.outcomes import Outcome, outcome_key, outcomes_file, read_outcomes
from bench.results.row import keep_row, kept_row
from bench.results.rowfile import encode, record
from bench.results.store import Store, cells_folder, read_plan, read_rows, write_plan
from minbert.data.tasks import Examples, Task, TaskData
from tests.bench.synthetic_rows import synthetic_rows
from tests.experiments.shards import content


def answer(command, *arguments):
    """The numbers of rows that a command prints, and its notes."""
    done = CliRunner().invoke(
        command, [*map(str, arguments), "--json"], standalone_mode=False, catch_exceptions=False
    )
    return json.loads(done.stdout), done.stderr


def merge(*files, to):
    return answer(main, *files, "--to", to)


def rebuild(path):
    return answer(rebuilding.main, "--runs", path)


def fill(path, rows):
    """A file of results with a folder, and an outcome that is its own, for each row."""
    Store(path).append(*rows)
    own = {}
    for row in rows:
        folder = folder_of(path, row)
        keep_row(folder, row)
        (folder / "stdout.txt").write_text(f"{row.started_at} {row.train_s}")
        own[outcome_key(row, "")] = outcome(row)
    outcomes.write_outcomes(outcomes_file(path), read_outcomes(outcomes_file(path)) | own)
    return path


def outcome(row):
    own = np.array([int(c, 16) % 5 for c in f"{hash((row.cell_id, row.train_s)) % 16**8:08x}"])
    labels = np.arange(8) % 5
    return Outcome(own, labels, outcomes.digest_of(labels))


def check_complete(to, sources):
    """Every measurement of the sources is there once, with what belongs to it."""
    rows = read_rows(to)
    assert len({row.row_key for row in rows}) == len(rows)
    wanted = {content(row) for source in sources for row in read_rows(source)}
    assert Counter(map(content, rows)) == Counter(wanted)
    stored = read_outcomes(outcomes_file(to))
    for row in rows:
        folder = folder_of(to, row)
        assert kept_row(folder).row_key == row.row_key
        assert content(kept_row(folder)) == content(row)
        assert (folder / "stdout.txt").read_text() == f"{row.started_at} {row.train_s}"
        of_row = stored[outcome_key(row, "")].predicted
        np.testing.assert_array_equal(of_row, outcome(row).predicted)
    assert len(stored) == len(rows)
    assert sorted(p.name for p in cells_folder(to).iterdir() if p.is_dir()) == sorted(
        folder_of(to, row).name for row in rows
    )


@pytest.fixture
def rows(tmp_path):
    at = [
        row | {"finished_at": f"2026-11-20T10:{59 - i}:10Z"}
        for i, row in enumerate(synthetic_rows(9))
    ]
    Store(tmp_path / "once.csv").append(*at)
    return read_rows(tmp_path / "once.csv")


def again(row):
    """The same cell, measured by another machine of the same kind."""
    at = row.started_at.replace("2026", "2027")
    return row | {"train_s": round(row.train_s + 1, 3), "started_at": at, "finished_at": at}


def test_a_folder_without_a_row_keeps_its_attempt(tmp_path, rows):
    source, to = fill(tmp_path / "a.csv", rows[:2]), tmp_path / "all.csv"
    (folder_of(source, rows[1]) / "row.json").unlink()
    for row in rows[:2]:
        folder_of(to, row).mkdir(parents=True)
        (folder_of(to, row) / "stdout.txt").write_text("own")
    for _ in range(2):
        assert merge(source, to=to)[0]["rows"] == 2
        merged = read_rows(to)
        assert [row.attempt for row in merged] == [2, 2]
        for row in merged:
            folder, own = folder_of(to, row), folder_of(to, replace(row, attempt=1))
            assert (folder / "stdout.txt").read_text() == f"{row.started_at} {row.train_s}"
            assert kept_row(folder) == row
            assert [each.name for each in own.iterdir()] == ["stdout.txt"]
        to.unlink()  # killed before rows were written
    Store(to).append(rows[0])
    assert [row.attempt for row in read_rows(to) if row.cell_id == rows[0].cell_id] == [1]


def test_of_two_measurements_the_later_counts_whichever_file_is_named_first(tmp_path, rows):
    late = [again(row) for row in rows[:3]]
    one = fill(tmp_path / "a.csv", [rows[0], late[1], rows[2], late[2] | {"attempt": 2}, rows[3]])
    middle = rows[2] | {"finished_at": "2026-12-24T10:00:00Z", "train_s": 7.0}
    two = fill(tmp_path / "b.csv", [late[0], rows[1], middle, rows[3]])
    before = one.read_bytes(), two.read_bytes()
    results = []
    for number, files in enumerate(((one, two), (two, one), (one, two, tmp_path / "." / "a.csv"))):
        to = tmp_path / "new" / f"{number}.csv"
        counts, notes = merge(*files, to=to)
        assert (counts, notes) == ({"rows": 8, "new": 8, "renumbered": 4}, "")
        results.append(to.read_bytes())
        assert merge(to, *files, to=to)[0]["new"] == 0
        assert to.read_bytes() == results[-1]
        for row in late:
            same = [other for other in read_rows(to) if other.cell_id == row.cell_id]
            assert max(same, key=lambda r: r.attempt).started_at == row.started_at
        check_complete(to, [one, two])
    assert len(set(results)) == 1
    assert before == (one.read_bytes(), two.read_bytes())

    skipped = rows[0] | {"status": "skipped", "message": "would run out of memory"}
    twice = fill(tmp_path / "c.csv", [skipped | {"attempt": 1}, skipped | {"attempt": 2}])
    first, to = fill(tmp_path / "d.csv", rows[:1]), tmp_path / "all.csv"
    for _ in range(2):
        merge(first, twice, to=to)
        merged = read_rows(to)
        assert [(row.attempt, row.status) for row in merged] == [
            (1, "ok"), (2, "skipped"), (3, "skipped")
        ], "equal rows of one file are two measurements"  # fmt: skip
        for row in merged:
            assert kept_row(folder_of(to, row)).row_key == row.row_key
            shutil.rmtree(folder_of(to, row))


def test_a_row_that_only_a_folder_has_is_not_lost_and_links_are_left_out(tmp_path, rows):
    path, to = fill(tmp_path / "a.csv", rows[:3]), tmp_path / "all.csv"
    keep_row(folder_of(path, rows[3]), rows[3])
    with path.open("ab") as file:
        file.write(encode(rows[3])[:40])
    (tmp_path / "secret").write_text("secret")
    folder = folder_of(path, rows[0])
    (folder / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")
    counts, notes = merge(path, to=to)
    assert counts["rows"] == 4
    assert "the last line is incomplete" in notes
    assert {row.cell_id for row in read_rows(to)} == {row.cell_id for row in rows[:4]}
    copied = folder_of(to, rows[0]).iterdir()
    assert sorted(each.name for each in copied) == ["row.json", "stdout.txt"]


def test_files_next_to_the_rows_are_united(tmp_path, rows):
    facts = DataFacts(task="movies", problem="single_label", train=10, dev=4)
    final = FinalScore(
        setting="full", cell_id="a", seed=0, metric="accuracy", dev=0.5, test="test.csv",
        digest="d", examples=3, scores={}, at="2026-02-01",
    )  # fmt: skip
    later = final.model_copy(update={"at": "2026-03-01"})
    form = Figures(forms=(), metric="accuracy", examples=4, machine="m", threads=1, at="2026-01")
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    planned = [replace(row, status=None) for row in rows]

    def reference(name, train, **scores):
        return Reference(name=name, about="", train=train, scores=scores)

    of_files = (
        (reference("majority", 10, accuracy=(0.4, None, None)), reference("tf-idf", 10)),
        (reference("tf-idf", 10, accuracy=(0.5, 0.4, 0.6)), reference("tf-idf", 5)),
    )
    for number, (path, score) in enumerate(zip(files, (later, final), strict=True)):
        Store(path).append(rows[number])
        write_plan(path, planned[number : number + 3])
        of_file = form.model_copy(update={"at": f"2026-0{number + 1}"})
        EXPORTS.update(path, "cell", lambda _, of_file=of_file: of_file)
        more = {"references": of_files[number], "final": score}
        update_facts(path, "d", lambda _, more=more: facts.model_copy(update=more))
    update_facts(files[1], "e", lambda _: facts)
    to = tmp_path / "all.csv"
    for _ in range(2):
        merge(*files, to=to)
        merged = read_facts(to)
        assert sorted(merged) == ["d", "e"]
        assert merged == read_facts(*files), "a report on several files shows the same"
        assert read_exports(to) == read_exports(*files)
        assert sorted((r.name, r.train, len(r.scores)) for r in merged["d"].references) == [
            ("majority", 10, 1), ("tf-idf", 5, 0), ("tf-idf", 10, 1)
        ]  # fmt: skip
        assert merged["d"].final == final, "test examples are scored once"
        assert read_exports(to)["cell"].at == "2026-02"
        assert list(map(values_of, read_plan(to))) == list(map(values_of, planned[:4]))


def shards(path, **plans):
    SHARDS.write(path, {n: Shards(count=c, begun=tuple(begun)) for n, (c, begun) in plans.items()})


def test_missing_shards_are_noted_and_shards_of_other_plans_refused(tmp_path, rows):
    a, b, c = files = [tmp_path / f"{name}.csv" for name in "abc"]
    for path, row in zip(files, rows, strict=False):
        Store(path).append(row)
    shards(a, one=(3, [0]), two=(2, [0]))
    shards(b, one=(3, [2]), two=(2, [1]))
    to = tmp_path / "all.csv"
    _, notes = merge(a, b, to=to)
    assert notes == "note: plan one: shards 1/3 are missing\n"
    shards(c, other=(3, [1]))
    known = to.read_bytes()
    with pytest.raises(InputError, match=r"c\.csv: has shards of another plan than .*b\.csv"):
        merge(a, b, c, to=tmp_path / "new.csv")
    with pytest.raises(InputError, match=r"than .*all\.csv.* rerun the shards whose printed"):
        merge(c, to=to)
    assert to.read_bytes() == known
    assert not (tmp_path / "new.csv").exists()
    shards(c, one=(3, [1]))
    assert merge(c, to=to)[1] == ""
    shards(a, other=(1, [0]))
    assert merge(a, to=to)[1] == "", "two whole plans"
    assert SHARDS.read(to) == {
        "one": Shards(count=3, begun=(0, 1, 2)), "two": Shards(count=2, begun=(0, 1)),
        "other": Shards(count=1, begun=(0,)),
    }  # fmt: skip


def test_what_can_not_be_united_is_refused_in_a_line_and_nothing_is_written(tmp_path, rows):
    good = fill(tmp_path / "good.csv", rows[:2])
    bad, to = tmp_path / "bad.csv", tmp_path / "to" / "all.csv"
    header = record(NAMES)
    escaping = encode(rows[2]).replace(rows[2].cell_id.encode(), b"../../x")

    def check_refused(reason, *files, to=to):
        with pytest.raises(InputError, match=reason) as error:
            merge(*files, to=to)
        assert "\n" not in str(error.value)

    for text, reason in (
        (record([*NAMES, "later"]), "if a newer version wrote it"),
        (header + b"x\n", "line 2: it has 1 fields"),
        (header + escaping, "line 2: cell_id: '../../x' is no digest"),
    ):
        bad.write_bytes(text)
        check_refused(reason, good, bad)
    bad.unlink()
    check_refused(r"bad\.csv: no such file of results", good, bad)
    check_refused("is no file; name another with --to", good, to=tmp_path)
    outcomes_file(good).write_bytes(b"x" * 100)
    check_refused(r"outcomes\.safetensors: can't be read", good)
    assert not to.exists()
    assert not cells_folder(to).exists()


def killed(after_s, *files, to):
    pid = os.fork()
    if pid == 0:
        try:
            merge(*files, to=to)
        finally:
            os._exit(0)
    time.sleep(after_s)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def test_a_merge_killed_at_any_moment_goes_on(tmp_path, rows):
    parts = (rows[:4], [again(row) for row in rows[:4]], rows[4:])
    files = [fill(tmp_path / f"{number}.csv", part) for number, part in enumerate(parts)]
    begun = time.monotonic()
    merge(*files, to=tmp_path / "whole.csv")
    whole_s = time.monotonic() - begun
    noise, measured = random.Random(0), {content(row) for part in parts for row in part}  # noqa: S311
    struck = 0
    for number in range(8):
        to = tmp_path / "killed" / f"{number}.csv"
        for _ in range(3):
            struck += killed(noise.uniform(0, whole_s), *noise.sample(files, 3), to=to)
            assert {*map(content, read_rows(to))} <= measured
        merge(*noise.sample(files, 3), to=to)
        check_complete(to, files)
    assert struck > 4


def meanwhile(monkeypatch, *actions):
    """Let these be done one by one, each as a folder is copied."""
    left, copytree = list(actions), shutil.copytree

    def copying(*arguments, **named):
        if left:
            left.pop(0)()
        return copytree(*arguments, **named)

    monkeypatch.setattr(shutil, "copytree", copying)
    return left


def test_a_grid_appends_rows_while_folders_are_copied_and_attempts_go_on_from_them(
    tmp_path, rows, monkeypatch
):
    source, to = fill(tmp_path / "a.csv", rows[:3]), fill(tmp_path / "all.csv", rows[3:4])
    of_grid = [again(rows[0]), rows[4]]
    own = fill(tmp_path / "own.csv", [rows[3], *of_grid])
    monkeypatch.setattr(stores, "LOCK_TIMEOUT_S", 0.1)
    left = meanwhile(monkeypatch, *(lambda row=row: fill(to, [row]) for row in of_grid))
    assert merge(source, to=to)[0] == {"rows": 6, "new": 3, "renumbered": 1}
    assert left == []
    check_complete(to, [source, own])
    attempts = {row.attempt: row for row in read_rows(to) if row.cell_id == rows[0].cell_id}
    assert {n: row.started_at for n, row in attempts.items()} == {
        1: of_grid[0].started_at, 2: rows[0].started_at
    }, "a row that is there keeps its number"  # fmt: skip


def test_two_merges_into_one_file_at_once_keep_each_others_copies(tmp_path, rows, monkeypatch):
    files = [fill(tmp_path / "a.csv", rows[:3]), fill(tmp_path / "b.csv", rows[3:6])]
    to, rename, others = tmp_path / "all.csv", Path.rename, []
    with ThreadPoolExecutor(1) as pool:

        def renaming(*arguments):
            if not others:  # the first folder is about to get its place
                others.append(pool.submit(merging.merge, files[1:], to))
                wait(others, 0.2)
            return rename(*arguments)

        monkeypatch.setattr(Path, "rename", renaming)
        merging.merge(files[:1], to)
        others[0].result()
    check_complete(to, files)


@pytest.mark.parametrize("command", ["merge", "rebuild"])
def test_a_row_that_another_command_found_in_its_folder_is_not_appended_again(
    tmp_path, rows, command
):
    path, other = fill(tmp_path / "a.csv", rows[:2]), fill(tmp_path / "b.csv", rows[3:4])
    store = Store(path)
    assert len(store.rows) == 2
    keep_row(folder_of(path, rows[2]), rows[2])  # by a grid that will append it
    merge(other, to=path) if command == "merge" else rebuild(path)
    store.append(rows[2], rows[4])
    cells = Counter(row.cell_id for row in read_rows(path))
    assert cells == Counter(row.cell_id for row in store.rows)
    assert set(cells.values()) == {1}
    assert {rows[n].cell_id for n in (0, 1, 2, 4)} <= cells.keys()


def kept_file(path, rows):
    """The rows of a new file, each of which has a folder."""
    Store(path).append(*rows)
    for row in rows:
        keep_row(folder_of(path, row), row)
    return read_rows(path)


def test_a_lost_file_comes_back_with_attempts_and_repeats(tmp_path):
    path = tmp_path / "runs.csv"
    [row, *others] = synthetic_rows(6)
    every = [row | {"repeat": n, "attempt": m} for n in (1, 2) for m in (1, 2)] + others
    rows = sorted(kept_file(path, every), key=str)
    assert len([each for each in (tmp_path / "runs").iterdir() if each.is_dir()]) == 9
    path.unlink()
    assert rebuild(path)[0] == {"kept": 0, "from_folders": 9, "left_out": 0}
    assert sorted(read_rows(path), key=str) == rows
    done = CliRunner().invoke(rebuilding.main, ["--runs", str(path)])
    assert done.stdout == f"9 rows in {path}: 9 kept, 0 from folders\n"
    assert sorted(read_rows(path), key=str) == rows


def test_a_broken_line_is_reported_left_out_and_kept(tmp_path):
    path = tmp_path / "runs.csv"
    good = sorted(kept_file(path, synthetic_rows(4)), key=str)
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace(",ok,", ",fine,", 1)
    path.write_text("".join(lines) + '1,"torn')
    torn = path.read_bytes()
    broken = []
    for line, left_out, name in ((3, 2, "before"), (5, 1, "before-2"), (5, 1, "before-3")):
        broken.append(path.read_bytes())
        counts, notes = rebuild(path)
        assert counts == {"kept": 3, "from_folders": 1, "left_out": left_out}
        assert f"line {line}" in notes
        assert f"note: {path}.{name} is the file as it was\n" in notes
        assert sorted(read_rows(path), key=str) == good
        path.write_bytes(path.read_bytes()[:-5])  # inside finished_at
    assert broken[0] == torn
    assert [each.read_bytes() for each in sorted(tmp_path.glob("runs.csv.before*"))] == broken


@pytest.mark.parametrize("name", ["runs.csv", "no/x.csv", ".", "pipe", "other.csv", "results.csv"])
def test_what_is_no_runs_csv_is_refused_before_anything_is_written(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "other.csv").write_text("# A page\n\nof text\n")
    (tmp_path / "results").write_text("no folder\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        rebuild(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert ("no columns of runs.csv" in str(caught.value)) == (name == "other.csv")
    assert sorted(tmp_path.rglob("*")) == before
    assert not tmp_path.with_name(f"{tmp_path.name}.lock").exists()


FACTS = DataFacts(task="mine", problem="single_label", classes=("a", "b"), train=4, dev=2)


@pytest.mark.parametrize("content", [
    "", "[]", "{", '{"abcd": {"x": 1}}', '{"abcd": 5}', '{"abcd": {"train": 1e31}}',
])  # fmt: skip
@pytest.mark.parametrize("file", [facts.FACTS, exports.EXPORTS], ids=["facts", "exports"])
def test_a_file_that_can_not_be_read_is_named_and_left_alone(file, content, tmp_path):
    runs = tmp_path / "runs.csv"
    path = file.path(runs)
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=rf"{path.name}: can't be read .* delete it, which loses"):
        file.read(runs)
    with pytest.raises(InputError, match="can't be read") as caught:
        file.update(runs, "one", lambda _: FACTS)
    assert "\n" not in str(caught.value)
    assert path.read_text(encoding="utf-8") == content


def test_facts_describe_examples_by_their_names_and_tokens():
    examples = Examples(("x", "y"), None, np.array([0, 1]))
    data = TaskData(Task("mine", ("a", "b")), examples, examples)
    unchecked = FACTS.model_copy(update={"source": "x.csv", "tokens_of": "v, 512"})
    own = (data, {}, "v, 512")
    assert not unchecked.describes(*own)
    checked = unchecked.model_copy(update={"checks": object()})
    assert checked.describes(*own)
    renamed = TaskData(Task("mine", ("no", "yes")), examples, examples)
    for place, other in enumerate((renamed, {"text": "x"}, "w, 512")):
        assert not checked.describes(*own[:place], other, *own[place + 1 :])
