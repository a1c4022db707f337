"""Token ids that workers share: the same as made anew, never trusted when damaged."""

import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.examples import tokens
from bench.examples.tokens import auto_max_length, share_cut
from bench.grid.inputs import Inputs
from bench.plan.planning import plan
from bench.results.store import read_rows
from minbert.assets.embedded import asset_folder
from minbert.data.encoded import array_bytes, read_arrays
from minbert.data.tasks import for_search, load_task
from minbert.data.tokenizer import Tokenizer
from tests.bench import synthetic_rows
from tests.bench.tiny_cells import job_of
from tests.cs224n import write_folder
from tests.experiments.faults.parent import stub_report
from tests.experiments.faults.setups import setup


def cell_of(data):
    of_data = {"task": data.task.name, "data_digest": data.digest[:16], "max_train": None}
    return synthetic_rows.cell("head", None, None, "off", max_length=8, batch_size=8, **of_data)


class Place:
    """A cache that is empty, a folder with data, and the cell that is to learn from it."""

    def __init__(self, folder, tokenizer, task="sst"):
        self.cache = folder / "cache" / "tokens"
        self.folder = folder / "data"
        self.tokenizer = tokenizer
        write_folder(self.folder, [task], count=48)
        self.data = load_task(task, self.folder)
        self.cell = cell_of(self.data)
        self.job = replace(job_of(self.cell, tokenizer), data=str(self.folder))

    def share(self):
        tokens.share(self.data, self.cell, self.tokenizer, self.folder)
        return next(self.cache.iterdir(), None)

    def read(self):
        return tokens.read(self.cell, self.tokenizer, self.folder)

    def make(self):
        return tokens.make(self.data, self.cell, self.tokenizer, self.folder)

    def check(self, pieces):
        check_same(pieces, self.data, self.tokenizer)


@pytest.fixture
def place(cache, tmp_path, tiny_checkpoint):
    return Place(tmp_path, tiny_checkpoint)


def check_same(pieces, data, tokenizer):
    assert list(pieces) == [""]
    encode = Tokenizer.from_folder(tokenizer).encode
    for side, examples in zip(pieces[""], (data.train, data.dev), strict=True):
        expected = encode(examples.text_a, examples.text_b, 8)
        for name in ("input_ids", "token_type_ids", "offsets", "cut"):
            found = getattr(side.encoded, name)
            assert found.dtype == getattr(expected, name).dtype
            np.testing.assert_array_equal(found, getattr(expected, name))
        assert side.labels.dtype == examples.labels.dtype
        np.testing.assert_array_equal(side.labels, examples.labels)


@pytest.mark.parametrize("task", ["sst", "sts"])
def test_what_is_mapped_is_what_tokenising_gives(cache, tmp_path, tiny_checkpoint, minilm, task):
    place = Place(tmp_path, tiny_checkpoint, task)
    assert place.read() is None
    place.check(place.make())
    place.check(place.read())
    data = load_task("movies", max_train=100, max_dev=20)  # embedded
    cell = replace(cell_of(data), max_train=100, max_dev=20)
    tokens.share(data, cell, minilm, None)
    check_same(tokens.read(cell, minilm, None), data, minilm)


def test_another_search_length_vocabulary_or_code_finds_nothing(place, tmp_path, monkeypatch):
    before = place.share().stat().st_ino
    assert place.share().stat().st_ino == before, "it is not made twice"
    assert tokens.read(replace(place.cell, max_length=31), place.tokenizer, place.folder) is None
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "vocab.txt"):
        (other / name).write_bytes((asset_folder("minilm") / name).read_bytes())
    assert tokens.read(place.cell, other, place.folder) is None
    code = tmp_path / "tokens.py"
    code.touch()
    with monkeypatch.context() as changing:
        changing.setattr(tokens, "_CODE", (code, *tokens._CODE[1:]))
        assert place.read() is None
    assert tokens.read(cell_of(for_search(place.data)), place.tokenizer, place.folder) is None


def test_a_damaged_file_is_made_anew_and_no_other_is_taken(place, monkeypatch):
    file = place.share()
    whole = file.read_bytes()
    arrays, _ = read_arrays(file)
    others = array_bytes(arrays, {"data_digest": "f" * 64})
    for content in (b"", whole[:4], whole[: len(whole) // 2], whole[:-1] + b"\xff", others):
        file.write_bytes(content)
        assert place.read() is None
        place.check(place.make())
        place.check(place.read())
    file.unlink()
    os.mkfifo(file)
    assert place.read() is None
    file.unlink()
    file.mkdir()
    assert place.read() is None
    place.check(place.make())
    # a cache that can't be written costs time alone
    monkeypatch.setenv("MINBERT_CACHE", str(place.folder / "ids-sst-train.csv"))
    place.share()
    place.check(place.make())
    assert place.read() is None


def test_a_worker_needs_no_tokenizer_and_notices_changed_data(place, monkeypatch):
    """It makes those that are not there, or spoilt."""
    from bench.worker.setup import examples

    def check_worker():
        sides = examples(place.job)[""]
        both = (tokens.TokenisedExamples(side.texts[0], side.labels) for side in sides)
        place.check({"": tuple(both)})

    with monkeypatch.context() as without:
        without.delitem(sys.modules, "minbert.data.tokenizer")
        without.setitem(sys.modules, "tokenizers", None)
        with pytest.raises(ImportError):
            examples(place.job)
    check_worker()
    [file] = place.cache.iterdir()
    with monkeypatch.context() as without:
        without.setattr(tokens, "make", None)
        check_worker()
    file.write_bytes(file.read_bytes()[:1000])
    check_worker()
    place.check(place.read())
    file = place.folder / "ids-sst-train.csv"
    file.write_text(file.read_text(encoding="utf-8").replace("good", "poor"), encoding="utf-8")
    with pytest.raises(ValueError, match="have changed since the cell was planned"):
        examples(place.job)


def test_a_run_makes_the_file_before_its_first_worker_starts(place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bench.report.render", SimpleNamespace(render=stub_report))
    monkeypatch.setenv("MINBERT_BENCH_LOCKS", str(tmp_path / "locks"))
    stub, csv = setup("fake"), tmp_path / "runs.csv"
    code = f"import os, sys; print(len(os.listdir({str(place.cache)!r}))); sys.exit(3)"
    models = {place.cell.model: replace(stub.model, tokenizer=place.tokenizer)}
    inputs = Inputs(grid=stub.grid, models=models, data=place.data, data_folder=place.folder)
    worker = (sys.executable, "-S", "-c", code)
    session = stub.session(csv, [stub.target("cpu")], worker, inputs=inputs)
    session.run([plan([place.cell], [], stub.conditions.columns())])
    assert [row["status"] for row in read_rows(csv)] == ["crashed"]
    [stdout] = tmp_path.glob("runs/*/stdout.txt")
    assert stdout.read_text(encoding="utf-8") == "1\n"
    place.check(place.read())


@settings(max_examples=200)
@given(st.lists(st.integers(2, 150), min_size=1, max_size=30), st.integers(5, 200))
def test_the_smallest_multiple_of_8_that_cuts_under_a_hundredth(sizes, longest):
    def cut(length):
        return sum(max(size - length, 0) for size in sizes) / sum(sizes)

    found = auto_max_length(np.array(sizes), longest)
    fitting = [length for length in range(8, longest, 8) if cut(length) < 0.01]
    assert found == (fitting[0] if fitting else longest)
    assert share_cut(np.array(sizes), found) == pytest.approx(cut(found))
