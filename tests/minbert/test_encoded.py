"""Texts as token ids, and some of them."""

import numpy as np

from minbert.encoded import Encoded


def test_some_texts_are_as_they_were() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 6, 20)
    total = int(lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    of = Encoded(
        rng.integers(0, 99, total, dtype=np.int32),
        rng.integers(0, 2, total, dtype=np.int8),
        offsets,
    )
    indices = np.array([7, 0, 19, 7])
    found = of.taken(indices)
    assert found.lengths.tolist() == lengths[indices].tolist()
    for place, index in enumerate(indices):
        for name in ("input_ids", "token_type_ids"):
            ours = getattr(found, name)[found.offsets[place] : found.offsets[place + 1]]
            theirs = getattr(of, name)[offsets[index] : offsets[index + 1]]
            assert ours.tolist() == theirs.tolist()
    assert len(of.taken(np.array([], dtype=np.int64))) == 0


def test_who_is_held_out_depends_on_the_tokens_alone() -> None:
    texts = [np.full(3, number, dtype=np.int32) for number in range(40)]

    def held(order: list[int]) -> set[int]:
        ids = np.concatenate([texts[number] for number in order])
        of = Encoded(ids, np.zeros_like(ids, dtype=np.int8), 3 * np.arange(len(order) + 1))
        kept, out = of.held_out(0.25)
        assert sorted([*kept, *out]) == list(range(40))
        assert len(out) == 10
        return {order[index] for index in out}

    assert held(list(range(40))) == held(list(range(40))[::-1])
