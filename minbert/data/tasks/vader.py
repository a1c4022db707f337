"""The embedded tasks: rated sentences of film and product reviews, editorials and tweets.

Data: C.J. Hutto and Eric Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
of Social Media Text", ICWSM 2014 (MIT). Each sentence has the mean of at least ten people's
ratings from -4 to 4.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from minbert.data.tasks.base import Examples, Task
from minbert.data.tasks.splitting import SIDES, sides
from minbert.errors import InputError

FIVE: Final = (-2.4, -0.8, 0.8, 2.4)
"""Ratings at which the classes above the first begin."""
THREE: Final = (-0.5, math.nextafter(0.5, 1))
_NAMES: Final = {
    FIVE: ("very negative", "negative", "neutral", "positive", "very positive"),
    THREE: ("negative", "neutral", "positive"),
}


@dataclass(frozen=True)
class _Source:
    """A file of ratings. `documents`: whether ids begin with the name of a document and an
    underscore."""

    about: str
    file: str
    edges: tuple[float, ...]
    documents: bool
    notes: tuple[str, ...] = ()


_SOURCES: Final = {
    "movies": _Source(
        "sentences of film reviews",
        "movieReviewSnippets_GroundTruth.txt",
        FIVE,
        False,
        ("movies and sst share their sentences: neither is evidence beside the other",),
    ),
    "amazon": _Source(
        "sentences of product reviews", "amazonReviewSnippets_GroundTruth.txt", THREE, True
    ),
    "nyt": _Source(
        "sentences of newspaper editorials", "nytEditorialSnippets_GroundTruth.txt", THREE, True
    ),
    "tweets": _Source("tweet-like texts", "tweets_GroundTruth.txt", THREE, False),
}
_RATING: Final = "-rating"


def _tasks() -> dict[str, Task]:
    tasks = {}
    for name, source in _SOURCES.items():
        classes = _NAMES[source.edges]
        about = f"{source.about}: sentiment in {len(classes)} classes"
        tasks[name] = Task(name, about, classes, notes=source.notes)
    for name, source in _SOURCES.items():
        rating = name + _RATING
        tasks[rating] = Task(rating, f"{source.about}: mean rating, -4 to 4", notes=source.notes)
    return tasks


TASKS: Final = _tasks()


def file_of(task: Task) -> str:
    """The name, in the asset's folder, of the file of one of `TASKS`."""
    return _SOURCES[task.name.removesuffix(_RATING)].file


def load(task: Task, folder: Path) -> dict[str, Examples]:
    """The examples of one of `TASKS` on each side, from the folder of the fetched asset.

    Raises:
        InputError: for a file that can't be read.
    """
    source = _SOURCES[task.name.removesuffix(_RATING)]
    identities, ratings, texts = read_rows(folder / source.file)
    documents = tuple(identity.partition("_")[0] for identity in identities)
    labels = np.searchsorted(source.edges, ratings, side="right") if task.classes else ratings
    groups = documents if source.documents else None
    everything = Examples(texts, None, labels, groups)
    side_of = np.array(sides(texts, groups))
    return {side: everything.taken(np.flatnonzero(side_of == side).tolist()) for side in SIDES}


def read_rows(path: Path) -> tuple[tuple[str, ...], NDArray[np.float64], tuple[str, ...]]:
    """Ids, ratings and texts of a file, whose content is as pinned: `fetch` compares its digest.

    Raises:
        InputError: for a file that can't be read, or is another.
    """
    try:
        lines = path.read_bytes().decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
        identities, ratings, texts = zip(*(line.split("\t") for line in lines), strict=True)
        return identities, np.array(ratings, dtype=np.float64), texts
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: can't be read ({error}); `python -m minbert.assets fetch vader` gets it again"
        ) from error
