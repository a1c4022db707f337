"""Lengths in tokens, and `max_length` auto."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.examples import tokens as module
from bench.examples.tokens import auto_max_length, find_length, share_cut, token_lengths
from minbert.data.tasks import load_data, load_task
from minbert.data.tokenizer import Tokenizer
from tests.cs224n import write_folder


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(2, 150), min_size=1, max_size=30), st.integers(5, 200))
def test_the_smallest_multiple_of_8_that_cuts_under_a_hundredth(sizes: list, longest: int) -> None:
    def cut(length: int) -> float:
        return sum(max(size - length, 0) for size in sizes) / sum(sizes)

    found = auto_max_length(np.array(sizes), longest)
    fitting = [length for length in range(8, longest, 8) if cut(length) < 0.01]
    assert found == (fitting[0] if fitting else longest)
    assert share_cut(np.array(sizes), found) == pytest.approx(cut(found))


def test_lengths_are_those_of_uncut_texts(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 100)
    tokenizer = Tokenizer.from_folder(minilm)
    for examples in (
        load_task("nyt", max_train=250).train,
        load_task("sts", write_folder(tmp_path)).train,
    ):
        whole = tokenizer.encode(examples.text_a, examples.text_b, 4000)
        assert whole.cut.sum() == 0
        assert token_lengths(examples, tokenizer).tolist() == whole.lengths.tolist()


def test_a_task_with_parts_counts_each_text_by_itself(minilm: Path, tmp_path: Path) -> None:
    data = load_data("multitask", write_folder(tmp_path))
    tokenizer = Tokenizer.from_folder(minilm)
    texts = [
        t for part in data.parts.values() for side in part.train.split_pairs() for t in side.text_a
    ]
    longest = tokenizer.encode(texts, None, 512).lengths
    length, note = find_length(data, tokenizer, 512)
    assert length == auto_max_length(longest, 512)
    assert note == f"max_length auto: {length}, cuts {share_cut(longest, length):.1%} of tokens"
