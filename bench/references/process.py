"""Computes reference points in a process of its own, `python -m bench.references.process FOLDER`.

`bench.references.client` starts it with the names of reference points as further arguments, so that
the planning process loads neither torch nor scikit-learn. It reads the job of a cell in the folder,
and writes each reference point to a file there as soon as it is known.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.common.command import BAD_INPUT
from bench.common.files import write_atomically
from bench.common.messages import one_line
from bench.examples import tokens
from bench.plan.job import Job
from bench.references.client import OUTPUT
from bench.references.embeddings import embedder
from bench.references.linear import Floats, predict
from bench.references.scores import scores
from bench.results.facts import FROZEN, MAJORITY, MOST_COMPARED, Reference, facts_of
from bench.results.protocol import RESULT
from bench.results.scores import Score
from bench.worker import lifeline
from bench.worker.progress import Progress
from bench.worker.setup import load_examples
from minbert.data.tasks import Examples, TaskData
from minbert.data.tasks.splitting import smallest

_MOST_CLASSES: Final = 1000
_WITH_ENCODER: Final = ("model_digest", "pooling", "max_length")

Indices = NDArray[np.int64]


def main(folder: Path, count: int, names: list[str]) -> int:
    """Compute the named reference points, trained on `count` examples; returns the exit code."""
    lifeline.attach()
    found: list[Reference] = []
    try:
        for reference in references(Job.read(folder), names, count, Progress.from_environment()):
            found.append(reference)
            values = [each.model_dump(mode="json") for each in found]
            write_atomically(folder / OUTPUT, json.dumps(values).encode())
    except BAD_INPUT as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    write_atomically(folder / RESULT, b'{"status": "ok"}\n')
    return 0


def references(job: Job, names: list[str], count: int, progress: Progress) -> Iterator[Reference]:
    """The named reference points of cells like a job's; none for a task with parts."""
    progress.phase("load")
    folds = [
        (each, data) for each in _folds(job) if isinstance(data := load_examples(each), TaskData)
    ]
    for name in names:
        progress.phase(f"reference point {name}")
        of_encoder = {}
        if name == FROZEN:
            of_encoder = {column: getattr(job.cell, column) for column in _WITH_ENCODER}
        result: dict[str, Score] = {}
        try:
            each = [_predicted(name, fold, data, count) for fold, data in folds]
            labels = np.concatenate([one.dev.labels for one in each])
            predictions = np.concatenate([one.predictions for one in each])
            result = scores(facts_of(folds[0][1]).problem, predictions, labels)
            about = each[0].about
            if len(each) > 1:
                about += f", in each of {len(each)} folds"
        except BAD_INPUT:  # the next run may find what is missing now
            raise
        except ValueError as error:
            about = f"left out: {one_line(str(error))}"
        yield Reference(name=name, about=about, train=count, scores=result, **of_encoder)


def _folds(job: Job) -> list[Job]:
    """The job, or one for each of its folds."""
    cell = job.cell
    if cell.folds is None:
        return [job]
    return [replace(job, cell=replace(cell, fold=fold)) for fold in range(cell.folds)]


@dataclass(frozen=True)
class _Predicted:
    """The dev examples that count, predictions [N, C] for them, and how these were made."""

    dev: Examples
    predictions: Floats
    about: str


def _predicted(name: str, job: Job, data: TaskData, count: int) -> _Predicted:
    """The predictions of a reference point for a job's dev examples.

    Raises:
        ValueError: if there is nothing to learn from; the message says why.
    """
    if data.task.num_outputs > _MOST_CLASSES:
        raise ValueError(f"{data.task.num_outputs:,} classes are too many")
    dev_kept = np.array(smallest(data.dev.texts(), MOST_COMPARED))
    dev = data.dev.taken(dev_kept.tolist())
    most = len(data.train) if name == MAJORITY else count
    kept = np.array(smallest(data.train.texts(), most))
    train = data.train.taken(kept.tolist())
    embeddings = _embeddings(job, data, kept, dev_kept) if name == FROZEN else None
    predictions, method = predict(name, data.task, train, dev, embeddings)
    about = f"{method}; trained on {_share(train, data.train)} training examples"
    if len(dev) < len(data.dev):
        about += f", scored on {_share(dev, data.dev)} dev examples"
    return _Predicted(dev, predictions, about)


def _share(some: Examples, every: Examples) -> str:
    return f"{len(some):,}" if len(some) == len(every) else f"{len(some):,} of {len(every):,}"


def _embeddings(job: Job, data: TaskData, train: Indices, dev: Indices) -> tuple[Floats, Floats]:
    """Embeddings of the training and of the dev examples at some indices."""
    tokenizer, folder = Path(job.tokenizer), None if job.data is None else Path(job.data)
    pieces = tokens.read(job.cell, tokenizer, folder) or tokens.make(
        data, job.cell, tokenizer, folder
    )
    embed = embedder(Path(job.checkpoint or ""), job.cell.pooling, job.device)
    texts, dev_texts = pieces[""]
    return embed(texts.encoded.taken(train)), embed(dev_texts.encoded.taken(dev))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
