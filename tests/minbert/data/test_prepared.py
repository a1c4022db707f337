"""Folders of prepared examples: written once, read back as they were, refused when they changed."""

from dataclasses import replace

import numpy as np
import pytest

from minbert.data.tasks import Examples, Task, TaskData, find_task, load_data, source_files
from minbert.data.tasks.prepared import FILE, Prepared, is_prepared, read_prepared, write
from minbert.errors import InputError

CLASSES = ("NA", "None", "ja, nein")


def task_data(kind):
    texts = ("one\ttwo", 'quote " and \\', "line one line two", "ünïcödé 🎬")
    labels = {
        "single_label": np.array([0, 2, 1, 0]),
        "multi_label": np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=np.int8),
        "regression": np.array([0.1, -3.0, 1e-17, 4.75]),
    }[kind]
    task = Task(
        "mine",
        () if kind == "regression" else CLASSES,
        problem_name="multi_label" if kind == "multi_label" else "",
    )
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
    for side in ("train", "dev"):
        one, other = getattr(read.parts["mine"], side), getattr(data, side)
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


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("train.jsonl", '{"a": "x"}\n'),
        ("train.jsonl", "{"),
        ("train.jsonl", '{"a": "x", "label": [7]}\n'),
        ("dev.jsonl", None),
        (FILE, "{}"),
        (FILE, '{"name": "x", "problem": "x", "classes": [], "digest": "x", "format": 9}'),
    ],
)
def test_a_broken_folder_is_refused_in_a_line(file, content, tmp_path):
    data = task_data("multi_label")
    folder = write(tmp_path, prepared(data, "multi_label"), data)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="start the grid again"):
        load_data("mine", folder)
