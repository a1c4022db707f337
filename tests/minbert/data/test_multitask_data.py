"""Task multitask: the parts that a folder holds, and what is said of them."""

import re
from pathlib import Path

import numpy as np
import pytest

from minbert.data.metrics import accuracy
from minbert.data.tasks import (
    TASKS,
    TaskData,
    for_search,
    load_data,
    load_task,
    source_files,
)
from minbert.data.tasks.cs224n import PARTS, MultitaskData
from minbert.errors import InputError
from tests.cs224n import HEADERS, relabel, write_folder

FILES = [file for part in PARTS for file in TASKS[part].files]


def loaded(folder: Path, **caps: int) -> MultitaskData:
    found = load_data("multitask", folder, **caps)
    assert isinstance(found, MultitaskData)
    return found


def test_it_has_the_parts_of_the_folder_in_one_order(tmp_path: Path) -> None:
    data = loaded(write_folder(tmp_path))
    assert tuple(data.parts) == tuple(data.sizes) == PARTS
    assert data.missing == ()
    assert {part: tuple(size) for part, size in data.sizes.items()} == dict.fromkeys(
        PARTS, (24, 12)
    )
    assert (data.task.kind, data.task.metric, data.task.num_outputs) == ("multitask", "overall", 0)
    for part, of in data.parts.items():
        assert of.digest == load_task(part, tmp_path).digest


@pytest.mark.parametrize("part", PARTS)
def test_what_is_missing_is_told_and_the_rest_is_there(tmp_path: Path, part: str) -> None:
    data = loaded(write_folder(tmp_path, [other for other in PARTS if other != part]))
    assert part not in data.parts
    assert len(data.parts) == 2
    (line,) = data.missing
    first, second = TASKS[part].files
    assert line == f"multitask without {part}, as {first} and {second} can't be found"
    assert data.notes[-1] == line
    assert not any(note.startswith(f"{part}: ") for note in data.notes)


@pytest.mark.parametrize("name", FILES)
def test_a_part_with_one_file_is_missing(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path)
    (tmp_path / name).unlink()
    (part,) = [part for part in PARTS if name in TASKS[part].files]
    data = loaded(tmp_path)
    assert data.missing == (f"multitask without {part}, as {name} can't be found",)
    assert data.notes[-1] == data.missing[0]
    assert list(data.parts) == [other for other in PARTS if other != part]
    assert [path.name for path in source_files("multitask", tmp_path)] == [
        file for other in PARTS if other != part for file in TASKS[other].files
    ]
    with pytest.raises(InputError, match=f"task {part} needs {re.escape(name)} there"):
        load_task(part, tmp_path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("rows", "told"),
    [(0, "its first line does not have "), (1, "0 of its 0 rows can't be used")],
)
def test_a_file_without_an_example_is_refused(
    tmp_path: Path, name: str, rows: int, told: str
) -> None:
    path = write_folder(tmp_path) / name
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:rows]), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_data("multitask", tmp_path)
    assert str(caught.value).startswith(f"{path}: {told}")
    assert "\n" not in str(caught.value)


BAD_LABELS = {
    "sst": ("5", "-1", "2.5", "4.0001", "nan", "inf", "good"),
    "quora": ("2", "-1", "0.5", "nan", "inf", "yes"),
    "sts": ("5.1", "-0.1", "nan", "inf", "-inf", "alike"),
}


@pytest.mark.parametrize("side", [0, 1], ids=["train", "dev"])
@pytest.mark.parametrize(
    ("part", "label"), [(part, label) for part, labels in BAD_LABELS.items() for label in labels]
)
def test_a_label_that_a_part_can_not_have_is_refused(
    tmp_path: Path, part: str, label: str, side: int
) -> None:
    path = write_folder(tmp_path) / TASKS[part].files[side]
    relabel(path, label, line=4)
    kind, highest = {"sst": ("a class", 4), "quora": ("a class", 1), "sts": ("a number", 5)}[part]
    with pytest.raises(InputError) as caught:
        loaded(tmp_path)
    assert str(caught.value) == (
        f"{path}, line 4: {HEADERS[part][-1]} is {label!r}, not {kind} from 0 to {highest}; "
        "correct it, or empty the field to leave the example out"
    )


@pytest.mark.parametrize("side", [0, 1], ids=["train", "dev"])
@pytest.mark.parametrize("part", PARTS)
def test_an_example_without_a_label_is_counted_and_left_out(
    tmp_path: Path, part: str, side: int
) -> None:
    path = write_folder(tmp_path) / TASKS[part].files[side]
    relabel(path, "", line=4)
    relabel(path, "  ", line=6)
    data = loaded(tmp_path)
    assert data.problems == (
        f"{path.name}, line 4: {HEADERS[part][-1]} is empty; left out",
        f"{path.name}, line 6: {HEADERS[part][-1]} is empty; left out",
    )
    sizes = {other: list(size) for other, size in data.sizes.items()}
    expected = {other: [24, 12] for other in PARTS}
    expected[part][side] -= 2
    assert sizes == expected


@pytest.mark.parametrize(
    ("part", "label"),
    [("sst", "0"), ("sst", "4.0"), ("quora", "1.0"), ("sts", "0"), ("sts", "5"), ("sts", "3.8")],
)
def test_a_label_at_the_edge_is_one(tmp_path: Path, part: str, label: str) -> None:
    path = write_folder(tmp_path) / TASKS[part].files[0]
    relabel(path, label)
    data = loaded(tmp_path)
    assert data.problems == ()
    assert set(data.parts[part].train.labels.tolist()) == {float(label)}


@pytest.mark.parametrize("part", PARTS)
def test_a_file_whose_labels_are_all_wrong_is_refused(tmp_path: Path, part: str) -> None:
    path = write_folder(tmp_path) / TASKS[part].files[1]
    relabel(path, "7")
    with pytest.raises(InputError, match=r"line 2: .* is '7', not"):
        load_data("multitask", tmp_path)


def test_a_folder_without_any_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs both files of at least one of sst, quora, sts"):
        load_data("multitask", tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        load_data("multitask", tmp_path / "absent")
    with pytest.raises(InputError, match="task multitask needs --data DIR"):
        load_data("multitask")
    with pytest.raises(InputError, match="--max-dev 0"):
        load_data("multitask", tmp_path, max_dev=0)


def test_caps_are_those_of_each_part(tmp_path: Path) -> None:
    data = loaded(write_folder(tmp_path), max_train=10, max_dev=4)
    assert set(map(tuple, data.sizes.values())) == {(10, 4)}


def test_the_digest_is_over_the_parts(tmp_path: Path) -> None:
    whole = loaded(write_folder(tmp_path / "a"))
    assert loaded(write_folder(tmp_path / "b")).digest == whole.digest
    others = {
        loaded(tmp_path / "a", max_train=10).digest,
        loaded(write_folder(tmp_path / "c", ("sst", "quora"))).digest,
        loaded(write_folder(tmp_path / "d", ("sst", "sts"))).digest,
    }
    assert len(others | {whole.digest}) == 4


def test_pieces_are_single_texts(tmp_path: Path) -> None:
    data = loaded(write_folder(tmp_path))
    pieces = data.pieces()
    assert list(pieces) == ["sst.1", "quora.1", "quora.2", "sts.1", "sts.2"]
    assert all(of.train.text_b is None and of.dev.text_b is None for of in pieces.values())
    quora = data.parts["quora"]
    assert pieces["quora.1"].train.text_a == quora.train.text_a
    assert pieces["quora.2"].dev.text_a == quora.dev.text_b
    assert pieces["quora.2"].dev.labels.tolist() == quora.dev.labels.tolist()
    single = load_task("sst", tmp_path)
    assert single.pieces() == {"": single}


def test_without_learning_a_correlation_counts_a_half(tmp_path: Path) -> None:
    data = loaded(write_folder(tmp_path))
    scores = [data.parts[part].majority for part in ("sst", "quora")]
    assert None not in scores
    assert data.majority == pytest.approx((sum(scores) + 0.5) / 3)
    assert loaded(write_folder(tmp_path / "one", ("sts",))).majority == 0.5


def test_what_asks_for_one_set_of_examples_is_refused(tmp_path: Path) -> None:
    data = loaded(write_folder(tmp_path))
    with pytest.raises(InputError, match="--lr auto: no rates are searched for task multitask"):
        for_search(data)
    with pytest.raises(InputError, match="task multitask has parts; take one of sst, quora"):
        load_task("multitask", tmp_path)
    assert isinstance(for_search(load_task("sst", tmp_path)), TaskData)


def test_one_logit_tells_two_classes() -> None:
    logits = np.array([[0.2], [-0.1], [0.0], [3.0]], dtype=np.float32)
    assert accuracy(logits, np.array([1, 1, 0, 0])) == 0.5
