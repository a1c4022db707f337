"""What a task is, and its examples."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from minbert.tasks.splitting import smallest


@dataclass(frozen=True)
class Task:
    """Something to learn: a class of a text or of a pair of texts, or, without classes, a number.

    `files` is what a folder given with `--data` must hold, train and dev; a task without any
    comes embedded. `notes` must be said wherever its scores are shown.
    """

    name: str
    about: str
    classes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """`classification` or `regression`."""
        return "classification" if self.classes else "regression"

    @property
    def metric(self) -> str:
        """Name of its dev score: `accuracy` or `pearson`."""
        return "accuracy" if self.classes else "pearson"

    @property
    def num_outputs(self) -> int:
        """Outputs of its head: one for each class, or one."""
        return len(self.classes) or 1


@dataclass(frozen=True)
class Examples:
    """N texts, or pairs of texts, with their labels."""

    text_a: tuple[str, ...]
    text_b: tuple[str, ...] | None
    labels: NDArray[np.int64] | NDArray[np.float64]  # [N], classes or numbers

    def __len__(self) -> int:
        return len(self.text_a)

    def taken(self, indices: Sequence[int]) -> "Examples":
        """The examples at some indices, in the order of those."""
        pairs = self.text_b
        return Examples(
            tuple(self.text_a[index] for index in indices),
            None if pairs is None else tuple(pairs[index] for index in indices),
            self.labels[list(indices)],
        )

    def limited(self, count: int | None) -> "Examples":
        """At most `count` examples, chosen by digest of their texts, in their order."""
        if count is None or count >= len(self):
            return self
        if self.text_b is None:
            return self.taken(smallest(self.text_a, count))
        return self.taken(smallest(_pairs(self), count))


def _pairs(examples: Examples) -> list[str]:
    return [f"{a}\t{b}" for a, b in zip(examples.text_a, examples.text_b or (), strict=True)]


@dataclass(frozen=True)
class TaskData:
    """A task's examples for training and for its dev score.

    `problems` says, one line each, what could not be read.
    """

    task: Task
    train: Examples
    dev: Examples
    problems: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the examples and their order, train and dev."""
        digest = hashlib.sha256(self.task.kind.encode())
        for examples in (self.train, self.dev):
            texts = (*examples.text_a, "\0", *(examples.text_b or ()), "\0")
            digest.update("\n".join(texts).encode())
            digest.update(np.ascontiguousarray(examples.labels).tobytes())
        return digest.hexdigest()


HELD_OUT: Final = 0.2
"""Share of the training examples that a search is scored on, ..."""
MOST_HELD_OUT: Final = 1000
MOST_FITTED: Final = 4000
"""... and how many there are at most, on either side."""


def for_search(data: TaskData) -> TaskData:
    """A task made of training examples alone, for a search that must not see dev.

    Its training examples and its dev examples are two parts of `data.train`, chosen by digest.
    """
    texts = data.train.text_a if data.train.text_b is None else _pairs(data.train)
    count = min(MOST_HELD_OUT, max(1, round(HELD_OUT * len(data.train))))
    held = set(smallest((f"search\t{text}" for text in texts), count))
    kept = [index for index in range(len(data.train)) if index not in held]
    return TaskData(
        data.task,
        data.train.taken(kept).limited(MOST_FITTED),
        data.train.taken(sorted(held)),
    )


def majority_class(examples: Examples) -> int:
    """The most frequent class; of several, the first."""
    return int(np.bincount(examples.labels.astype(np.int64)).argmax())


def majority_score(data: TaskData) -> float | None:
    """What the training set's majority class scores on dev; None for a regression."""
    if not data.task.classes:
        return None
    return float(np.mean(data.dev.labels == majority_class(data.train)))
