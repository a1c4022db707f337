"""Published scores of leading models, shown below an ensemble's: those of published.toml."""

import tomllib
from pathlib import Path
from typing import Any, Final, NamedTuple

_BY_TASK: Final[dict[str, dict[str, Any]]] = tomllib.loads(
    Path(__file__).with_name("published.toml").read_text(encoding="utf-8")
)


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
    scores = _BY_TASK.get(task, {}).get("scores", [])
    each = [Published(**{"task": task, "parameters": None, **score}) for score in scores]
    return sorted(each, key=lambda published: published.score)


def caveat(task: str) -> str:
    other = _BY_TASK[task]["examples"] if task in _BY_TASK else "other examples"
    return f"published scores, of {other}: what can be reached, not what was compared"
