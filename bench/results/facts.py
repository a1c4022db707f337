"""What is in the data of a file of results: its classes, what checks found, and reference points.

They stand in `runs.data.json` next to runs.csv, by the rows' `data_digest`, so that a report can
show them on a machine that does not have the data.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from bench.plan.cell import Cell, Value
from bench.plan.dataset import Checks
from bench.plan.metrics import SINGLE_LABEL, WORDS, metric_of
from bench.plan.rows import Row
from bench.results.datafile import DataFile
from minbert.data.tasks import TaskData
from minbert.data.words import FEWEST_ENTITIES, FEWEST_HITS, entities_in

MAJORITY: Final = "majority"
TFIDF: Final = "tf-idf"
FROZEN: Final = "frozen"
REFERENCES: Final = (MAJORITY, TFIDF, FROZEN)
FEWEST: Final = 15
"""Fewest dev examples of a class with which intervals of metrics by class hold about 95%."""
MOST_NEW: Final = 10
"""Most entities whose words are kept and shown."""
_LONGEST: Final = 100  # characters of one
MOST_COMPARED: Final = 10_000
"""Most examples that reference points are trained on, and scored on."""


class Reference(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False):
    """A score to compare others with, of a method without fine-tuning.

    Attributes:
        about: a line on how it was obtained, or why it was left out.
        model_digest, pooling, max_length, window_stride: of the encoder, for `frozen`.
        scores: by metric, the value and both ends of its 95% interval; None: not defined. Empty if
            it was left out.
    """

    name: str
    about: str
    train: int
    model_digest: str | None = None
    pooling: str | None = None
    max_length: int | None = None
    window_stride: int = 0
    scores: dict[str, tuple[float, float | None, float | None] | None]

    @property
    def encoder(self) -> tuple[Value, ...]:
        return self.model_digest, self.pooling, self.max_length, self.window_stride


class FinalScore(BaseModel, extra="forbid", frozen=True):
    """The score of one setting on test examples, scored once whatever the training was."""

    setting: str
    cell_id: str
    seed: int
    metric: str  # the one by which the setting was chosen
    dev: float  # its score on dev
    test: str  # the name of the file, or of the split
    digest: str  # of the test examples
    examples: int
    scores: dict[str, tuple[float, float | None, float | None] | None]  # as of `Reference`
    at: str  # when it was measured, UTC, ISO 8601


class DataFacts(BaseModel, extra="forbid", frozen=True):
    """Facts on one set of examples.

    Attributes:
        problem: the name of this project's, as of `Problem.stored_as`, or `multitask` with parts.
        plugin: of a plugin's problem, its name and distribution, as of `Task.plugin`.
        source: the names of the files, without folders, or the name on the hub.
        given: how a command line described the data, as of `DataSpec.given`.
        classes: their names, in the order of the labels.
        train, dev: numbers of examples; of folds, all of them and 0.
        class_counts: of each class, or of the entities of each type, in train and in dev; empty
            without classes.
        words: in train and in dev, if these have tags; else 0.
        new_entities: of the entities of dev, in their order, a bit that is 1 where training has
            none with the same words and type, in hexadecimal.
        most_new: the most frequent of the latter: type, words, and how often dev has it.
        tokens_of: digest of the vocabulary whose tokens were counted, and the model's positions.
    """

    task: str
    problem: str
    plugin: str = ""
    source: str = ""
    given: dict[str, str] = {}
    classes: tuple[str, ...] = ()
    train: int
    dev: int
    class_counts: dict[str, tuple[int, int]] = {}
    words: tuple[int, int] = (0, 0)
    new_entities: str = Field("", pattern="^([0-9a-f]{2})*$")
    most_new: tuple[tuple[str, str, int], ...] = Field((), max_length=MOST_NEW)
    checks: Checks | None = None
    tokens_of: str = ""
    references: tuple[Reference, ...] = ()
    final: FinalScore | None = None

    def describes(self, data: TaskData, given: Mapping[str, str], tokens_of: str) -> bool:
        """Whether these are facts on the same examples, described alike, in the same tokens."""
        own = self.classes, self.given, self.tokens_of
        return own == (data.task.classes, given, tokens_of) and self.checks is not None

    def with_scores_of(self, known: "DataFacts | None") -> "DataFacts":
        """These facts, with the reference points and the test score of earlier ones."""
        if known is None:
            return self
        return self.model_copy(update={"references": known.references, "final": known.final})

    def __or__(self, other: "DataFacts") -> "DataFacts":
        """These facts with the reference points of others on the same data, and of two scores on
        test examples the first: they are scored once."""

        def key(one: Reference) -> tuple[object, ...]:
            return one.name, one.train, one.encoder

        every = {key(one): one for one in (*other.references, *self.references)}
        every |= {key(one): one for one in other.references if not every[key(one)].scores}
        own = self if self.checks else other
        finals = sorted(filter(None, (self.final, other.final)), key=lambda final: final.at)
        more = {"references": (*every.values(),), "final": finals[0] if finals else None}
        return own.model_copy(update=more)

    def without_texts(self) -> "DataFacts":
        checks = self.checks and self.checks.without_texts()
        return self.model_copy(update={"checks": checks})

    @property
    def totals(self) -> tuple[int, int]:
        """What `class_counts` are shares of, in train and in dev: examples, or all entities."""
        if not self.words[0]:
            return self.train, self.dev
        train, dev = map(sum, zip(*self.class_counts.values(), strict=True))
        return train, dev

    @property
    def is_new(self) -> NDArray[np.bool_]:
        """Of each entity of dev whether training has none with the same words and type; empty where
        that is not known."""
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(self.new_entities), np.uint8))
        return bits[: self.totals[1]].astype(bool)

    @property
    def majority(self) -> tuple[str, float] | None:
        """The most frequent class of the training examples, of several the first, and its share of
        the dev examples, or of all where these are in folds; None unless each example has one
        class."""
        if self.problem != SINGLE_LABEL or not self.class_counts:
            return None
        name = max(self.class_counts, key=lambda name: self.class_counts[name][0])
        train, dev = self.class_counts[name]
        return name, dev / self.dev if self.dev else train / self.train

    def caution(self, metric: str) -> str:
        """A warning if the rarest class has too few dev examples for a metric's intervals, or dev
        too few entities."""
        side = 1 if self.dev else 0
        if (total := self.totals[side]) < FEWEST_ENTITIES and self.problem == WORDS:
            return (
                f"{'dev has' if side else 'there are'} {total:,} entities; with fewer than "
                f"{FEWEST_ENTITIES}, or {FEWEST_HITS} predicted right, intervals are by "
                "bootstrap, and no setting is shown to be better"
            )
        few = [(n[side], name) for name, n in self.class_counts.items() if 0 < n[side] < FEWEST]
        known = metric_of(metric)
        if not few or not known.by_class or self.problem not in known.problems:
            return ""
        number, name = min(few)
        return (
            f"dev has {number} of class {name!r}; with fewer than {FEWEST} of a class, intervals "
            f"of {known.label} are too narrow (docs/measuring.md#small-samples)"
        )

    def trained_on(self, cell: Cell | Row) -> int:
        """How many examples linear models for a cell train on: at most those its steps see."""
        steps = (cell.max_steps or self.train) * (cell.batch_size or 1)
        return min(self.train, MOST_COMPARED, steps)

    def references_for(self, cell: Cell | Row) -> list[Reference]:
        encoder = (cell.model_digest, cell.pooling, cell.max_length, cell.window_stride)
        known = {
            reference.name: reference
            for reference in self.references
            if (reference.name == MAJORITY or reference.train == self.trained_on(cell))
            and reference.encoder in (encoder, (None, None, None, 0))
        }
        return [known[name] for name in REFERENCES if name in known]


def facts_of(data: TaskData, source: str = "", checks: Checks | None = None) -> DataFacts:
    classes = data.task.classes
    problem, sides = data.task.problem, (data.train, data.dev)
    train, dev = (problem.counted(side.labels, classes) if classes else {} for side in sides)
    new, most_new = "", []
    if checks is not None and problem.stored_as == WORDS:
        train_entities, entities = (entities_in(side.text_a, side.labels) for side in sides)
        known = {*train_entities}
        is_new = np.array([each not in known for each in entities], dtype=bool)
        new = np.packbits(is_new).tobytes().hex()
        counts = Counter(each for each in entities if each not in known)
        most_new = [
            (classes[2 * kind + 1][2:], words[:_LONGEST], count)
            for (kind, words), count in counts.most_common(MOST_NEW)
        ]
    return DataFacts(
        task=data.task.name,
        problem=problem.stored_as,
        plugin=data.task.plugin or "",
        source=source,
        classes=classes,
        train=len(data.train),
        dev=len(data.dev),
        class_counts={name: (count, dev[name]) for name, count in train.items()},
        words=(sides[0].words, sides[1].words),
        new_entities=new,
        most_new=tuple(most_new),
        checks=checks,
    )


KnownFacts = Mapping[str, DataFacts]
"""Facts by the `data_digest` of rows."""
NO_FACTS: Final[KnownFacts] = MappingProxyType({})
FACTS: Final = DataFile(".data.json", DataFacts, "reference points and scores on test examples")
update_facts: Final = FACTS.update


def read_facts(*runs: Path) -> dict[str, DataFacts]:
    """The facts of some CSVs by `data_digest`; of the same data in several, those of the last one
    united with the others'."""
    every: dict[str, DataFacts] = {}
    for path in runs:
        for digest, facts in FACTS.read(path).items():
            every[digest] = facts | every[digest] if digest in every else facts
    return every
