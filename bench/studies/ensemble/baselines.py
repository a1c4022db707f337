"""Baselines of an ensemble: the average of all cells, the best members of other encoders, TF-IDF
with a linear model, and the cosine of sentence embeddings. Loads scikit-learn and torch on first
use."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.references.embeddings import embedder
from bench.references.linear import tfidf
from bench.results.origins import data_folder, examples_of, model_of
from bench.studies.ensemble.averages import Floats
from bench.studies.ensemble.published import published
from bench.studies.ensemble.result import TaskResult, average_of_all, entry_for
from minbert.data.tasks import Examples, TaskData

TFIDF, COSINE = "tf-idf and a linear model", "cosine of sentence embeddings"
WITHOUT: Final = "leave out what needs it (--baselines, --peer)"
"""What the user can do if a checkpoint is gone."""


def with_baselines(result: TaskResult, data: Path | None) -> TaskResult:
    """A result with its baselines and published scores; a baseline that predicts the same number
    for all examples, or has nothing to learn from, is left out with a note. InputError if the
    examples, of a folder of data unless they are embedded, or the checkpoint are missing."""
    pool, member = result.pool, result.best_member
    folder = data_folder(member.row, member.folder, data)
    examples = examples_of(member.row, folder).parts[result.task]
    others, notes = [*result.others, *result.encoders], []
    if len(pool.members) > 1:
        others.insert(0, average_of_all(pool, result.average))

    def add(kind: str, predict: Callable[..., Floats], *arguments: Any) -> None:
        try:
            others.append(entry_for(pool, kind, predict(*arguments)))
        except ValueError as error:
            notes.append(f"{kind} left out: {error}")

    add(TFIDF, lambda data: tfidf(data.task, data.train, data.dev)[0], examples)
    if examples.train.text_b is not None and len(examples.task.classes) <= 2:
        checkpoint = model_of(member.row, member.folder, WITHOUT).checkpoint
        if checkpoint is not None:
            add(COSINE, cosine, examples, checkpoint, int(member.row.max_length or 128))
    return replace(result, others=others, published=published(result.task)).with_notes(*notes)


def cosine(data: TaskData, checkpoint: Path, max_length: int) -> Floats:
    """Predictions [N, C] on dev by the cosine of both texts' embeddings, for pairs of
    texts with a number or two classes.

    An embedding is the mean of a text's hidden states in the encoder of a checkpoint, as it was
    before training. The cosine is the predicted number; for two classes it is compared with the
    threshold that is most accurate on train.
    """
    from minbert.data.tokenizer import Tokenizer

    encode, embed = Tokenizer.from_folder(checkpoint).encode, embedder(checkpoint, "mean", "cpu")

    def cosines(examples: Examples) -> Floats:
        texts = examples.text_a, examples.text_b or ()
        a, b = (embed(encode(each, None, max_length)) for each in texts)
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return np.asarray((a * b).sum(axis=1) / np.maximum(lengths, 1e-12))

    dev = cosines(data.dev)
    if not data.task.classes:
        return dev[:, None]
    edge = threshold(cosines(data.train), data.train.labels)
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
