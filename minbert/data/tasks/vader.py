"""The embedded tasks: rated sentences of film and product reviews, editorials and tweets.

Data: C.J. Hutto and Eric Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
of Social Media Text", ICWSM 2014 (MIT). Each sentence has the mean of at least ten people's
ratings from -4 to 4.
"""

from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final

import numpy as np

from minbert.data.tasks.base import Examples, Task
from minbert.data.tasks.splitting import SIDES, sides
from minbert.errors import InputError

Edge = tuple[Decimal, bool]
"""The rating at which a class begins, and whether that rating is in it."""

_FIVE: Final = tuple((Decimal(edge), True) for edge in ("-2.4", "-0.8", "0.8", "2.4"))
_THREE: Final = ((Decimal("-0.5"), True), (Decimal("0.5"), False))
_NAMES: Final = {
    _FIVE: ("very negative", "negative", "neutral", "positive", "very positive"),
    _THREE: ("negative", "neutral", "positive"),
}


@dataclass(frozen=True)
class _Source:
    """A file of ratings. `documents`: whether ids begin with the name of a document and an
    underscore."""

    about: str
    file: str
    edges: tuple[Edge, ...]
    documents: bool
    notes: tuple[str, ...] = ()


_SOURCES: Final = {
    "movies": _Source(
        "sentences of film reviews",
        "movieReviewSnippets_GroundTruth.txt",
        _FIVE,
        False,
        ("movies and sst share their sentences: neither is evidence beside the other",),
    ),
    "amazon": _Source(
        "sentences of product reviews", "amazonReviewSnippets_GroundTruth.txt", _THREE, True
    ),
    "nyt": _Source(
        "sentences of newspaper editorials", "nytEditorialSnippets_GroundTruth.txt", _THREE, True
    ),
    "tweets": _Source("tweet-like texts", "tweets_GroundTruth.txt", _THREE, False),
}
_RATING: Final = "-rating"
_HIGHEST: Final = 4


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


def class_of(rating: Decimal, edges: tuple[Edge, ...]) -> int:
    """The class of a rating, in decimal numbers, since many ratings lie exactly on an edge."""
    return sum(rating > edge or (included and rating == edge) for edge, included in edges)


def file_of(task: Task) -> str:
    """The name, in the asset's folder, of the file of one of `TASKS`."""
    return _SOURCES[task.name.removesuffix(_RATING)].file


def load(task: Task, folder: Path) -> dict[str, Examples]:
    """The examples of one of `TASKS` on each side, from the folder of the fetched asset.

    Raises:
        InputError: for a file that is damaged.
    """
    source = _SOURCES[task.name.removesuffix(_RATING)]
    rows = read_rows(folder / source.file)
    texts = [text for _, _, text in rows]
    documents = [identity.partition("_")[0] for identity, _, _ in rows]
    ratings = [rating for _, rating, _ in rows]
    labels = (
        np.array([class_of(rating, source.edges) for rating in ratings], dtype=np.int64)
        if task.classes
        else np.array(ratings, dtype=np.float64)
    )
    everything = Examples(tuple(texts), None, labels)
    side_of = np.array(sides(texts, documents if source.documents else None))
    return {side: everything.taken(np.flatnonzero(side_of == side).tolist()) for side in SIDES}


def read_rows(path: Path) -> list[tuple[str, Decimal, str]]:
    """Id, rating and text of each line.

    Raises:
        InputError: for a file that can't be read, or its first malformed line.
    """
    rows: list[tuple[str, Decimal, str]] = []
    try:
        content = path.read_bytes().replace(b"\r\n", b"\n").removesuffix(b"\n")
        for line in content.split(b"\n"):
            identity, rating, text = line.decode().split("\t")
            rows.append((identity, _rating(rating), text))
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error
    except ValueError as error:
        why = f" ({error})" if isinstance(error, _NoRatingError) else ""
        raise InputError(
            f"{path}: is damaged at line {len(rows) + 1}{why}; `python -m minbert.assets fetch "
            "vader` gets it again"
        ) from error
    return rows


class _NoRatingError(ValueError):
    """A field that holds no rating."""


def _rating(text: str) -> Decimal:
    with suppress(InvalidOperation):
        if -_HIGHEST <= (rating := Decimal(text)) <= _HIGHEST:
            return rating
    raise _NoRatingError(f"{text[:20]!r} is no rating from -{_HIGHEST} to {_HIGHEST}")
