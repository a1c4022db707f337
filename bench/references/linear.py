"""Predictions of simple methods: the majority, and linear models on TF-IDF or on embeddings; of
tags the most frequent one of each word, and linear models on features or embeddings of words. The
embeddings are those of an encoder that was not trained for the task.

Predictions are [N, C]: for classes a score of each, of which the highest is predicted; for several
labels a score of each, predicted if it is above 0; for numbers [N, 1]. scikit-learn is imported on
first use.
"""

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.plan.architectures import model_type_of
from bench.plan.metrics import SINGLE_LABEL, WORDS
from bench.results.facts import FROZEN, TFIDF
from bench.results.outcomes import joined
from bench.results.predictions import outcome_of
from bench.results.scores import Score, every_score
from bench.stats.intervals import Floats
from minbert.data.encoded import Encoded
from minbert.data.metrics import constant
from minbert.data.tasks import Examples, Task
from minbert.data.tasks.splitting import smallest
from minbert.model.config import FAMILIES

if TYPE_CHECKING:
    from minbert.model.classifier import Classifier

HELD_OUT: Final = 0.2
"""The share of the training examples on which the strength of regularisation is chosen."""
STRENGTHS: Final = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)
"""Values of C, which are tried; alpha of ridge regression is 1 / C."""
_HALF: Final = 0.5
_LEAST: Final = 1e-12
_ITERATIONS: Final = 200
_LARGEST: Final = 2**27  # most weights of a model, 1 GiB: outputs times features
_ALPHA: Final = 1e-6  # strength of the regularisation
_ALPHA_FROZEN: Final = 1e-4  # of features that are embeddings
_MOST_WORDS: Final = 100_000  # words with embeddings that are trained on
_EPOCHS: Final = 20
_ENDS: Final = 3  # characters of the longest prefix and suffix
_EDGE: Final = ""  # the word before the first and after the last
_BATCH: Final = 64  # texts that are embedded at once


def predict(
    name: str,
    task: Task,
    train: Examples,
    dev: Examples,
    embeddings: tuple[Floats, Floats] | None = None,
) -> tuple[Floats, str]:
    """Predictions [N, C] of a reference point on dev, and a line on how they were made; `frozen`
    takes the embeddings [N, H] of `train` and of `dev`. ValueError says why, if there is nothing to
    learn from."""
    if train.by_word:
        if name == FROZEN and embeddings is not None:
            return frozen_tags(task, train, *embeddings)
        if name == TFIDF:
            return linear_tags(task, train, dev)
        return frequent_tags(task, train, dev), "the most frequent tag of each word"
    if name == TFIDF:
        predictions, method = tfidf(task, train, dev)
        return predictions, f"TF-IDF of words and pairs of words, {method}"
    if name == FROZEN and embeddings is not None:
        predictions, method = frozen(task, train, *embeddings)
        return predictions, f"embeddings of the frozen encoder, {method}"
    predicted = {
        "classification": "the most frequent class of the training examples",
        "multi_label": "the labels of more than half of the training examples",
        "regression": "the mean of the training labels",
    }
    return majority(task, train, len(dev)), predicted[task.kind]


def majority(task: Task, train: Examples, count: int) -> Floats:
    """The same prediction for `count` examples: the most frequent class, of several the first; the
    labels that more than half of the training examples have; or the mean of the numbers."""
    labels = train.labels
    if task.kind == "classification":
        counts = np.bincount(labels.astype(np.int64), minlength=task.num_outputs)
        row = np.eye(len(counts))[counts.argmax()]  # shares would rank the examples of folds
    else:
        row = np.atleast_1d(labels.mean(axis=0)) - (_HALF if task.kind == "multi_label" else 0.0)
    return np.tile(row, (count, 1))


def tfidf(task: Task, train: Examples, dev: Examples) -> tuple[Floats, str]:
    """Predictions on dev of a linear model on TF-IDF of words and pairs of words, and how it was
    fitted. For a pair of texts the features are the difference and the product of both vectors, and
    their cosine. ValueError if all training labels are the same, or no two texts share a word."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    try:
        words.fit([*train.text_a, *(train.text_b or ())])
    except ValueError as error:  # the vocabulary is empty
        raise ValueError("no word is in two of the training texts") from error

    def features(examples: Examples) -> Any:
        a = words.transform(examples.text_a)
        if examples.text_b is None:
            return a
        b = words.transform(examples.text_b)
        cosine = csr_matrix(a.multiply(b).sum(axis=1))  # rows have a length of 1
        return hstack([abs(a - b), a.multiply(b), cosine], format="csr")

    return _linear(task, train, features(train), features(dev))


def frozen(task: Task, train: Examples, vectors: Floats, dev: Floats) -> tuple[Floats, str]:
    """Predictions on dev of a linear model on embeddings [N, H] of both sides, standardised by the
    training examples, and how it was fitted. ValueError if all training labels are the same, or
    embeddings are not finite."""
    if not np.isfinite(vectors).all() or not np.isfinite(dev).all():
        raise ValueError("the encoder's embeddings are not finite")
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(vectors)
    return _linear(task, train, scaler.transform(vectors), scaler.transform(dev))


def _linear(task: Task, train: Examples, features: Any, dev: Any) -> tuple[Floats, str]:
    """Predictions of logistic regression for classes and labels, of ridge regression for numbers.
    Of `STRENGTHS` the one is used that has the least loss (log loss, or squared error) on a share
    of the training examples, held out by digest of their texts; the model is then fitted on all."""
    from sklearn.model_selection import GridSearchCV, PredefinedSplit

    labels = train.labels
    if all(map(constant, labels.T if labels.ndim > 1 else [labels])):
        raise ValueError("the training labels are all the same")
    if task.num_outputs * features.shape[1] > _LARGEST:
        raise ValueError(f"{task.num_outputs:,} classes are too many for a linear model")
    count = round(HELD_OUT * len(train))
    held_out = np.zeros(len(train), dtype=bool)
    held_out[smallest((f"references\t{text}" for text in train.texts()), count)] = True
    model, name, values = _model(task)
    with warnings.catch_warnings(action="ignore"):  # a label that all have, the last iteration
        if held_out.any() and not constant(labels[~held_out]):
            model = GridSearchCV(
                model,
                {name: values},
                scoring=lambda *fitted: -_loss(task, *fitted),
                cv=PredefinedSplit(np.where(held_out, 0, -1)),
                error_score="raise",
            )
        model.fit(features, labels)
    model = getattr(model, "best_estimator_", model)
    kind = (
        "ridge regression with alpha" if task.kind == "regression" else "logistic regression with C"
    )
    return _predicted(task, model, dev), f"{kind} {model.get_params()[name]:g}"


def _model(task: Task) -> tuple[Any, str, list[float]]:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier

    if task.kind == "regression":
        return Ridge(), "alpha", [1 / strength for strength in STRENGTHS]
    model = LogisticRegression(max_iter=_ITERATIONS)
    if task.kind == "multi_label":
        return OneVsRestClassifier(model), "estimator__C", [*STRENGTHS]
    return model, "C", [*STRENGTHS]


def _predicted(task: Task, model: Any, features: Any) -> Floats:
    """Predictions [N, C]; a class that no training example has gets the probability 0."""
    if task.kind == "regression":
        return np.asarray(model.predict(features), dtype=np.float64)[:, None]
    probabilities = np.asarray(model.predict_proba(features), dtype=np.float64)
    if task.kind == "multi_label":
        return probabilities - _HALF
    scores = np.zeros((features.shape[0], task.num_outputs))
    scores[:, model.classes_] = probabilities
    return scores


def _loss(task: Task, model: Any, features: Any, labels: NDArray[Any]) -> float:
    predictions = _predicted(task, model, features)
    if task.kind == "regression":
        return float(np.mean((predictions[:, 0] - labels) ** 2))
    if task.kind == "multi_label":
        of_label = np.where(labels == 1, _HALF + predictions, _HALF - predictions)
    else:
        of_label = predictions[np.arange(len(labels)), labels.astype(np.int64)]
    return float(-np.log(np.maximum(of_label, _LEAST)).mean())


def frequent_tags(task: Task, train: Examples, dev: Examples) -> Floats:
    """1 for the tag that is most frequent for the word in the training texts, of several the first;
    for other words O, or of other classes the most frequent one."""
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for word, tag in zip(_words(train), train.labels[train.labels >= 0].tolist(), strict=True):
        counts[word][tag] += 1
    best = {word: min(of, key=lambda tag: (-of[tag], tag)) for word, of in counts.items()}
    is_entity = task.problem.stored_as == WORDS
    other = 0 if is_entity else int(task.problem.counts(train.labels, 0).argmax())
    return np.eye(task.num_outputs)[[best.get(word, other) for word in _words(dev)]]


def linear_tags(task: Task, train: Examples, dev: Examples) -> tuple[Floats, str]:
    """Scores of logistic regression and how it was fitted; ValueError if all words have one tag."""
    from sklearn.feature_extraction import FeatureHasher

    hasher = FeatureHasher(input_type="string", alternate_sign=False)
    features = (hasher.transform(_features(side)) for side in (train, dev))
    about = "logistic regression on the word, its ends and shape, and its neighbours"
    return _fitted_to_tags(task, train, _ALPHA, *features), about


def frozen_tags(task: Task, train: Examples, fitted: Floats, scored: Floats) -> tuple[Floats, str]:
    """The same on embeddings of the words [M, H] of both sides, of training words at most
    `_MOST_WORDS`."""
    from sklearn.preprocessing import StandardScaler

    ends = np.cumsum((train.labels >= 0).sum(axis=1))
    texts = int(np.searchsorted(ends, _MOST_WORDS, side="right")) or 1
    some = train.taken(range(min(texts, len(train))))
    scaler = StandardScaler().fit(fitted[: some.words])
    features = (scaler.transform(each) for each in (fitted[: some.words], scored))
    about = "embeddings of the words by the frozen encoder, logistic regression"
    if some.words < train.words:
        about += f" on the first {some.words:,} of {train.words:,} words"
    return _fitted_to_tags(task, some, _ALPHA_FROZEN, *features), about


def _fitted_to_tags(task: Task, train: Examples, alpha: float, fitted: Any, scored: Any) -> Floats:
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


def scores(
    problem: str, predictions: Sequence[Floats], sides: Sequence[Examples]
) -> dict[str, Score]:
    """The scores of predictions, as of `predict`, for the dev examples of each fold, or for all,
    with 95% intervals over these, by name of metric of a problem."""
    unit = None if problem == SINGLE_LABEL else (0.0, 1.0)
    if problem == SINGLE_LABEL:
        predictions = [np.log(np.maximum(each, _LEAST)) for each in predictions]
    outcomes = [
        outcome_of(logits, dev.labels, unit, dev.documents)
        for logits, dev in zip(predictions, sides, strict=True)
    ]
    return every_score(problem, joined(outcomes))


def embedder(
    checkpoint: Path, pooling: str, device: str, *, by_word: bool = False
) -> Callable[..., NDArray[Any]]:
    """A function that returns the embeddings [N, H] of texts, computed in fp32; of texts with tags
    the last hidden state at the first token of each word [M, H].

    With pooling `pooler` they are the pooler's in BERT, with random weights, as in cells, where the
    checkpoint lacks it. In other architectures they are the last hidden state at the first token,
    as all layers between that and the classes are new.
    """
    import torch

    from minbert.training.evaluation import predict

    make = _bert if model_type_of(checkpoint) in FAMILIES else _other
    model = make(checkpoint, pooling, by_word)
    model.to(torch.device(device))

    def embed(texts: Encoded, tags: NDArray[Any] | None = None) -> NDArray[Any]:
        embeddings = predict(
            model, [texts], batch_size=_BATCH, amp="off", device=torch.device(device), tags=tags
        )
        return embeddings if by_word else embeddings.astype(np.float64)

    return embed


def _bert(checkpoint: Path, pooling: str, by_word: bool) -> "Classifier":
    """A BERT, which returns embeddings as if they were logits."""
    from torch import nn

    from minbert.model.checkpoint import load_encoder
    from minbert.model.classifier import BertClassifier, HeadConfig, initialise
    from minbert.model.config import BertConfig

    config, heads = BertConfig.from_folder(checkpoint), {"": HeadConfig(1, by_token=by_word)}
    model = BertClassifier(config, heads, pooling=pooling, dropout=0.0)
    load_encoder(model.bert, checkpoint)
    initialise(model, 0)
    model.classifier = nn.Identity()
    return model


def _other(checkpoint: Path, pooling: str, by_word: bool) -> "Classifier":
    """An encoder of another architecture, likewise."""
    from torch import float32, nn
    from transformers import AutoModel

    from bench.engines.classifier import EncoderClassifier
    from minbert.model.classifier import HeadConfig

    class Hidden(nn.Module):
        reads_tokens = True

        def forward(self, hidden: Any, _mask: Any) -> Any:
            return hidden

    encoder = AutoModel.from_pretrained(
        checkpoint, local_files_only=True, trust_remote_code=False, dtype=float32
    )
    pooling = "mean" if pooling == "mean" else "cls"
    head = Hidden() if by_word else nn.Identity()
    return EncoderClassifier(encoder, head, outputs=HeadConfig(1), pooling=pooling)
