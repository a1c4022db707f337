"""Tags of words, and the entities that they mark.

Tag 0 is O; of the entity type k, 2 k + 1 is B and 2 k + 2 is I, as in IOB2. The tags of N texts are
int16 [N, W], with -1 after the last word of a text; other classes of words, such as parts of
speech, are int32. Logits are those of all words, text after text, [M, C].
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Tags = NDArray[Any]
ENTITIES, CLASSES = np.dtype(np.int16), np.dtype(np.int32)
"""The types of tags that mark entities, and of other classes of words."""
NO_WORD: Final = -1
INSIDE_WORD, OUTSIDE_TEXT = -100, -101
"""Labels of tokens that begin no word: further pieces of one; and padding and special tokens."""
FEWEST_ENTITIES, FEWEST_HITS = 50, 10
"""True entities, and those that are also predicted, below which an F1 has no interval."""


def padded(texts: Sequence[Sequence[int]]) -> Tags:
    """The tags of texts of any lengths as an array."""
    tags = np.full((len(texts), max(map(len, texts), default=0)), NO_WORD, dtype=np.int16)
    for row, values in zip(tags, texts, strict=True):
        row[: len(values)] = values
    return tags


def are_tags(labels: NDArray[Any]) -> bool:
    return labels.ndim == 2 and labels.dtype in (ENTITIES, CLASSES)


def joined(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Labels of two sets of examples as one; tags are padded to the longer text."""
    if are_tags(one):
        width = max(one.shape[1], other.shape[1])
        one, other = (
            np.pad(each, ((0, 0), (0, width - each.shape[1])), constant_values=NO_WORD)
            for each in (one, other)
        )
    return np.concatenate([one, other])


def predicted_tags(logits: NDArray[Any], labels: Tags) -> Tags:
    """The tag of the largest logit of each word, in the shape of the labels; of a word without
    logits, all of which are 0, tag O or, of other classes, a number that is none of them."""
    words = labels >= 0
    if logits.ndim != 2 or len(logits) != np.count_nonzero(words) or not logits.shape[1]:
        raise ValueError("there are no logits for each word")
    tags = np.full_like(labels, NO_WORD)
    chosen = logits.argmax(axis=1)
    if labels.dtype == CLASSES:
        chosen[~logits.any(axis=1)] = logits.shape[1]
    tags[words] = chosen
    return tags


def of_tokens(logits: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[Any], Tags]:
    """Logits [T, C] and labels [T] of tokens as logits of words and their tags [1, W], in which -1
    is between texts."""
    tags = labels[labels != INSIDE_WORD].astype(np.int16)
    return logits[labels >= 0], np.maximum(tags, NO_WORD)[None]


def word_accuracy(labels: Tags, predicted: Tags) -> float:
    """The share of words whose tag is predicted."""
    return float((labels == predicted)[labels >= 0].mean())


def _entities(tags: Tags, any_start: bool) -> NDArray[np.int64]:
    """At the first word of each entity a number of its end and type, which is in its lower 16 bits,
    elsewhere -1, [N, W + 1]."""
    texts = np.pad(tags, ((0, 0), (0, 1)), constant_values=NO_WORD)
    flat = texts.ravel().astype(np.int64)
    before = np.concatenate([[NO_WORD], flat[:-1]])
    kind = (flat - 1) // 2
    is_inside = (flat > 0) & (flat % 2 == 0)
    continues = is_inside & (before > 0) & (kind == (before - 1) // 2)
    starts = np.flatnonzero((flat > 0) & ~continues & (any_start | ~is_inside))
    others = np.flatnonzero(~continues)
    ends = others[np.searchsorted(others, starts, side="right")]
    entities = np.full(len(flat), -1)
    entities[starts] = (ends << 16) + kind[starts]
    return entities.reshape(texts.shape)


def entity_counts(
    labels: Tags, predicted: Tags, *, any_start: bool = False, kind: int | None = None
) -> NDArray[np.int64]:
    """By text the numbers of entities, of one type or of all, that are predicted and true,
    predicted, and true, [N, 3].

    An entity is predicted right if its type and both ends are. It begins with B; with `any_start`
    also with an I that follows no word of its type, as conlleval counts.
    """
    true, guess = (_entities(tags, any_start) for tags in (labels, predicted))
    if kind is not None:
        true, guess = (np.where(_kinds(each) == kind, each, -1) for each in (true, guess))
    hits = (true == guess) & (true >= 0)
    return np.stack([each.sum(axis=1) for each in (hits, guess >= 0, true >= 0)], axis=1)


def recalled(labels: Tags, predicted: Tags) -> NDArray[np.bool_]:
    """Of each true entity, text after text, whether it is predicted right."""
    true, guess = (_entities(tags, any_start=False) for tags in (labels, predicted))
    return np.asarray((true == guess)[true >= 0])


def entities_in(texts: Sequence[str], tags: Tags) -> list[tuple[int, str]]:
    """The type and the words of each entity, text after text, of words between single spaces."""
    entities = _entities(tags, any_start=False)
    width, words = entities.shape[1], [text.split(" ") for text in texts]
    return [
        (int(number & 0xFFFF), " ".join(words[row][at : (number >> 16) - row * width]))
        for row, at in np.argwhere(entities >= 0).tolist()
        for number in (entities[row, at],)
    ]


def _kinds(entities: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(entities < 0, -1, entities & 0xFFFF)


def entity_kinds(labels: Tags, predicted: Tags) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The types, true and predicted, of the places that are an entity in either; -1 where the other
    has none with both of these ends."""
    true, guess = (_entities(tags, any_start=False) for tags in (labels, predicted))
    alike = (true >= 0) & (guess >= 0) & (true >> 16 == guess >> 16)
    kinds, guesses = _kinds(true), _kinds(guess)
    only = [each[(each >= 0) & ~alike] for each in (kinds, guesses)]
    none = [np.full_like(each, -1) for each in only]
    return (
        np.concatenate([kinds[alike], only[0], none[1]]),
        np.concatenate([guesses[alike], none[0], only[1]]),
    )


def entity_f1(labels: Tags, predicted: Tags, *, any_start: bool = False) -> float:
    """F1 over the entities of all texts, rounded and 0 where none is right, as in seqeval."""
    counts = entity_counts(labels, predicted, any_start=any_start).sum(axis=0)
    hits, guessed, true = map(int, counts)
    if not hits:
        return 0.0
    precision, recall = hits / guessed, hits / true
    return 2 * precision * recall / (precision + recall)
