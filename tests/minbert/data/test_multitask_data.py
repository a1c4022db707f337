"""Task multitask: the parts that a folder holds, and what is said of them."""

import re

import pytest

from minbert.data.tasks import TASKS, for_search, load_data, load_task, source_files
from minbert.data.tasks.cs224n import PARTS, MultitaskData
from minbert.errors import InputError
from tests.cs224n import write_folder


def loaded(folder, **caps):
    found = load_data("multitask", folder, **caps)
    assert isinstance(found, MultitaskData)
    return found


def test_it_has_the_parts_of_the_folder_in_one_order(tmp_path):
    data = loaded(write_folder(tmp_path))
    assert tuple(data.parts) == PARTS
    assert data.missing == ()
    assert data.sizes == dict.fromkeys(PARTS, (24, 12))
    assert (data.task.kind, data.task.metric, data.task.num_outputs) == ("multitask", "overall", 0)
    for part, of in data.parts.items():
        assert of.digest == load_task(part, tmp_path).digest
    scores = [data.parts[part].majority for part in ("sst", "quora")]
    assert data.majority == pytest.approx((sum(scores) + 0.5) / 3), "of a correlation a half"
    assert loaded(write_folder(tmp_path / "one", ("sts",))).majority == 0.5

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
    data = loaded(tmp_path)
    assert data.missing == (f"multitask without {part}, as {' and '.join(lost)} can't be found",)
    assert data.notes[-1] == data.missing[0]
    assert not any(note.startswith(f"{part}: ") for note in data.notes)
    assert list(data.parts) == [other for other in PARTS if other != part]
    assert [path.name for path in source_files("multitask", tmp_path)] == [
        file for other in PARTS if other != part for file in TASKS[other].files
    ]
    with pytest.raises(InputError, match=f"task {part} needs {re.escape(lost[0])}"):
        load_task(part, tmp_path)


def test_a_folder_without_any_part_is_refused(tmp_path):
    for folder, options, why in (
        (tmp_path, {}, r"needs both files of at least one of sst, quora, sts"),
        (tmp_path / "absent", {}, "is no folder"),
        (None, {}, "task multitask needs --data DIR"),
        (tmp_path, {"max_dev": 0}, "--max-dev 0"),
    ):
        with pytest.raises(InputError, match=why):
            load_data("multitask", folder, **options)


def test_the_digest_is_over_the_parts_and_caps_are_those_of_each(tmp_path):
    whole = loaded(write_folder(tmp_path / "a"))
    assert loaded(write_folder(tmp_path / "b")).digest == whole.digest
    capped = loaded(tmp_path / "a", max_train=10, max_dev=4)
    assert set(map(tuple, capped.sizes.values())) == {(10, 4)}
    others = {
        capped.digest,
        loaded(tmp_path / "a", max_train=10).digest,
        loaded(write_folder(tmp_path / "c", ("sst", "quora"))).digest,
        loaded(write_folder(tmp_path / "d", ("sst", "sts"))).digest,
    }
    assert len(others | {whole.digest}) == 5
