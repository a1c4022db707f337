"""Predictions of tags of words without training an encoder: the most frequent tag of each word, and
linear models on features of the word and its neighbours, or on its embedding."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

import numpy as np

from bench.plan.metrics import WORDS
from bench.references.linear import Floats
from minbert.data.tasks import Examples, Task

_ALPHA: Final = 1e-6  # strength of the regularisation
_ALPHA_FROZEN: Final = 1e-4  # of features that are embeddings
_MOST: Final = 100_000  # words with embeddings that are trained on
_EPOCHS: Final = 20
_ENDS: Final = 3  # characters of the longest prefix and suffix
_EDGE: Final = ""  # the word before the first and after the last


def frequent_tags(task: Task, train: Examples, dev: Examples) -> Floats:
    """1 for the tag that is most frequent for the word in the training texts, of several the first;
    for other words O, or of other classes the most frequent one."""
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for word, tag in zip(_words(train), train.labels[train.labels >= 0].tolist(), strict=True):
        counts[word][tag] += 1
    best = {word: min(of, key=lambda tag: (-of[tag], tag)) for word, of in counts.items()}
    is_entity = task.problem.name == WORDS
    other = 0 if is_entity else int(task.problem.counts(train.labels, 0).argmax())
    return np.eye(task.num_outputs)[[best.get(word, other) for word in _words(dev)]]


def linear_tags(task: Task, train: Examples, dev: Examples) -> tuple[Floats, str]:
    """Scores of logistic regression and how it was fitted; ValueError if all words have one tag."""
    from sklearn.feature_extraction import FeatureHasher

    hasher = FeatureHasher(input_type="string", alternate_sign=False)
    features = (hasher.transform(_features(side)) for side in (train, dev))
    about = "logistic regression on the word, its ends and shape, and its neighbours"
    return _scores(task, train, _ALPHA, *features), about


def frozen_tags(task: Task, train: Examples, fitted: Floats, scored: Floats) -> tuple[Floats, str]:
    """The same on embeddings of the words [M, H] of both sides, of training words at most
    `_MOST`."""
    from sklearn.preprocessing import StandardScaler

    ends = np.cumsum((train.labels >= 0).sum(axis=1))
    texts = int(np.searchsorted(ends, _MOST, side="right")) or 1
    some = train.taken(range(min(texts, len(train))))
    scaler = StandardScaler().fit(fitted[: some.words])
    features = (scaler.transform(each) for each in (fitted[: some.words], scored))
    about = "embeddings of the words by the frozen encoder, logistic regression"
    if some.words < train.words:
        about += f" on the first {some.words:,} of {train.words:,} words"
    return _scores(task, some, _ALPHA_FROZEN, *features), about


def _scores(task: Task, train: Examples, alpha: float, fitted: Any, scored: Any) -> Floats:
    """Scores [M, C] by features of training words and of those that are scored."""
    from sklearn.linear_model import SGDClassifier

    tags = train.labels[train.labels >= 0]
    if len(np.unique(tags)) < 2:
        raise ValueError("all training words have the same tag")
    model: Any = SGDClassifier(
        loss="log_loss", alpha=alpha, max_iter=_EPOCHS, tol=None, average=True, random_state=0
    )
    model.fit(fitted, tags)
    scores = np.full((scored.shape[0], task.num_outputs), -np.inf)
    values = model.decision_function(scored)
    if values.ndim == 1:  # of two tags the score of the second
        values = np.stack([-values, values], axis=1)
    scores[:, model.classes_] = values
    return scores


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
