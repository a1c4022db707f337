"""Train, dev and test splits, folds, and smaller sets of examples, by digest of the texts.

Nothing here depends on a seed, on the order of a file or on the machine, so everyone has the same
dev set, and a text that is in two tasks is on the same side of both.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

TRAIN, DEV, TEST = SIDES = ("train", "dev", "test")
_SHARES: Final = (0.8, 0.9)  # positions, from 0 to 1, at which dev and test begin

_WORD: Final = re.compile(r"\w+")


def normalised(text: str) -> str:
    """A text's words alone: two texts that differ only in case or punctuation are the same."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(folded)) or folded.strip()


def position(key: str) -> float:
    """A key's place from 0 to 1, as if drawn at random."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:7]) / 2**56


def side(key: str) -> str:
    place = position(key)
    return SIDES[sum(place >= share for share in _SHARES)]


def sides(texts: Sequence[str], documents: Sequence[str] | None = None) -> list[str]:
    """The side of each text, 80, 10 and 10% of them. All texts of a document are on one side, and
    so are documents that share a text; without `documents` each text is one."""
    keys = [normalised(text) for text in texts]
    if documents is not None:
        keys = joined(documents, keys)
    known = {key: side(key) for key in set(keys)}
    return [known[key] for key in keys]


def joined(documents: Sequence[str], texts: Sequence[str]) -> list[str]:
    """For each document the first, by name, of those that it is linked with by shared texts."""
    parent = {document: document for document in documents}

    def root(document: str) -> str:
        while parent[document] != document:
            parent[document] = parent[parent[document]]  # shortens later ways to the root
            document = parent[document]
        return document

    first: dict[str, str] = {}
    for document, text in zip(documents, texts, strict=True):
        one, other = root(document), root(first.setdefault(text, document))
        parent[max(one, other)] = min(one, other)
    return [root(document) for document in documents]


def smallest(texts: Iterable[str], count: int) -> list[int]:
    """Indices, in order, of the `count` texts that come first by digest. A smaller count keeps a
    subset of what a larger one keeps, and classes keep their shares."""
    places = [(position(f"order {text}"), index) for index, text in enumerate(texts)]
    return sorted(index for _, index in sorted(places)[:count])


def stratified(keys: Sequence[str], strata: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """A part from 0 to k − 1 for each example, [N], with nearly equal shares of each stratum [N].

    All examples with the same key, a group or a text, are in one part. Keys of several examples are
    dealt first, the largest first, each to the part that lacks its strata most; then the other
    examples of each stratum level the parts. Order is by digest of the keys, so the result depends
    neither on a seed nor on the order of the examples. No part is empty if there are k keys.
    """
    names, strata = np.unique(strata, return_inverse=True)
    number: dict[str, int] = {}
    key_of = np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)
    digests = [hashlib.sha256(f"fold {key}".encode()).digest()[:8] for key in number]
    places = np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)
    sizes = np.bincount(key_of, minlength=len(number))
    counts = np.zeros((k, len(names)), dtype=np.int64)  # examples of each part and stratum
    totals = np.zeros(k, dtype=np.int64)
    part_of = np.zeros(len(number), dtype=np.int64)  # by key

    several = np.flatnonzero(sizes[key_of] > 1)
    several = several[np.lexsort((strata[several], key_of[several]))]
    in_stratum = np.bincount(strata, minlength=len(names))
    blocks = np.split(several, np.flatnonzero(np.diff(key_of[several])) + 1) if len(several) else []
    blocks.sort(key=lambda block: (-len(block), places[key_of[block[0]]]))
    for block in blocks:
        members, amounts = np.unique(strata[block], return_counts=True)
        # in whole numbers, which give every machine the same sums
        weights = (amounts << 20) // in_stratum[members]
        part = np.lexsort((totals, counts[:, members] @ np.maximum(weights, 1)))[0]
        counts[part, members] += amounts
        totals[part] += len(block)
        part_of[key_of[block[0]]] = part

    single = np.flatnonzero(sizes[key_of] == 1)
    single = single[np.lexsort((places[key_of[single]], strata[single]))]
    ends = np.searchsorted(strata[single], np.arange(len(names) + 1))
    for stratum in range(len(names)):
        members = single[ends[stratum] : ends[stratum + 1]]
        share = _levelling(counts[:, stratum], totals, len(members))
        totals += share
        part_of[key_of[members]] = np.repeat(np.arange(k), share)
    return part_of[key_of]


def _levelling(counts: NDArray[np.int64], totals: NDArray[np.int64], new: int) -> NDArray[np.int64]:
    """The number of new examples for each part, so that the smallest counts are raised first; of
    equal counts that with the smallest total comes first."""
    order = np.lexsort((totals, counts))
    level = counts[order]
    # Raising the first i + 1 parts to the height of the last of them takes this many examples.
    needed = level * np.arange(1, len(level) + 1) - np.cumsum(level)
    raised = int(np.searchsorted(needed, new, side="right"))
    height, rest = divmod(int(level[:raised].sum()) + new, raised)
    first = order[:raised]
    share = np.zeros_like(counts)
    share[first] = height - counts[first]
    share[first[np.argsort(totals[first], kind="stable")[:rest]]] += 1
    return share
