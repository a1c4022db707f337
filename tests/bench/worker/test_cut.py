"""Texts longer than max_length: how many there are, and which share of the tokens is lost."""

import re
from dataclasses import replace

import pytest
from tokenizers import Tokenizer as Library

from bench.examples import tokens
from bench.worker.process import Progress
from bench.worker.run import CellRun
from minbert.data.tasks import load_data
from tests.bench.tiny_cells import PARTS, cell, job_of
from tests.cs224n import relabel, write_folder

LENGTHS = {"sst": 8, "sts": 12, "multitask": 8}
"""A max_length by which some of a task's texts are cut, and some are not."""


def wanted(texts, checkpoint, length):
    """By the library, of texts or of pairs in one sequence: how many are longer than a length, the
    tokens that they lose, and all tokens."""
    library = Library.from_file(str(checkpoint / "tokenizer.json"))
    library.no_padding()
    library.no_truncation()
    whole = [len(found) for found in library.encode_batch(list(texts))]
    lost = [size - length for size in whole if size > length]
    assert 0 < len(lost) < len(whole)
    return [len(lost), sum(lost), sum(whole)]


def texts_of(data):
    """The tokenised texts: a pair in one sequence, or each text of a pair by itself."""
    sides = [side for of in data.pieces().values() for side in (of.train, of.dev)]
    return [
        text
        for side in sides
        for text in (
            side.text_a if side.text_b is None else zip(side.text_a, side.text_b, strict=True)
        )
    ]


class Place:
    """A folder of data, and a cell of one of its tasks that cuts some texts."""

    def __init__(self, folder, checkpoint, task):
        self.folder = write_folder(folder / "data")
        self.checkpoint = checkpoint
        self.data = load_data(task, self.folder)

    def cell(self, **changes):
        values = {
            "task": self.data.task.name, "data_digest": self.data.digest[:16], "max_train": None,
            "max_dev": None, "max_length": LENGTHS[self.data.task.name],
        }  # fmt: skip
        values = (PARTS if self.data.task.parts else {}) | values
        return cell(self.checkpoint, "head", **values | changes)

    def notes(self, **changes):
        made = self.cell(**changes)
        return list(tokens.cut_notes(self.data, made, self.checkpoint, self.folder))


@pytest.fixture
def cache(tmp_path, minilm, monkeypatch):
    """A cache of this test's own; what was fetched is still found."""
    monkeypatch.setenv("MINBERT_ASSETS", str(minilm.parent))
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("held_out", [0.0, 0.25])
@pytest.mark.parametrize("task", LENGTHS)
def test_a_worker_counts_what_is_cut(cache, tmp_path, tiny_checkpoint, task, held_out):
    """Of all texts of train and dev, those held out included; mapped or made by itself."""
    place = Place(tmp_path, tiny_checkpoint, task)
    job = job_of(place.cell(held_out=held_out), tiny_checkpoint)
    job = replace(job, data=str(place.folder))
    texts, lost, whole = wanted(texts_of(place.data), tiny_checkpoint, LENGTHS[task])
    for _ in range(2):
        run = CellRun(job, tmp_path, Progress(None))
        run._tokenise()
        assert run.columns["texts_cut"] == texts
        assert run.columns["tokens_cut"] == pytest.approx(lost / whole)


@pytest.mark.parametrize("task", LENGTHS)
def test_a_note_says_what_is_cut(cache, tmp_path, tiny_checkpoint, task, monkeypatch):
    place = Place(tmp_path, tiny_checkpoint, task)
    length = LENGTHS[task]
    every = texts_of(place.data)
    texts, lost, whole = wanted(every, tiny_checkpoint, length)
    expected = [
        f"max_length {length} cuts {texts} of {len(every)} texts, and {lost / whole:.1%} of all "
        "tokens with them"
    ]
    assert place.notes() == expected
    assert list((cache / "tokens").iterdir())
    with monkeypatch.context() as mapped:
        mapped.setattr(tokens, "make", None)
        assert place.notes() == expected, "a second time nothing is tokenised"
    monkeypatch.setenv("MINBERT_CACHE", str(place.folder / "sst-train.csv"))
    assert place.notes() == expected, "without a cache too"


def test_small_shares_nothing_cut_and_nothing_that_can_be_tokenised(
    cache, tmp_path, tiny_checkpoint
):
    place = Place(tmp_path, tiny_checkpoint, "sst")
    assert place.notes(max_length=128) == []
    (tmp_path / "empty").mkdir()
    assert list(tokens.cut_notes(place.data, place.cell(), tmp_path / "empty", place.folder)) == []
    path = place.folder / "ids-sst-train.csv"
    rows = ["\tid\tsentence\tsentiment", *(f"{n}\tid\t{'good ' * 9}{n}\t1" for n in range(200))]
    path.write_text("\n".join([*rows, f"0\tid\t{'good ' * 11}\t1"]) + "\n", encoding="utf-8")
    place.data = load_data("sst", place.folder)
    assert place.notes(max_length=12) == [
        "max_length 12 cuts 1 of 213 texts, and under 0.1% of all tokens with them"
    ]


def test_a_plan_says_what_is_cut_and_left_out(grid, tmp_path):
    place = Place(tmp_path, grid.model, "sst")
    relabel(place.folder / "ids-sst-train.csv", "", line=5)
    path = tmp_path / "mine.toml"
    path.write_text("[settings]\ntask = 'sst'\nmax_length = 8\n[[cells]]\nmode = ['head']\n")
    planned = grid.run("--dry-run", "--data", str(place.folder), grid=str(path), forecast=False)
    assert "note: ids-sst-train.csv, line 5: sentiment is empty; left out\n" in planned.stderr
    assert re.search(r"note: max_length 8 cuts \d+ of 35 texts, and ", planned.stderr)
