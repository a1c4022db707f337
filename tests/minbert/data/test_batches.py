"""Texts as token ids, files of arrays that processes map, and batches."""

from contextlib import suppress
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from minbert.data import batches
from minbert.data.encoded import Encoded, array_bytes, in_one, read_arrays
from minbert.data.tokenizer import Tokenizer

CPU = torch.device("cpu")
PAD = 7

lengths_of_texts = st.lists(st.integers(2, 40), max_size=300).map(
    lambda found: np.array(found, dtype=np.int64)
)


def encoded(lengths):
    """Texts of these lengths, all of whose token ids differ."""
    total = sum(lengths)
    return Encoded(
        input_ids=np.arange(100, 100 + total, dtype=np.int32),
        token_type_ids=(np.arange(total) % 2).astype(np.int8),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
    )


@given(lengths_of_texts, st.integers(1, 20), st.integers(0, 5), st.sampled_from(batches.BATCHINGS))
def test_an_epoch_and_an_evaluation_have_every_text_once(lengths, batch_size, seed, batching):
    plan = batches.plan_training(lengths, batch_size, np.random.default_rng(seed), batching)
    assert sorted(index for batch in plan for index in batch) == list(range(len(lengths)))
    whole, rest = divmod(len(lengths), batch_size)
    assert sorted(map(len, plan)) == [rest] * (rest > 0) + [batch_size] * whole
    plan = batches.plan_evaluation(lengths, batch_size)
    assert sorted(index for batch in plan for index in batch) == list(range(len(lengths)))
    longest = [lengths[batch].max() for batch in plan]
    assert longest == sorted(longest)


def test_by_length_hardly_pads_and_epochs_differ_and_have_no_order():
    lengths = rng().integers(2, 60, 64 * batches.CHUNK_BATCHES)

    def padded(plan):
        return sum(len(batch) * lengths[batch].max() for batch in plan) / lengths.sum()

    plan, other = (batches.plan_training(lengths, 64, rng(seed)) for seed in (0, 1))
    assert padded(plan) < 1.05
    assert padded(batches.plan_training(lengths, 64, rng(), "shuffled")) > 1.8
    means = [lengths[batch].mean() for batch in plan]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3
    assert {frozenset(batch) for batch in plan}.isdisjoint(map(frozenset, other))
    again = batches.plan_training(lengths, 64, rng())
    assert all(map(np.array_equal, plan, again))


def rng(seed=0):
    return np.random.default_rng(seed)


def test_batches_of_tasks_come_in_their_order():
    counts = {"sst": 3, "quora": 5, "sts": 1}
    assert batches.mix("sequential", counts, rng()) == ["sst"] * 3 + ["quora"] * 5 + ["sts"]
    assert batches.mix("round-robin", counts, rng()) == [
        "sst", "quora", "sts", "sst", "quora", "sst", "quora", "quora", "quora",
    ]  # fmt: skip
    order = batches.mix("proportional", {"small": 200, "large": 800}, rng())
    assert (order.count("small"), len(order)) == (200, 1000)
    parts = [order[start : start + 200].count("small") for start in range(0, 1000, 200)]
    assert all(20 <= part <= 60 for part in parts), "a task is as likely as it is large"
    assert order == batches.mix("proportional", {"small": 200, "large": 800}, rng())
    assert order != batches.mix("proportional", {"small": 200, "large": 800}, rng(1))
    with pytest.raises(ValueError, match="no order of tasks is called 'random'"):
        batches.mix("random", counts, rng())
    with pytest.raises(ValueError, match="no batching is called 'sorted'; there are by-length"):
        batches.plan_training(np.array([3, 4]), 2, rng(), "sorted")


@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.data(), st.booleans())
def test_a_batch_holds_its_texts_and_padding_after_them(lengths, data, in_bucket):
    """A bucket has more padding, and always a mask."""
    texts = encoded(lengths)
    indices = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1))
    kind = data.draw(st.sampled_from([np.int64, np.float32]))
    labels = np.arange(len(lengths), dtype=kind)
    batch = batches.collate([texts], labels, indices, PAD, CPU, 12 if in_bucket else None)
    assert batch.labels.numpy().dtype == kind
    chosen = [lengths[index] for index in indices]
    longest = max(chosen)
    width = longest if not in_bucket else 8 if longest <= 8 else 12
    assert batch.input_ids.shape == batch.token_type_ids.shape == (len(indices), width)
    assert batch.input_ids.dtype == batch.token_type_ids.dtype == torch.int64
    assert (batch.tokens, batch.padded) == (sum(chosen), len(indices) * width)
    assert batch.labels.tolist() == indices
    assert (batch.attention_mask is None) == (len(set(chosen)) == 1 and not in_bucket)
    for row, index in enumerate(indices):
        begin, end = texts.offsets[index : index + 2]
        padding = width - lengths[index]
        assert batch.input_ids[row].tolist() == [*texts.input_ids[begin:end], *[PAD] * padding]
        types = [*texts.token_type_ids[begin:end], *[0] * padding]
        assert batch.token_type_ids[row].tolist() == types
        if batch.attention_mask is not None:
            assert batch.attention_mask.dtype == torch.int64
            mask = [1] * lengths[index] + [0] * padding
            assert batch.attention_mask[row].tolist() == mask


def test_what_goes_to_a_gpu_is_pinned_and_not_waited_for(monkeypatch):
    """By a stand-in for pinned memory: there is no GPU here."""
    pinned = mock.Mock()
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda _tensor: pinned)
    batches.on_device(np.array([3, 4]), torch.device("cuda"))
    batches.on_device(np.array([5]), CPU)
    pinned.to.assert_called_once_with(torch.device("cuda"), non_blocking=True)


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
    words = ("a", "good", "film", "about", "nothing", "unbelievably", "tokenisation")
    texts = [" ".join(rng().choice(words, count)) for count in (1, 3, 5, 8, 9, 10, 11, 12, 13)]
    pairs = [(a, b) for a in texts for b in texts]
    columns = [*map(list, zip(*pairs, strict=True))]
    tokenizer = Tokenizer.from_folder(minilm)
    for max_length in (16, 17, 128):
        first, second = (tokenizer.encode(column, None, max_length) for column in columns)
        joined = in_one(first, second, max_length)
        expected = tokenizer.encode(*columns, max_length)
        assert joined.lengths.max() <= max_length
        cut = np.minimum(first.lengths, second.lengths) == max_length
        assert cut.any() == (max_length < 128)
        ours, theirs = (of.taken(np.flatnonzero(~cut)) for of in (joined, expected))
        for name in ("input_ids", "token_type_ids", "offsets"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), strict=True)


ARRAYS = {
    "ids": np.arange(300, dtype=np.int32), "kinds": np.array([0, 1, 1], dtype=np.int8),
    "offsets": np.array([[0, 2], [3, 4]], dtype=np.int64), "labels": np.array([0.5, -1.25]),
    "nothing": np.empty(0, dtype=np.int8),
}  # fmt: skip
NOTES = {"of": "some data", "also": "ü"}
WHOLE = array_bytes(ARRAYS, NOTES)


def check_read(file):
    """Fail unless a file gives the arrays and notes that were written."""
    arrays, notes = read_arrays(file)
    assert notes == NOTES
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_what_was_written_is_read_as_views_and_what_is_damaged_is_refused_or_the_same(tmp_path):
    """No view can be written to."""
    file = tmp_path / "arrays.safetensors"
    file.write_bytes(WHOLE)
    check_read(file)
    arrays, _ = read_arrays(file)
    with pytest.raises(ValueError, match="read-only"):
        arrays["ids"][0] = 1
    for name, array in load_file(file).items():
        np.testing.assert_array_equal(array, ARRAYS[name])
    others = [WHOLE.replace(b'"I8"', b'"U8"'), (60_000).to_bytes(8, "little") + b"[" * 60_000]
    for at in range(0, len(WHOLE), 9):
        others += [WHOLE[:at], WHOLE[:at] + bytes([WHOLE[at] ^ 1]) + WHOLE[at + 1 :]]
    for content in others:
        file.write_bytes(content)
        with suppress(ValueError):  # unless JSON passes over it, as over a space in the header
            check_read(file)
