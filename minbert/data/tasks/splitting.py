"""Train, dev and test splits, and smaller sets of examples, by digest of the texts.

Nothing here depends on a seed, on the order of a file or on the machine, so everyone has the same
dev set, and a text that is in two tasks is on the same side of both.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

TRAIN, DEV, TEST = SIDES = ("train", "dev", "test")
_SHARES: Final = (0.8, 0.9)
"""Positions, from 0 to 1, at which dev and test begin."""

_WORD: Final = re.compile(r"\w+")


def normalised(text: str) -> str:
    """A text's words alone: two texts that differ only in case or punctuation are the same."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(folded)) or folded.strip()


def _position(key: str) -> float:
    """A key's place from 0 to 1, as if drawn at random."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:7]) / 2**56


def side(key: str) -> str:
    """The side, `train`, `dev` or `test`, of a document or of a normalised text."""
    position = _position(key)
    return SIDES[sum(position >= share for share in _SHARES)]


def sides(texts: Sequence[str], documents: Sequence[str] | None = None) -> list[str]:
    """The side of each text, 80, 10 and 10% of them.

    Args:
        texts: the texts.
        documents: for each text the document that it comes from; all texts of a document are on one
            side. Documents that share a text count as one. None: each text is a document.
    """
    keys = [normalised(text) for text in texts]
    if documents is not None:
        keys = _joined(documents, keys)
    known = {key: side(key) for key in set(keys)}
    return [known[key] for key in keys]


def _joined(documents: Sequence[str], texts: Sequence[str]) -> list[str]:
    """For each document the first, by name, of those that it is linked with by shared texts."""
    parent = {document: document for document in documents}

    def root(document: str) -> str:
        while parent[document] != document:
            document = parent[document]
        return document

    first: dict[str, str] = {}
    for document, text in zip(documents, texts, strict=True):
        one, other = root(document), root(first.setdefault(text, document))
        parent[max(one, other)] = min(one, other)
    return [root(document) for document in documents]


def smallest(texts: Iterable[str], count: int) -> list[int]:
    """Indices, in order, of the `count` texts that come first by digest.

    A smaller count keeps a subset of what a larger one keeps, and classes keep their shares.
    """
    places = [(_position(f"order {text}"), index) for index, text in enumerate(texts)]
    return sorted(index for _, index in sorted(places)[:count])
