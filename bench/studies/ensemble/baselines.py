"""Baselines of an ensemble: the average of all cells, the best members of other encoders, TF-IDF
with a linear model, and the cosine of sentence embeddings.

scikit-learn comes with the extra `baselines`; it and torch are imported on first use.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.results.origins import data_folder, examples_of, model_of
from bench.studies.ensemble.averages import Floats
from bench.studies.ensemble.outcome import Outcome, average_of_all, entry_for
from minbert.data.metrics import constant
from minbert.data.tasks import Examples, TaskData

TFIDF, COSINE = "tf-idf and a linear model", "cosine of sentence embeddings"
WITHOUT: Final = "leave out what needs it (--baselines, --peer)"
"""What the user can do if a checkpoint is gone."""
_BATCH: Final = 64


def with_baselines(outcome: Outcome, data: Path | None) -> Outcome:
    """An outcome with its baselines.

    One that predicts the same number for all examples, or has nothing to learn from, is left out,
    with a note.

    Args:
        data: the folder of the task's files; none for an embedded task.

    Raises:
        InputError: if the examples, the checkpoint or scikit-learn are missing.
    """
    candidates, member = outcome.candidates, outcome.best_member
    folder = data_folder(member.row, member.folder, data)
    examples = examples_of(member.row, folder).parts[outcome.task]
    others, notes = [*outcome.others, *outcome.encoders], []
    if len(candidates.members) > 1:
        others.insert(0, average_of_all(candidates, outcome.average))

    def add(kind: str, predict: Callable[..., Floats], *arguments: Any) -> None:
        try:
            others.append(entry_for(candidates, kind, predict(*arguments)))
        except ValueError as error:
            notes.append(f"{kind} left out: {error}")

    add(TFIDF, tfidf, examples)
    if is_comparison(examples):
        checkpoint = model_of(member.row, member.folder, WITHOUT).checkpoint
        if checkpoint is not None:
            add(COSINE, cosine, examples, checkpoint, int(member.row.max_length or 128))
    return replace(outcome, others=others).with_notes(*notes)


def tfidf(data: TaskData) -> Floats:
    """Predictions [N, C] on dev of a linear model on TF-IDF vectors, trained on all of train.

    The vectors are of words and pairs of words. Classes are predicted by logistic regression,
    numbers by ridge regression, both with scikit-learn's default regularisation. For a pair of
    texts the features are the difference and the product of their vectors, and their cosine.

    Raises:
        InputError: without scikit-learn.
        ValueError: if all labels are the same, or no two texts share a word.
    """
    try:
        from scipy.sparse import csr_matrix, hstack
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression, Ridge
    except ImportError as error:
        raise InputError(
            f"scikit-learn can't be imported ({error}); install the extra: "
            "pip install -e '.[baselines]'"
        ) from error
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    if constant(data.train.labels):
        raise ValueError("the training labels are all the same")
    try:
        words.fit([*data.train.text_a, *(data.train.text_b or ())])
    except ValueError as error:  # the vocabulary is empty
        raise ValueError("no word is in two of the training texts") from error

    def features(examples: Examples) -> Any:
        a = words.transform(examples.text_a)
        if examples.text_b is None:
            return a
        b = words.transform(examples.text_b)
        cosine = csr_matrix(a.multiply(b).sum(axis=1))  # rows have a length of 1
        return hstack([abs(a - b), a.multiply(b), cosine], format="csr")

    train, dev = features(data.train), features(data.dev)
    if not data.task.classes:
        numbers = Ridge().fit(train, data.train.labels).predict(dev)
        return np.asarray(numbers, dtype=np.float64)[:, None]
    model = LogisticRegression(max_iter=1000).fit(train, data.train.labels)
    scores = np.full((len(data.dev), data.task.num_outputs), -np.inf)
    scores[:, model.classes_] = model.predict_log_proba(dev)
    return scores


def is_comparison(data: TaskData) -> bool:
    """Whether a cosine can be a prediction: for pairs of texts with a number or two classes."""
    return data.train.text_b is not None and len(data.task.classes) <= 2


def cosine(data: TaskData, checkpoint: Path, max_length: int) -> Floats:
    """Predictions [N, C] on dev by the cosine of both texts' embeddings, if `is_comparison`.

    An embedding is the mean of a text's hidden states in an encoder that was not trained for the
    task. The cosine is the predicted number; for two classes it is compared with the threshold that
    is most accurate on train.

    Args:
        checkpoint: the encoder's folder, vocabulary included.
    """
    embed = _embedder(checkpoint, max_length)
    dev = _cosines(data.dev, embed)
    if not data.task.classes:
        return dev[:, None]
    edge = threshold(_cosines(data.train, embed), data.train.labels)
    return np.stack([edge - dev, dev - edge], axis=1)


def threshold(values: Floats, labels: NDArray[np.generic]) -> float:
    """The lowest threshold, halfway between two of the values [N], that separates the classes 0
    (below) and 1 (above) most accurately."""
    order = np.argsort(values, kind="stable")
    ones = np.concatenate([[0], np.cumsum(labels[order] == 1)])  # class 1 among the n lowest
    correct = (np.arange(len(values) + 1) - ones) + (ones[-1] - ones)
    ordered = values[order]
    ends = np.concatenate([[ordered[0] - 1], ordered, [ordered[-1] + 1]])
    middles = (ends[:-1] + ends[1:]) / 2
    distinct = np.concatenate([[True], ordered[1:] > ordered[:-1], [True]])
    return float(middles[np.where(distinct, correct, -1).argmax()])


def _cosines(examples: Examples, embed: Callable[[tuple[str, ...]], Floats]) -> Floats:
    a, b = embed(examples.text_a), embed(examples.text_b or ())
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: Floats = (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)
    return cosines


def _embedder(checkpoint: Path, max_length: int) -> Callable[[tuple[str, ...]], Floats]:
    import torch

    from minbert.data.tokenizer import Tokenizer
    from minbert.model.checkpoint import load_encoder
    from minbert.model.classifier import BertClassifier
    from minbert.model.config import BertConfig
    from minbert.training.evaluation import predict

    config = BertConfig.from_folder(checkpoint)
    model = BertClassifier(config, 1, pooling="mean", dropout=0.0)
    load_encoder(model.bert, checkpoint)
    model.classifier = torch.nn.Identity()
    tokenizer, device = Tokenizer.from_folder(checkpoint), torch.device("cpu")

    def embed(texts: tuple[str, ...]) -> Floats:
        encoded = tokenizer.encode(texts, None, max_length)
        embeddings = predict(
            model, [encoded], batch_size=_BATCH, amp="off", pad_id=config.pad_token_id,
            device=device,
        )  # fmt: skip
        return embeddings.astype(np.float64)

    return embed
