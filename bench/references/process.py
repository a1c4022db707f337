"""Reference points, in a process of its own that loads torch and scikit-learn. A request is a
cell's job, the number of examples to train on, and the names of reference points."""

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from bench.common.child import serve
from bench.common.command import BAD_INPUT
from bench.common.messages import one_line
from bench.engines.engine import folder_of
from bench.examples.tokens import encode_for, tokenizer_of
from bench.plan.examples import folds_of, unchanged
from bench.plan.job import Job
from bench.plan.metrics import BY_WORD, REGRESSION
from bench.references.client import PHASE, encoder_of
from bench.references.linear import embedder, predict, scores
from bench.results.facts import FROZEN, MAJORITY, MOST_COMPARED, Reference, facts_of
from bench.results.scores import Score
from bench.stats.intervals import Floats
from bench.worker.process import tie_to_parent
from bench.worker.setup import load_examples
from minbert.data.tasks import Examples, Folds, TaskData

_MOST_CLASSES: Final = 1000
_CORRELATIONS: Final = ("pearson", "spearman")

Embed = Callable[[Examples], NDArray[Any]]  # their embeddings [N, H], or of their words [M, H]


def answers_to(request: tuple[str, int, list[str]]) -> Iterator[dict[str, Any]]:
    tie_to_parent()
    text, count, names = request
    for answer in references(Job.from_json(text), names, count):
        yield {PHASE: answer} if isinstance(answer, str) else answer.model_dump(mode="json")


def references(job: Job, names: list[str], count: int) -> Iterator[Reference | str]:
    """The named reference points of cells like a job's, trained on `count` examples, and the names
    of phases as they begin; none for a task with parts. InputError if the examples have changed
    since the cell was planned, or the encoder or its vocabulary can't be read."""
    yield "load"
    data = _load(job)
    if data is None:
        return
    problem = facts_of(data.whole if isinstance(data, Folds) else data).problem
    for name in names:
        yield f"reference point {name}"
        result: dict[str, Score] = {}
        try:
            embed = None
            if name == FROZEN:
                sets = (_compared(name, one, count) for one in _sets(data))
                embed = _embedded(job, sets, by_word=problem in BY_WORD)
            each = [_predicted(name, one, count, embed) for one in _sets(data)]
            sides, predictions, (about, *_) = zip(*each, strict=True)
            result = scores(problem, predictions, sides)
            if name == MAJORITY and problem == REGRESSION:  # constant, if another in each fold
                result |= dict.fromkeys(_CORRELATIONS)
            if len(each) > 1:
                about += f", in each of {len(each)} folds"
        except BAD_INPUT:  # the next run may find what is missing now
            raise
        except ValueError as error:
            about = f"left out: {one_line(str(error))}"
        of_encoder = encoder_of(name, job.cell)
        yield Reference(name=name, about=about, train=count, scores=result, **of_encoder)


def _load(job: Job) -> TaskData | Folds | None:
    """The examples of a job, or those of all its folds; None for a task with parts."""
    cell = job.cell
    if cell.folds is None:
        data = load_examples(job)
        return data if isinstance(data, TaskData) else None
    return unchanged(cell, folds_of(cell, folder_of(job)))


def _sets(data: TaskData | Folds) -> Iterator[TaskData]:
    return iter([data]) if isinstance(data, TaskData) else map(data.fold, range(data.count))


def _compared(name: str, data: TaskData, count: int) -> tuple[Examples, Examples]:
    """The examples that a reference point is trained on, and those that it is scored on."""
    if data.task.num_outputs > _MOST_CLASSES:
        raise ValueError(f"{data.task.num_outputs:,} classes are too many")
    train = data.train if name == MAJORITY else data.train.limited(count)
    return train, data.dev.limited(MOST_COMPARED)


def _predicted(
    name: str, data: TaskData, count: int, embed: Embed | None
) -> tuple[Examples, Floats, str]:
    """The dev examples, predictions [N, C] for them, and how these were made; ValueError
    with the reason if there is nothing to learn from."""
    train, dev = _compared(name, data, count)
    embeddings = None if embed is None else (embed(train), embed(dev))
    predictions, method = predict(name, data.task, train, dev, embeddings)
    about = f"{method}; trained on {_share(train, data.train)} training examples"
    if len(dev) < len(data.dev):
        about += f", scored on {_share(dev, data.dev)} dev examples"
    return dev, predictions, about


def _share(some: Examples, every: Examples) -> str:
    return f"{len(some):,}" if len(some) == len(every) else f"{len(some):,} of {len(every):,}"


def _embedded(job: Job, sets: Iterable[tuple[Examples, Examples]], *, by_word: bool) -> Embed:
    """The embeddings of some examples, each made once, however many sets it is in; those of words
    whenever they are wanted."""
    cell = job.cell
    tokenizer = tokenizer_of(cell.engine, Path(job.tokenizer))
    place = Path(job.checkpoint or ""), cell.pooling, job.device
    if by_word:
        of_words = embedder(*place, by_word=True)
        return lambda each: of_words(encode_for(cell, tokenizer, each), each.labels)
    rows: dict[tuple[str, ...], int] = {}
    for side in chain.from_iterable(sets):
        for texts in zip(*side.columns, strict=True):
            rows.setdefault(texts, len(rows))
    text_a, *text_b = zip(*rows, strict=True)
    encoded = tokenizer.encode(text_a, text_b[0] if text_b else None, cell.max_length)
    vectors = embedder(*place)(encoded)
    return lambda each: vectors[[rows[texts] for texts in zip(*each.columns, strict=True)]]


if __name__ == "__main__":
    sys.exit(serve(answers_to))
