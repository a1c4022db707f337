"""Predictions of tags of words without an encoder: the most frequent tag of each word, and a linear
model on features of the word and its neighbours."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

import numpy as np

from bench.references.linear import Floats
from minbert.data.tasks import Examples, Task

_ALPHA: Final = 1e-6  # strength of the regularisation
_EPOCHS: Final = 20
_ENDS: Final = 3  # characters of the longest prefix and suffix
_EDGE: Final = ""  # the word before the first and after the last


def frequent_tags(task: Task, train: Examples, dev: Examples) -> Floats:
    """1 for the tag that is most frequent for the word in the training texts, of several the first;
    O for other words."""
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for word, tag in zip(_words(train), train.labels[train.labels >= 0].tolist(), strict=True):
        counts[word][tag] += 1
    best = {word: min(of, key=lambda tag: (-of[tag], tag)) for word, of in counts.items()}
    return np.eye(task.num_outputs)[[best.get(word, 0) for word in _words(dev)]]


def linear_tags(task: Task, train: Examples, dev: Examples) -> tuple[Floats, str]:
    """Scores of logistic regression and how it was fitted; ValueError if all words have one tag."""
    from sklearn.feature_extraction import FeatureHasher
    from sklearn.linear_model import SGDClassifier

    tags = train.labels[train.labels >= 0]
    if not tags.any():
        raise ValueError("no training word has a tag other than O")
    hasher = FeatureHasher(input_type="string", alternate_sign=False)
    model: Any = SGDClassifier(
        loss="log_loss", alpha=_ALPHA, max_iter=_EPOCHS, tol=None, average=True, random_state=0
    )
    model.fit(hasher.transform(_features(train)), tags)
    scores = np.full((int((dev.labels >= 0).sum()), task.num_outputs), -np.inf)
    values = model.decision_function(hasher.transform(_features(dev)))
    if values.ndim == 1:  # of two tags the score of the second
        values = np.stack([-values, values], axis=1)
    scores[:, model.classes_] = values
    return scores, "logistic regression on the word, its ends and shape, and its neighbours"


def _words(examples: Examples) -> Iterator[str]:
    return (word for text in examples.text_a for word in text.split(" "))


def _features(examples: Examples) -> Iterator[list[str]]:
    for text in examples.text_a:
        words = [_EDGE, *text.split(" "), _EDGE]
        shapes = [*map(_shape, words)]
        for at, word in enumerate(words[1:-1], start=1):
            low = word.lower()
            yield [
                "bias", f"word {word}", f"low {low}", f"shape {shapes[at]}",
                f"before {words[at - 1].lower()}", f"after {words[at + 1].lower()}",
                f"shapes {' '.join(shapes[at - 1 : at + 2])}",
                *(f"begins {low[:n]}" for n in range(1, _ENDS + 1)),
                *(f"ends {low[-n:]}" for n in range(1, _ENDS + 1)),
            ]  # fmt: skip


def _shape(word: str) -> str:
    """Xx for Anna, 9 for 1984 and - for signs: each kind of a character, repeated ones once."""
    kinds = (
        "X" if c.isupper() else "x" if c.isalpha() else "9" if c.isdigit() else "-" for c in word
    )
    return "".join(kind for kind, _ in groupby(kinds))
