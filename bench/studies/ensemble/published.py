"""Published scores of leading models, to be shown below an ensemble's.

`published.csv` has a row for each: the task as it is called here, the model with its parameters
where they are known, the score and its metric, what it was scored on, and the paper.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from bench.plan.cell import MULTITASK

_OTHER: Final = {
    "sst": "SST-5's test sentences",
    "quora": "QQP's dev pairs as in GLUE, by models that trained on all of its train",
    "sts": "STS-B's dev pairs as in GLUE",
    MULTITASK: "the authors' own data, with Quora pairs to train on that are not here",
}
"""What the published scores of a task were scored on."""


def caveat(task: str) -> str:
    """What has to be said wherever the published scores of a task are shown."""
    other = _OTHER.get(task, "other examples")
    return f"published scores, of {other}: what can be reached, not what was compared"


@dataclass(frozen=True)
class Published:
    """A score from a paper; `parameters` are the model's, None where the row has none."""

    task: str
    model: str
    parameters: int | None
    score: float
    metric: str
    split: str
    source: str


@cache
def published(task: str) -> tuple[Published, ...]:
    """Those of a task, lowest first; none of a task that the file lacks."""
    text = files("bench.studies.ensemble").joinpath("published.csv").read_text("utf-8")
    found = [
        Published(
            task=row["task"],
            model=row["model"],
            parameters=int(row["parameters"]) if row["parameters"] else None,
            score=float(row["score"]),
            metric=row["metric"],
            split=row["split"],
            source=row["source"],
        )
        for row in csv.DictReader(text.splitlines())
        if row["task"] == task
    ]
    return tuple(sorted(found, key=lambda of: of.score))
