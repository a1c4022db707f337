"""Published scores of leading models, shown below an ensemble's.

`published.csv` has a row for each: task, model, parameters where known, score, metric, the examples
it was scored on (`split`), and the paper.
"""

import csv
from importlib.resources import files
from typing import Final, NamedTuple

from bench.plan.cell import MULTITASK

_OTHER: Final = {
    "sst": "SST-5's test sentences",
    "quora": "QQP's dev pairs as in GLUE, by models that trained on all of its train",
    "sts": "STS-B's dev pairs as in GLUE",
    MULTITASK: "the authors' own data, with Quora pairs to train on that are not here",
}
"""The examples that published scores of a task are from."""


def caveat(task: str) -> str:
    """The caveat to print with a task's published scores."""
    other = _OTHER.get(task, "other examples")
    return f"published scores, of {other}: what can be reached, not what was compared"


class Published(NamedTuple):
    """A score from a paper; `parameters` of the model are None where not known."""

    task: str
    model: str
    parameters: int | None
    score: float
    metric: str
    split: str
    source: str


def published(task: str) -> list[Published]:
    """A task's published scores, lowest first."""
    text = files("bench.studies.ensemble").joinpath("published.csv").read_text("utf-8")
    _, *rows = csv.reader(text.splitlines())
    scores = [
        Published(name, model, int(parameters) if parameters else None, float(score), *rest)
        for name, model, parameters, score, *rest in rows
        if name == task
    ]
    return sorted(scores, key=lambda each: each.score)
