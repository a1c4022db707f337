"""Texts as token ids, and files of arrays that processes map."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from minbert.data import mapped
from minbert.data.encoded import Encoded, in_one
from minbert.data.tokenizer import Tokenizer
from tests.hostile import changed, damaged, examples


def test_some_texts_are_as_they_were():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 6, 20)
    total = int(lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    of = Encoded(
        rng.integers(0, 99, total, dtype=np.int32),
        rng.integers(0, 2, total, dtype=np.int8),
        offsets,
        rng.integers(0, 3, 20),
    )
    indices = np.array([7, 0, 19, 7])
    found = of.taken(indices)
    assert found.lengths.tolist() == lengths[indices].tolist()
    assert found.cut is not None
    assert of.cut is not None
    assert found.cut.tolist() == of.cut[indices].tolist()
    for name in ("input_ids", "token_type_ids"):
        theirs = np.split(getattr(of, name), offsets[1:-1])
        expected = np.concatenate([theirs[index] for index in indices])
        assert getattr(found, name).tolist() == expected.tolist()
    assert len(of.taken(np.array([], dtype=np.int64))) == 0


def test_who_is_held_out_depends_on_the_tokens_alone():
    texts = [np.full(3, number, dtype=np.int32) for number in range(40)]

    def held(order):
        ids = np.concatenate([texts[number] for number in order])
        of = Encoded(ids, np.zeros_like(ids, dtype=np.int8), 3 * np.arange(len(order) + 1))
        kept, out = of.held_out(0.25)
        assert sorted([*kept, *out]) == list(range(40))
        assert len(out) == 10
        return {order[index] for index in out}

    assert held(list(range(40))) == held(list(range(40))[::-1])


def test_texts_of_a_pair_in_one_sequence_are_what_the_tokenizer_makes_of_the_pair(minilm):
    rng = np.random.default_rng(0)
    words = ("a", "good", "film", "about", "nothing", "unbelievably", "tokenisation")
    texts = [" ".join(rng.choice(words, count)) for count in (1, 3, 5, 8, 9, 10, 11, 12, 13)]
    pairs = [(a, b) for a in texts for b in texts]
    tokenizer = Tokenizer.from_folder(minilm)
    for max_length in (16, 17, 128):
        first, second = (
            tokenizer.encode([pair[side] for pair in pairs], None, max_length) for side in (0, 1)
        )
        found = in_one(first, second, max_length)
        expected = tokenizer.encode(*map(list, zip(*pairs, strict=True)), max_length)
        assert found.lengths.max() <= max_length
        cut = np.minimum(first.lengths, second.lengths) == max_length
        assert cut.any() == (max_length < 128)
        for index in np.flatnonzero(~cut):
            ours, theirs = (of.taken(np.array([index])) for of in (found, expected))
            assert ours.input_ids.tolist() == theirs.input_ids.tolist()
            assert ours.token_type_ids.tolist() == theirs.token_type_ids.tolist()
        assert found.input_ids.dtype == expected.input_ids.dtype
        assert found.token_type_ids.dtype == expected.token_type_ids.dtype


ARRAYS = {
    "ids": np.arange(300, dtype=np.int32),
    "kinds": np.array([0, 1, 1], dtype=np.int8),
    "offsets": np.array([[0, 2], [3, 4]], dtype=np.int64),
    "labels": np.array([0.5, -1.25]),
    "nothing": np.empty(0, dtype=np.int8),
}
NOTES = {"of": "some data", "also": "ü"}
WHOLE = mapped.to_bytes(ARRAYS, NOTES)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("mapped") / "arrays.safetensors"


def check_read(file):
    """Fail unless a file gives the arrays and notes that were written."""
    arrays, notes = mapped.read(file)
    assert notes == NOTES
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_what_was_written_is_read_as_views_that_cant_be_written_to(file):
    file.write_bytes(WHOLE)
    check_read(file)
    arrays, _ = mapped.read(file)
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    lines = [line for line in maps if line.endswith(file.name)]
    assert len(lines) == 1
    begin, end = (int(place, 16) for place in lines[0].split()[0].split("-"))
    assert begin < arrays["ids"].ctypes.data < end
    with pytest.raises(ValueError, match="read-only"):
        arrays["ids"][0] = 1
    for name, array in load_file(file).items():
        np.testing.assert_array_equal(array, ARRAYS[name])


FLIPPED = st.integers(0, len(WHOLE) - 1).map(
    lambda at: WHOLE[:at] + bytes([WHOLE[at] ^ 1]) + WHOLE[at + 1 :]
)


@examples(300)
@given(content=damaged(WHOLE) | FLIPPED | st.binary(max_size=200))
def test_nothing_else_than_a_value_error_comes_of_damage(file, content):
    file.write_bytes(content)
    with suppress(ValueError):  # unless JSON passes over it, as over a space in the header
        check_read(file)


LENGTH = int.from_bytes(WHOLE[:8], "little")
HEADERS = changed(json.loads(WHOLE[8 : 8 + LENGTH])).map(lambda values: json.dumps(values).encode())


@examples(300)
@given(header=HEADERS | st.just(b"[" * 60_000))
def test_a_changed_header_is_refused_or_says_the_same(file, header):
    file.write_bytes(len(header).to_bytes(8, "little") + header + WHOLE[8 + LENGTH :])
    with suppress(ValueError):
        check_read(file)
