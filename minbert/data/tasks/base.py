"""What a task is, and its examples."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from minbert.data.tasks.splitting import smallest
from minbert.errors import InputError


@dataclass(frozen=True)
class Task:
    """Something to learn: a class of a text or of a pair of texts, or, without classes, a number.

    `files` is what a folder given with `--data` must hold, train and dev; a task without any
    comes embedded. `notes` must be said wherever its scores are shown. `parts` names the tasks that
    one model learns together; of their files a folder may hold some.
    """

    name: str
    about: str
    classes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """`classification`, `regression`, or `multitask` with parts."""
        if self.parts:
            return "multitask"
        return "classification" if self.classes else "regression"

    @property
    def metric(self) -> str:
        """Name of its dev score: `accuracy`, `pearson`, or `overall` with parts."""
        if self.parts:
            return "overall"
        return "accuracy" if self.classes else "pearson"

    @property
    def num_outputs(self) -> int:
        """Outputs of its head: one for each class, or one; none with parts, which have their own
        heads."""
        return 0 if self.parts else len(self.classes) or 1


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

    def apart(self) -> tuple["Examples", ...]:
        """The first texts, and the second ones if there are any, each by themselves."""
        columns = (self.text_a,) if self.text_b is None else (self.text_a, self.text_b)
        return tuple(Examples(texts, None, self.labels) for texts in columns)

    def limited(self, count: int | None) -> "Examples":
        """At most `count` examples, chosen by digest of their texts, in their order."""
        if count is None or count >= len(self):
            return self
        if self.text_b is None:
            return self.taken(smallest(self.text_a, count))
        return self.taken(smallest(_pairs(self), count))


def _pairs(examples: Examples) -> list[str]:
    return [f"{a}\t{b}" for a, b in zip(examples.text_a, examples.text_b or (), strict=True)]


class Sizes(NamedTuple):
    """Numbers of examples."""

    train: int
    dev: int


class Data(Protocol):
    """What is asked of a task's examples, whether the task has parts or not."""

    @property
    def task(self) -> Task:
        """Whose they are."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be read, a line each."""

    @property
    def digest(self) -> str:
        """SHA-256 of the examples and their order, train and dev."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be said wherever scores on them are shown."""

    @property
    def sizes(self) -> Mapping[str, Sizes]:
        """How many there are of each part; of a task without parts, under its own name."""

    @property
    def regression(self) -> bool:
        """Whether a number is learned, if only by a part."""

    @property
    def pairs_in_one(self) -> bool:
        """Whether two texts stand in one sequence."""

    @property
    def majority(self) -> float | None:
        """The dev score without learning: of the training set's majority class, and of a part that
        is a regression that of no correlation. None for a task that is a regression."""

    def pieces(self) -> Mapping[str, "TaskData"]:
        """What is tokenised by itself, by name; of a task without parts the whole, named ""."""


@dataclass(frozen=True)
class TaskData:
    """A task's examples for training and for its dev score; it is `Data`.

    `problems` says, one line each, what could not be read.
    """

    task: Task
    train: Examples
    dev: Examples
    problems: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """As of `Data`."""
        return self.task.notes

    @property
    def sizes(self) -> Mapping[str, Sizes]:
        """As of `Data`."""
        return {self.task.name: Sizes(len(self.train), len(self.dev))}

    @property
    def regression(self) -> bool:
        """As of `Data`."""
        return self.task.kind == "regression"

    @property
    def pairs_in_one(self) -> bool:
        """As of `Data`."""
        return self.train.text_b is not None

    @property
    def majority(self) -> float | None:
        """As of `Data`."""
        return majority_score(self)

    def pieces(self) -> Mapping[str, "TaskData"]:
        """As of `Data`."""
        return {"": self}

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


def for_search(data: Data) -> TaskData:
    """A task made of training examples alone, for a search that must not see dev.

    Its training examples and its dev examples are two parts of `data.train`, chosen by digest.

    Raises:
        InputError: for a task with parts, whose rates are the grid's.
    """
    if not isinstance(data, TaskData):
        raise InputError(
            f"--lr auto: no rates are searched for task {data.task.name}, whose parts have factors "
            "on them; give both in the grid file and leave it out"
        )
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
