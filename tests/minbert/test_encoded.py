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
