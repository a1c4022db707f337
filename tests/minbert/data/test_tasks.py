"""Tasks: the true examples and classes, splits without a leak, files of every wrong kind, task
multitask, whose parts are those that a folder holds, and folders of prepared examples."""

import csv
import io
import os
import re
from collections import defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minbert.assets.embedded import fetch
from minbert.data.tasks import (
    TASKS,
    file_of,
    find_task,
    for_search,
    load_data,
    load_rated,
    load_task,
    read_rows,
    source_files,
)
from minbert.data.tasks.base import Examples, Task, TaskData
from minbert.data.tasks.cs224n import PARTS, MultitaskData
from minbert.data.tasks.prepared import FILE, Prepared, is_prepared, read_prepared, write
from minbert.data.tasks.splitting import SIDES, normalised, side, smallest
from minbert.errors import InputError
from tests.components import CS224N, need
from tests.cs224n import HEADERS, PREFIXES, write_folder
from tests.hostile import TEXTS, answer, check_line, examples, sparse


def everything(name):
    return load_rated(TASKS[name], fetch("vader"))


@pytest.mark.parametrize(("name", "counts"), [
    ("movies", [1021, 3772, 1022, 3751, 1039]), ("amazon", [1218, 765, 1725]),
    ("nyt", [1688, 2402, 1100]), ("tweets", [1062, 838, 2300]),
])  # fmt: skip
def test_every_task_has_the_known_examples_each_on_one_side(name, counts):
    """Classes of ratings on an edge too: 119 of movies are."""
    parts, ratings = everything(name), everything(f"{name}-rating")
    labels = np.concatenate([part.labels for part in parts.values()])
    assert np.bincount(labels).tolist() == counts
    shares = [len(parts[split]) / len(labels) for split in SIDES]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.025)
    identities, _, texts = read_rows(fetch("vader") / file_of(TASKS[name]))
    documents = [identity.partition("_")[0] for identity in identities]
    where = defaultdict(set)
    for split, part in parts.items():
        assert part.text_a == ratings[split].text_a
        assert (part.labels.dtype, ratings[split].labels.dtype) == (np.int64, np.float64)
        here = {*part.text_a}
        for text in map(normalised, here):
            where[text].add(split)
            assert name in ("amazon", "nyt") or side(text) == split
        for text, document in zip(texts, documents, strict=True):
            if name in ("amazon", "nyt") and text in here:
                where[document].add(split)
    assert {len(splits) for splits in where.values()} == {1}


def test_case_and_punctuation_do_not_tell_texts_apart():
    assert normalised("Ugh!  I HATE it...") == normalised("ugh, i hate it")
    assert normalised("ﬁne") == "fine"
    assert normalised("!!!") != normalised("...")


def test_a_smaller_subset_is_part_of_a_larger_in_any_order():
    texts = [f"text {n}" for n in range(40)]
    large, small = smallest(texts, 20), set(smallest(texts, 10))
    assert small < set(large)
    assert large == sorted(large)
    assert (len(small), len(large)) == (10, 20)
    assert {39 - place for place in smallest(texts[::-1], 20)} == set(large)
    assert smallest(texts, 41) == list(range(40))


def test_limits_keep_examples_with_their_labels():
    whole, cut = load_task("movies"), load_task("movies", max_train=300, max_dev=40)
    parts = everything("movies")
    assert whole.train.text_a == parts["train"].text_a
    assert whole.dev.text_a == parts["dev"].text_a, "and those for test are in neither"
    assert (len(cut.train), len(cut.dev)) == (300, 40)
    label_of = dict(zip(whole.train.text_a, whole.train.labels, strict=True))
    assert [label_of[text] for text in cut.train.text_a] == list(cut.train.labels)
    smaller = load_task("movies", max_train=100)
    assert set(smaller.train.text_a) < set(cut.train.text_a)
    shares = np.bincount(load_task("movies", max_train=2000).train.labels) / 2000
    assert shares == pytest.approx(np.bincount(whole.train.labels) / len(whole.train), abs=0.03)


def test_a_digest_sees_every_part():
    def data(**changes):
        one = {"text_a": ("a", "b"), "text_b": ("c", "d"), "labels": np.array([0, 1])} | changes
        return TaskData(TASKS["quora"], Examples(**one), Examples(("e",), ("f",), np.array([1])))

    many = [
        data(), data(labels=np.array([1, 0])), data(text_a=("b", "a")), data(text_b=("c", "e")),
        data(text_a=("a\nb", "")), data(text_a=("a", "b\nc"), text_b=("d",)),
        data(text_a=("c", "d"), text_b=("a", "b")),
    ]  # fmt: skip
    assert len({each.digest for each in many}) == 7


@pytest.mark.parametrize(("name", "folder", "caps", "why"), [
    ("movies", None, {"max_train": 0}, "--max-train 0"),
    ("mnli", None, {}, r"'mnli'; there are movies, amazon, nyt, tweets, movies"),
    ("movies", "", {}, "movies comes embedded; a folder is for sst, sts, quora"),
    ("multitask", "", {}, "needs both files of at least one of sst, quora, sts"),
    ("multitask", "absent", {}, "is no folder"),
    ("multitask", None, {}, "task multitask needs --data DIR"),
    ("multitask", "", {"max_dev": 0}, "--max-dev 0"),
])  # fmt: skip
def test_what_no_task_and_no_folder_has_is_refused(tmp_path, name, folder, caps, why):
    with pytest.raises(InputError, match=why):
        load_data(name, None if folder is None else tmp_path / folder, **caps)


@pytest.mark.parametrize(("name", "train", "dev", "highest"), [
    ("sst", 8544, 1101, 4), ("sts", 6040, 863, 5), ("quora", 16_212, 4000, 1),
])  # fmt: skip
def test_the_shared_files_have_the_known_rows(name, train, dev, highest):
    need(CS224N.is_dir(), f"the folder {CS224N}", component="shared")
    data = load_task(name, CS224N)
    assert (len(data.train), len(data.dev)) == (train, dev)
    assert (data.dev.labels.min(), data.dev.labels.max()) == (0, highest)
    assert data.problems == (name == "quora") * (
        "quora-train.csv, line 2577: is_duplicate is empty; left out",
        "quora-train.csv, line 14222: sentence2 is empty; left out",
    )
    assert (data.dev.text_b is None) == (name == "sst")
    assert all(text == text.strip() for text in data.train.text_a)


HIGHEST = {"sst": 4, "sts": 5, "quora": 1}
NAME = "ids-sst-train.csv"


def train_file(folder, task, content):
    """The file for training, in a folder with the one for dev."""
    path = write_folder(folder, [task]) / f"{PREFIXES[task]}-train.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(task, folder):
    """The line in which the examples of a task are refused."""
    with pytest.raises(InputError) as caught:
        load_task(task, folder)
    check_line(str(caught.value), folder / f"{PREFIXES[task]}-train.csv")
    return str(caught.value)


def test_columns_are_found_by_name_and_classes_may_be_written_as_floats(tmp_path):
    labels = ("1", "3", "3.0", "3.", " 3.00 ", '"3"', "03")
    rows = "".join(f"{label}\tgood\r\n" for label in labels)
    train_file(tmp_path, "sst", f"\ufeffsentiment\tsentence\n{rows}\n")
    data = load_task("sst", tmp_path)
    assert data.train.text_a == ("good",) * 7
    assert data.train.labels.tolist() == [1, *[3] * 6]
    assert data.problems == ()


BROKEN = {
    b"1\tx\t  \t": "sentence is empty",
    b'1\tx\t"good\t3': "has 3 fields, and the header 4",
    b"1\tx\tgo\xffd\t3": "sentence is not UTF-8",
    b"1\tx\tgo\rod\t3": "has 1 fields, and the header 4",
    b"1\tx\t" + b"a" * 200_000 + b"\t3": "has 1 fields, and the header 4",
}


def test_broken_rows_are_named_and_left_out(tmp_path):
    head, *rows = (write_folder(tmp_path, ["sst"]) / NAME).read_bytes().splitlines()
    train_file(tmp_path, "sst", b"\n".join([head, *BROKEN, *rows, b"bad", b"bad"]))
    limit = csv.field_size_limit(2**27)  # global: other code may have raised it
    try:
        data = load_task("sst", tmp_path)
    finally:
        csv.field_size_limit(limit)
    lines = [f"{NAME}, line {n}: {why}; left out" for n, why in enumerate(BROKEN.values(), 2)]
    assert data.problems == (*lines, f"{NAME}: 7 rows in all are left out"), "after five lines"
    assert len(data.train) == len(rows)


def test_a_wrong_label_has_the_line_that_an_editor_shows(tmp_path):
    """Whatever comes before it: a quoted text over several lines, which no example has, empty
    lines, and characters at which Python ends lines and editors don't."""
    head, *rows = (write_folder(tmp_path, ["sst"]) / NAME).read_text().splitlines()
    before = ['1\tx\t"a text', "that goes", 'on"\t3', "", "1\tx\ta\u2028b\x0cc\x85d\t3"]
    for end in ("\n", "\r\n"):
        lines = [head, *before, "1\tx\tgood\t7", *rows, "1\tx\tgood\t8"]
        train_file(tmp_path, "sst", end.join(lines))
        assert "line 7: sentiment is '7'" in refusal("sst", tmp_path)


HEADER = "\tid\tsentence\tsentiment\n"


@pytest.mark.parametrize(("content", "says"), [
    ("", "does not have sentence and sentiment once"),
    (HEADER, "0 of its 0 rows can't be used"),
    ("\tid\tsentence\tsentence\tsentiment\n", "does not have sentence once"),
    (HEADER.encode("utf-16"), "is no text file in UTF-8"),
    (HEADER + "nothing here\n" * 9,
     f"9 of its 9 rows can't be used, first {NAME}, line 2: has 1 fields"),
    ("sentence\tsentiment\n" + "good\t4\n" * 3 + "good\t\n" * 3,
     f"3 of its 6 rows can't be used, first {NAME}, line 5: sentiment is empty"),
])  # fmt: skip
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path, content, says):
    train_file(tmp_path, "sst", content)
    line = refusal("sst", tmp_path)
    assert says in line
    assert len(line) < 400
    line.encode()


def table(task, rows):
    """A file of a task, quoted as by Python's csv."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerows([["", "id", *HEADERS[task]], *rows])
    return text.getvalue().encode(errors="surrogateescape")


GOOD = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12).filter(str.strip)
GOOD |= st.sampled_from([text for text in TEXTS if text.isprintable()])
WRONG_LABELS = (
    "nan", "inf", "-1", "six", "9" * 5000, "0x1", "1,0", "0_1", "\u0661", "1\x1b[2J", "6.1",
    "3\udcff",
)  # fmt: skip
OF_CLASSES = ("2.5", "1e0", "+1", "3.00000000000000000001")


@pytest.mark.parametrize("task", HIGHEST)
@examples(30)
@given(data=st.data())
def test_good_rows_come_through_among_those_without_a_label(tmp_path, task, data):
    *columns, name = HEADERS[task]
    texts = st.lists(GOOD, min_size=len(columns), max_size=len(columns))
    labels = st.sampled_from([*map(str, range(HIGHEST[task] + 1)), "0", "1", "", "\u2003"])
    rows = data.draw(st.lists(st.tuples(texts, labels), min_size=4, max_size=8))
    good = [(row, float(label)) for row, label in rows if label.strip()]
    assume(2 * len(good) > len(rows))
    written = [["", "id", *row, label] for row, label in rows]
    train_file(tmp_path, task, table(task, written))
    read = load_task(task, tmp_path)
    expected = zip(*(row for row, _ in good), strict=True)
    for one, other in zip(read.train.columns, expected, strict=True):
        assert one == tuple(text.strip() for text in other)
    assert read.train.labels.tolist() == [label for _, label in good]
    left_out = [f"{name} is empty; left out" in problem for problem in read.problems]
    assert left_out == [True] * (len(rows) - len(good))


@pytest.mark.parametrize(("task", "label"), [
    *product(HIGHEST, WRONG_LABELS), *product(("sst", "quora"), OF_CLASSES),
])  # fmt: skip
def test_a_wrong_label_is_refused_with_its_line(tmp_path, task, label):
    rows = [["", f"id{n}", *HEADERS[task][:-1], str(n % 2)] for n in range(40)]
    rows[17][-1] = label
    if task == "sst":
        rows[17][2] = " "  # though its text is empty
    path = train_file(tmp_path, task, table(task, rows))
    kind = "a number" if task == "sts" else "a class"
    shown = f"{label[:20]!r}{' and more' if len(label) > 20 else ''}"
    assert refusal(task, tmp_path) == (
        f"{path}, line 19: {HEADERS[task][-1]} is {shown}, not {kind} from 0 to {HIGHEST[task]}; "
        "correct it, or empty the field to leave the example out"
    )


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_waited_for(tmp_path, make):
    path = train_file(tmp_path, "sst", b"")
    sparse(path, 2**36)
    assert answer(lambda: load_task("sst", tmp_path), InputError, path) is None
    path.unlink()
    make(path)
    with pytest.raises(InputError, match=r"needs ids-sst-train\.csv there"):
        load_task("sst", tmp_path)
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(InputError, match="is no folder"):
            load_task("sst", Path(name))


def test_it_has_the_parts_of_the_folder_in_one_order(tmp_path):
    data = load_data("multitask", write_folder(tmp_path))
    assert isinstance(data, MultitaskData)
    assert tuple(data.parts) == PARTS
    assert data.missing == ()
    assert data.sizes == dict.fromkeys(PARTS, (24, 12))
    assert (data.task.kind, data.task.metric, data.task.num_outputs) == ("multitask", "overall", 0)
    for part, of in data.parts.items():
        assert of.digest == load_task(part, tmp_path).digest
    scores = [data.parts[part].majority for part in ("sst", "quora")]
    assert data.majority == pytest.approx((sum(scores) + 0.5) / 3), "of a correlation a half"
    assert load_data("multitask", write_folder(tmp_path / "one", ("sts",))).majority == 0.5

    pieces = data.pieces()
    assert list(pieces) == ["sst.1", "quora.1", "quora.2", "sts.1", "sts.2"]
    assert all(of.train.text_b is None and of.dev.text_b is None for of in pieces.values())
    quora = data.parts["quora"]
    assert pieces["quora.1"].train.text_a == quora.train.text_a
    assert pieces["quora.2"].dev.text_a == quora.dev.text_b
    assert pieces["quora.2"].dev.labels.tolist() == quora.dev.labels.tolist()
    single = load_task("sst", tmp_path)
    assert single.pieces() == {"": single}

    with pytest.raises(InputError, match="--lr auto: no rates are searched for task multitask"):
        for_search(data)
    with pytest.raises(InputError, match="task multitask has parts; take one of sst, quora"):
        load_task("multitask", tmp_path)


@pytest.mark.parametrize("lost", [["sts-dev.csv"], list(TASKS["quora"].files)])
def test_a_part_without_all_its_files_is_missing(tmp_path, lost):
    write_folder(tmp_path)
    for name in lost:
        (tmp_path / name).unlink()
    (part,) = [part for part in PARTS if lost[0] in TASKS[part].files]
    data = load_data("multitask", tmp_path)
    assert data.missing == (f"multitask without {part}, as {' and '.join(lost)} can't be found",)
    assert data.notes[-1] == data.missing[0]
    assert not any(note.startswith(f"{part}: ") for note in data.notes)
    assert list(data.parts) == [other for other in PARTS if other != part]
    assert [path.name for path in source_files("multitask", tmp_path)] == [
        file for other in PARTS if other != part for file in TASKS[other].files
    ]
    with pytest.raises(InputError, match=f"task {part} needs {re.escape(lost[0])}"):
        load_task(part, tmp_path)


def test_the_digest_is_over_the_parts_and_caps_are_those_of_each(tmp_path):
    whole = load_data("multitask", write_folder(tmp_path / "a"))
    assert load_data("multitask", write_folder(tmp_path / "b")).digest == whole.digest
    capped = load_data("multitask", tmp_path / "a", max_train=10, max_dev=4)
    assert set(map(tuple, capped.sizes.values())) == {(10, 4)}
    others = {
        capped.digest,
        load_data("multitask", tmp_path / "a", max_train=10).digest,
        load_data("multitask", write_folder(tmp_path / "c", ("sst", "quora"))).digest,
        load_data("multitask", write_folder(tmp_path / "d", ("sst", "sts"))).digest,
    }
    assert len(others | {whole.digest}) == 5


CLASSES = ("NA", "None", "ja, nein")


def task_data(kind):
    texts = ("one\ttwo", 'quote " and \\', "line one line two", "ünïcödé 🎬")
    labels = {
        "single_label": np.array([0, 2, 1, 0]),
        "multi_label": np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=np.int8),
        "regression": np.array([0.1, -3.0, 1e-17, 4.75]),
    }[kind]
    classes = () if kind == "regression" else CLASSES
    task = Task("mine", classes, problem_name=kind if kind == "multi_label" else "")
    train = Examples(texts, tuple(reversed(texts)), labels, ("a", "a", "b", "c"))
    return TaskData(task, train, train.taken([1, 3]))


def prepared(data, problem):
    return Prepared("mine", problem, data.task.classes, data.digest, {"path": "mine.csv"})


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_examples_come_back_as_they_were(problem, tmp_path):
    data = task_data(problem)
    folder = write(tmp_path, prepared(data, problem), data)
    read = load_data("any name", folder)
    assert (read.digest, read.task.kind) == (data.digest, data.task.kind)
    again = read.parts["mine"]
    for one, other in ((again.train, data.train), (again.dev, data.dev)):
        assert (one.text_a, one.text_b, one.groups) == (other.text_a, other.text_b, other.groups)
        assert one.labels.dtype == other.labels.dtype
        np.testing.assert_array_equal(one.labels, other.labels)
    assert find_task("any name", folder).classes == data.task.classes
    assert source_files("any name", folder) == []
    assert read_prepared(folder) == prepared(data, problem)


def test_the_same_examples_are_written_once_and_where_they_cannot_be_is_refused(tmp_path):
    data = task_data("single_label")
    place = tmp_path / "cache"
    folder = write(place, prepared(data, "single_label"), data)
    before = (folder / "train.jsonl").stat().st_ino
    assert write(place, prepared(data, "single_label"), data) == folder
    assert (folder / "train.jsonl").stat().st_ino == before
    other = Prepared("other", "single_label", CLASSES, data.digest)
    another = write(place, other, data)
    assert read_prepared(another) == other
    assert read_prepared(folder) == prepared(data, "single_label")
    assert {*place.iterdir()} == {folder, another}
    assert not is_prepared(tmp_path)
    assert not is_prepared(None)
    with pytest.raises(InputError, match="MINBERT_CACHE"):
        write(folder / "train.jsonl", prepared(data, "single_label"), data)


def test_classes_without_examples_make_other_data():
    data = task_data("single_label")
    more = replace(data, task=replace(data.task, classes=(*CLASSES, "more"), is_own=True))
    same = replace(data, task=replace(data.task, is_own=True))
    assert same.digest == data.digest != more.digest


@pytest.mark.parametrize(("file", "content"), [
    ("train.jsonl", '{"a": "x"}\n'), ("train.jsonl", "{"), ("dev.jsonl", None), (FILE, "{}"),
    ("train.jsonl", '{"a": "x", "label": [7]}\n'),
    (FILE, '{"name": "x", "problem": "x", "classes": [], "digest": "x", "format": 9}'),
])  # fmt: skip
def test_a_broken_folder_is_refused_in_a_line(file, content, tmp_path):
    data = task_data("multi_label")
    folder = write(tmp_path, prepared(data, "multi_label"), data)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="start the grid again"):
        load_data("mine", folder)
