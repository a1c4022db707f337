"""Texts that nearly equal others: pairs whose sets of character 5-grams overlap by 80% or more.

Candidates are found by MinHash and locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", chapter 3), and their Jaccard similarity is then computed, so
that no pair is reported in error, and one at the threshold is missed once in 500,000 times.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

N: Final = 5
"""Characters of an n-gram."""
THRESHOLD: Final = 0.8
"""The least Jaccard similarity of near duplicates."""
LONGEST: Final = 2000
"""Characters of a text that are compared, from its beginning."""
_BANDS: Final = 25
_ROWS: Final = 4
_MOST_CANDIDATES: Final = 5_000_000
"""Candidates that are looked at; where most texts are alike, the search ends early."""
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)

TRAIN, DEV = 0, 1
_SIDES: Final = ((TRAIN, TRAIN), (TRAIN, DEV), (DEV, TRAIN), (DEV, DEV))

Pairs = dict[tuple[int, int], dict[int, int]]
"""By two sides, for each text of the one that has a near duplicate on the other, both indices."""


def near_duplicates(texts: Sequence[str], on_side: NDArray[np.bool_]) -> tuple[Pairs, int]:
    """The near duplicates among distinct normalised texts in random order, and the number of texts,
    from the first, among which they were searched; `on_side` [2, N] says whether each is one of
    train, and one of dev."""
    from datasketch import MinHash, MinHashLSH  # loads scipy

    index = MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
    empty = MinHash(num_perm=_BANDS * _ROWS, hashfunc=int)
    sides = on_side.T.tolist()  # [N, 2]
    grams: list[NDArray[np.uint32]] = []
    near: Pairs = {sides: {} for sides in _SIDES}
    candidates = 0
    for number, text in enumerate(texts):
        grams.append(ngrams(text))
        signature = empty.copy()
        signature.update_batch(grams[number].tolist())
        for other in sorted(index.query(signature)):
            candidates += 1
            wanted = [
                (near[here, there], one, two)
                for here, there in _SIDES
                for one, two in ((number, other), (other, number))
                if sides[one][here] and sides[two][there] and one not in near[here, there]
            ]
            if wanted and _is_near(grams[number], grams[other]):
                for pairs, one, two in wanted:
                    pairs[one] = two
        if candidates > _MOST_CANDIDATES:
            return near, number + 1
        index.insert(number, signature)
    return near, len(texts)


def ngrams(text: str) -> NDArray[np.uint32]:
    """Hashes of a text's distinct character n-grams, sorted; a shorter text is one n-gram."""
    padded = text[:LONGEST].ljust(N)
    codes = np.frombuffer(padded.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    mixed = np.zeros(len(codes) - N + 1, dtype=np.uint64)
    for place in range(N):
        mixed = (mixed + codes[place : place + len(mixed)]) * _MULTIPLIER
        mixed ^= mixed >> np.uint64(29)
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


def _is_near(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> bool:
    if min(len(a), len(b)) < THRESHOLD * max(len(a), len(b)):
        return False
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common >= THRESHOLD * (len(a) + len(b) - common)
