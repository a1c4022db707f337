"""Cross-validation: examples in K folds, each scored once, by a model trained on the others."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from minbert.data import words
from minbert.data.tasks.base import Data, Examples, Sizes, TaskData, set_aside
from minbert.data.tasks.splitting import stratified
from minbert.errors import InputError

RACE_FOLDS: Final = 5  # and so the most rounds


@dataclass(frozen=True, eq=False)
class Folds:
    """The examples of a task without parts, those for training and those for dev together, in K
    folds, each of whose sides has at most `max_train` and `max_dev`, chosen as by `limited`.

    Folds have nearly equal shares of each class, or of each tenth of a regression's labels. Equal
    texts, compared by `normalised`, are in one fold, and so are the examples of a group.
    """

    data: Data
    count: int
    max_train: int | None = None
    max_dev: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.data, TaskData):
            raise InputError(f"--folds: task {self.data.task.name} has parts; leave it out")
        groups = len(set(self._keys))
        if not 2 <= self.count <= groups:
            raise InputError(
                f"--folds {self.count}: give a number from 2 to {groups:,}, the number of "
                f"{'texts' if self.examples.groups is None else 'groups'} that differ"
            )

    def fold(self, index: int | None) -> TaskData:
        if index is None or not 0 <= index < self.count:
            raise InputError(f"there is no fold {index} of {self.count}; count from 0")
        train = self.examples.taken(self.assignment != index).limited(self.max_train)
        dev = self.examples.taken(self.assignment == index).limited(self.max_dev)
        return TaskData(self.data.task, train, dev, self.data.problems, self.digest)

    @cached_property
    def examples(self) -> Examples:
        ((train, dev),) = ((part.train, part.dev) for part in self.data.parts.values())
        text_b = groups = None
        if train.text_b is not None and dev.text_b is not None:
            text_b = train.text_b + dev.text_b
        if train.groups is not None and dev.groups is not None:
            groups = train.groups + dev.groups
        labels = words.joined(train.labels, dev.labels)
        return Examples(train.text_a + dev.text_a, text_b, labels, groups)

    @property
    def whole(self) -> TaskData:
        return TaskData(self.data.task, self.examples, self.examples.taken([]))

    @cached_property
    def assignment(self) -> NDArray[np.int64]:
        strata = self.data.task.problem.strata(self.examples.labels)
        return stratified(self._keys, strata, self.count)

    @cached_property
    def most(self) -> Sizes:
        """The examples of the largest sides of any fold, not limited."""
        sizes = np.bincount(self.assignment, minlength=self.count)
        return Sizes(len(self.examples) - int(sizes.min()), int(sizes.max()))

    @cached_property
    def _keys(self) -> list[str]:
        return self.examples.keys()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the examples, their order, their folds and what limits them."""
        limits = Sizes(self.max_train or self.most.train, self.max_dev or self.most.dev)
        limits = Sizes(*map(min, limits, self.most))
        digest = hashlib.sha256(f"{self.count} folds {[*limits]} {self.whole.digest}".encode())
        digest.update(self.assignment.tobytes())
        return digest.hexdigest()


def for_race(data: Data, fold: int | None) -> TaskData:
    """A round of a race: a fold, as dev, and the others, of the training examples that no search of
    learning rates is scored on. Its digest is that of the data. InputError for a task with parts,
    or too few examples."""
    if not isinstance(data, TaskData):
        raise InputError(f"--race: task {data.task.name} has parts; leave it out")
    train = data.train.taken(~set_aside(data))
    if len(set(train.keys())) < RACE_FOLDS:
        raise InputError(
            f"--race: {len(data.train):,} training examples can't be put into {RACE_FOLDS} folds; "
            "give more, or leave it out"
        )
    folds = Folds(TaskData(data.task, train, train.taken([]), data.problems), RACE_FOLDS)
    return replace(folds.fold(fold), identity=data.digest)
