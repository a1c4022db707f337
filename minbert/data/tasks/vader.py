"""The embedded tasks: rated sentences of film and product reviews, editorials and tweets.

Data: C.J. Hutto and Eric Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
of Social Media Text", ICWSM 2014 (MIT). Each sentence has the mean of at least ten people's
ratings from -4 to 4.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from minbert.data.tasks.base import DECLARED, Examples, Task
from minbert.data.tasks.splitting import SIDES, sides
from minbert.errors import reading

_SOURCES: Final = DECLARED["vader"]
_RATING: Final = "-rating"


_OF_CLASSES: Final = {
    name: Task(name, source["classes"], notes=source.get("notes", ()))
    for name, source in _SOURCES.items()
}
TASKS: Final = _OF_CLASSES | {
    name + _RATING: replace(task, name=name + _RATING, classes=())
    for name, task in _OF_CLASSES.items()
}


def file_of(task: Task) -> str:
    return str(_SOURCES[task.name.removesuffix(_RATING)]["file"])


def load(task: Task, folder: Path) -> dict[str, Examples]:
    """The examples of one of `TASKS` on each side, from the folder of the fetched asset. InputError
    for a file that can't be read."""
    source = _SOURCES[task.name.removesuffix(_RATING)]
    identities, ratings, texts = read_rows(folder / source["file"])
    documents = tuple(identity.partition("_")[0] for identity in identities)
    labels = np.searchsorted(source["edges"], ratings, side="right") if task.classes else ratings
    everything = Examples(texts, None, labels, documents if source["documents"] else None)
    side_of = np.array(sides(texts, everything.groups))
    return {side: everything.taken(side_of == side) for side in SIDES}


def read_rows(path: Path) -> tuple[tuple[str, ...], NDArray[np.float64], tuple[str, ...]]:
    """Ids, ratings and texts of a file, whose content is as pinned: `fetch` compares its digest.
    InputError for a file that can't be read, or is another."""
    with reading(path, end="; `python -m minbert.assets fetch vader` gets it again"):
        lines = path.read_bytes().decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
        identities, ratings, texts = zip(*(line.split("\t") for line in lines), strict=True)
        return identities, np.array(ratings, dtype=np.float64), texts
