"""Tasks and their examples; and cross-validation, in K folds, each scored by a model trained on the
others."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minbert.data import words
from minbert.data.problems import PROBLEMS, REGRESSION, SINGLE_LABEL, Labels, Problem
from minbert.data.tasks.splitting import joined, normalised, position, smallest, stratified
from minbert.data.words import are_tags
from minbert.errors import InputError
from minbert.registry import read_tables

DECLARED: Final[dict[str, dict[str, Any]]] = read_tables(__file__, "tasks.toml")
RACE_FOLDS: Final = 5  # and so the most rounds


@dataclass(frozen=True)
class Task:
    """A task: one or more classes to learn of a text or of a pair of texts, or a number.

    Attributes:
        files: the files for training and dev that a folder given with `--data` must hold; the data
            of a task without files is embedded.
        notes: caveats that must stand wherever its scores are shown.
        parts: tasks that one model learns together; a folder may hold the files of only some.
        problem_name: of `PROBLEMS`; empty: one class for each example, or without classes a number.
        is_own: whether it is on the user's own data, with classes that this project does not know.
    """

    name: str
    classes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    problem_name: str = ""
    is_own: bool = False

    @property
    def problem(self) -> Problem:
        """What is learned, unless it has parts."""
        if self.problem_name:
            return PROBLEMS[self.problem_name]
        return SINGLE_LABEL if self.classes else REGRESSION

    @property
    def plugin(self) -> str | None:
        """The name of a plugin's problem, and the distribution and version that declare it."""
        plugin = PROBLEMS.plugin(self.problem_name)
        return plugin and f"{self.problem_name} of {plugin}"

    @property
    def kind(self) -> str:
        """The kind of its problem, or `multitask` with parts."""
        return "multitask" if self.parts else self.problem.kind

    @property
    def metric(self) -> str:
        return "overall" if self.parts else self.problem.metric

    @property
    def num_outputs(self) -> int:
        """Outputs of its head: one for each class, or one; none with parts, which have heads."""
        return 0 if self.parts else len(self.classes) or 1


@dataclass(frozen=True)
class Examples:
    """N texts, or pairs of texts, with their labels.

    Attributes:
        text_a: of words with tags, these between single spaces.
        labels: as of its problem: [N], classes or numbers; [N, C], 0 and 1; or tags [N, W].
        groups: for each example the name of what it belongs to, such as a document or an author,
            all of whose examples stay on one side of a split; None: each is by itself.
    """

    text_a: tuple[str, ...]
    text_b: tuple[str, ...] | None
    labels: Labels
    groups: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.text_a)

    def taken(self, chosen: "Sequence[int] | NDArray[np.bool_]") -> "Examples":
        """The examples at some indices, in the order of the indices, or those of a mask [N]."""
        places = np.arange(len(self))[chosen]

        def column(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[place] for place in places.tolist())

        text_b, groups = (each and column(each) for each in (self.text_b, self.groups))
        return Examples(column(self.text_a), text_b, self.labels[places], groups)

    @property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        """The first texts and, of pairs, the second texts."""
        return (self.text_a,) if self.text_b is None else (self.text_a, self.text_b)

    @property
    def by_word(self) -> bool:
        """Whether labels are those of words."""
        return are_tags(self.labels)

    @property
    def words(self) -> int:
        """The number of words with a label; 0 of other labels."""
        return int((self.labels >= 0).sum()) if self.by_word else 0

    @property
    def documents(self) -> NDArray[np.int32] | None:
        """The index of each example's group [N], of words with labels; None without groups."""
        if self.groups is None or not self.by_word:
            return None
        return np.unique(self.groups, return_inverse=True)[1].astype(np.int32)

    def split_pairs(self) -> tuple["Examples", ...]:
        """The same, each as examples of single texts."""
        return tuple(Examples(texts, None, self.labels) for texts in self.columns)

    def texts(self) -> Sequence[str]:
        """A text for each example, which decides its place in an order by digest."""
        return [*map("\t".join, zip(*self.columns, strict=True))]

    def keys(self) -> list[str]:
        """What must stay together, by example: its text, normalised, or of groups the first of
        those that are linked by equal texts."""
        texts = [normalised(text) for text in self.texts()]
        return texts if self.groups is None else joined(self.groups, texts)

    def limited(self, count: int | None) -> "Examples":
        """At most `count` examples, chosen by digest of their texts, in their order."""
        if count is None or count >= len(self):
            return self
        return self.taken(smallest(self.texts(), count))


class Sizes(NamedTuple):
    train: int
    dev: int


class Data(ABC):
    """A task's examples for training and for its dev score, whether the task has parts or not;
    `problems` are rows that could not be read, a line each."""

    task: Task
    problems: tuple[str, ...]

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, "TaskData"]:
        """The examples of each part; those of a task without parts under its own name."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of the examples and their order, train and dev."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Caveats that must stand wherever scores on these examples are shown."""
        return self.task.notes

    @abstractmethod
    def pieces(self) -> Mapping[str, "TaskData"]:
        """Examples that are tokenised by themselves, by name, which is "" without parts."""

    @property
    def sizes(self) -> Mapping[str, Sizes]:
        return {name: Sizes(len(part.train), len(part.dev)) for name, part in self.parts.items()}

    @property
    def regression(self) -> bool:
        return any(part.task.kind == "regression" for part in self.parts.values())

    @property
    def by_word(self) -> bool:
        return any(part.train.by_word for part in self.parts.values())

    @property
    def pairs_in_one(self) -> bool:
        return not self.task.parts and self.parts[self.task.name].train.text_b is not None

    @property
    def majority(self) -> float | None:
        """The dev score without learning, as of `Problem.majority`; of a part that is a regression
        that of no correlation. None for a task that is a regression."""
        if self.task.kind == "regression":
            return None
        scores = [
            part.task.problem.majority(part.train.labels, part.dev.labels)
            for part in self.parts.values()
        ]
        # (1 + r) / 2 of no correlation, as an overall score counts it
        return sum(0.5 if score is None else score for score in scores) / len(scores)


@dataclass(frozen=True)
class TaskData(Data):
    """The examples of a task without parts; `identity` is the digest of what they are a fold of."""

    task: Task
    train: Examples
    dev: Examples
    problems: tuple[str, ...] = ()
    identity: str | None = None

    @property
    def parts(self) -> Mapping[str, "TaskData"]:
        return {self.task.name: self}

    def pieces(self) -> Mapping[str, "TaskData"]:
        return {"": self}

    @cached_property
    def digest(self) -> str:
        if self.identity is not None:
            return self.identity
        digest = hashlib.sha256((self.task.plugin or self.task.kind).encode())
        for examples in (self.train, self.dev):
            texts = (*examples.text_a, "\0", *(examples.text_b or ()), "\0")
            digest.update("\n".join(texts).encode())
            digest.update(np.ascontiguousarray(examples.labels).tobytes())
        if self.task.is_own and self.task.kind == "classification":
            highest = max(int(side.labels.max(initial=-1)) for side in (self.train, self.dev))
            if highest + 1 < len(self.task.classes):  # the labels don't show their number
                digest.update(f"{len(self.task.classes)} classes".encode())
        return digest.hexdigest()


SET_ASIDE: Final = 0.1
"""Share of the training examples that a search of learning rates is scored on, ..."""
MOST_SCORED: Final = 1000
MOST_FITTED: Final = 4000
"""... and the most examples that it is scored on, and trained on."""


def set_aside(data: TaskData) -> NDArray[np.bool_]:
    """Which training examples a search of learning rates is scored on, [N], at least one: those
    that come first by digest, equal texts and groups as a whole, so that it is the same ones
    however many there are beside them."""
    keys = data.train.keys()
    places = np.array([position(f"search {key}") for key in keys])
    return np.asarray(places <= max(SET_ASIDE, places.min(initial=1.0)))


def without_searched(data: Data) -> Data:
    """The examples without those that a search of learning rates is scored on."""
    if not isinstance(data, TaskData):
        return data
    return replace(data, train=data.train.taken(~set_aside(data)))


def for_search(data: Data) -> TaskData:
    """Examples for a search of learning rates, which must not see dev: both its training and its
    dev examples are taken from `data.train`. InputError for a task with parts, whose rates are the
    grid's."""
    if not isinstance(data, TaskData):
        raise InputError(
            f"--lr auto: no rates are searched for task {data.task.name}, whose parts have factors "
            "on them; give both in the grid file and leave it out"
        )
    scored = set_aside(data)
    fitted = data.train.taken(~scored).limited(MOST_FITTED)
    return TaskData(data.task, fitted, data.train.taken(scored).limited(MOST_SCORED))


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
