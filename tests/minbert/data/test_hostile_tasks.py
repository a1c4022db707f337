"""Files of examples of every wrong kind."""

import csv
import io
import math
import os
from itertools import product
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minbert.data.tasks import load_task
from minbert.errors import InputError
from tests.cs224n import HEADERS, PREFIXES, write_folder
from tests.hostile import TEXTS, answer, check_line, examples, sparse

HIGHEST = {"sst": 4, "sts": 5, "quora": 1}


def rows_of(task, count):
    texts = [[f'text "{n}" {column}, é' for column in HEADERS[task][:-1]] for n in range(count)]
    return [["", f"id{n}", *row, str(n % 2)] for n, row in enumerate(texts)]


def table(task, rows):
    """A file of a task, quoted as by Python's csv."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerows([["", "id", *HEADERS[task]], *rows])
    return text.getvalue().encode(errors="surrogateescape")


def train_file(folder, task, content):
    """The file for training, in a folder with the one for dev."""
    path = write_folder(folder, [task]) / f"{PREFIXES[task]}-train.csv"
    path.write_bytes(content)
    return path


def check_examples(task, data):
    """Fail unless all examples are texts with a label that the task has."""
    highest = HIGHEST[task]
    for part in (data.train, data.dev):
        assert len(part) == len(part.labels) > 0
        assert (part.text_b is None) == (task == "sst")
        for text in (*part.text_a, *(part.text_b or ())):
            assert text == text.strip() != ""
            assert "\0" not in text
            text.encode()
        assert all(math.isfinite(label) and 0 <= label <= highest for label in part.labels)
    assert data.digest
    assert all(problem.isprintable() for problem in data.problems)


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
    check_examples(task, read)
    expected = zip(*(row for row, _ in good), strict=True)
    for one, other in zip(read.train.columns, expected, strict=True):
        assert one == tuple(text.strip() for text in other)
    assert read.train.labels.tolist() == [label for _, label in good]
    left_out = [f"{name} is empty; left out" in problem for problem in read.problems]
    assert left_out == [True] * (len(rows) - len(good))


@pytest.mark.parametrize(
    ("task", "label"),
    [*product(HIGHEST, WRONG_LABELS), *product(("sst", "quora"), OF_CLASSES)],
)
def test_a_wrong_label_is_refused_with_its_line(tmp_path, task, label):
    rows = rows_of(task, 40)
    rows[17][-1] = label
    if task == "sst":
        rows[17][2] = " "  # though its text is empty
    path = train_file(tmp_path, task, table(task, rows))
    with pytest.raises(InputError) as caught:
        load_task(task, tmp_path)
    check_line(str(caught.value), path)
    kind = "a number" if task == "sts" else "a class"
    shown = f"{label[:20]!r}{' and more' if len(label) > 20 else ''}"
    assert str(caught.value) == (
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
