"""The tasks: embedded ones, and those whose files are in a folder given with `--data`.

Embedded are rated sentences of film and product reviews, editorials and tweets: C.J. Hutto and Eric
Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM
2014 (MIT). Each sentence has the mean of at least ten people's ratings from -4 to 4.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from minbert.data.tasks import cs224n, prepared
from minbert.data.tasks.base import DECLARED
from minbert.data.tasks.base import RACE_FOLDS as RACE_FOLDS
from minbert.data.tasks.base import Data as Data
from minbert.data.tasks.base import Examples as Examples
from minbert.data.tasks.base import Folds as Folds
from minbert.data.tasks.base import Sizes as Sizes
from minbert.data.tasks.base import Task as Task
from minbert.data.tasks.base import TaskData as TaskData
from minbert.data.tasks.base import for_race as for_race
from minbert.data.tasks.base import for_search as for_search
from minbert.data.tasks.base import without_searched as without_searched
from minbert.data.tasks.splitting import DEV, SIDES, TEST, TRAIN, sides
from minbert.errors import InputError, reading

_SOURCES: Final = DECLARED["vader"]
_RATING: Final = "-rating"
_OF_CLASSES: Final = {
    name: Task(name, source["classes"], notes=source.get("notes", ()))
    for name, source in _SOURCES.items()
}
_RATED: Final = _OF_CLASSES | {
    name + _RATING: replace(task, name=name + _RATING, classes=())
    for name, task in _OF_CLASSES.items()
}
TASKS: Final[Mapping[str, Task]] = {
    **_RATED,
    **cs224n.TASKS,
    cs224n.MULTITASK.name: cs224n.MULTITASK,
}


def file_of(task: Task) -> str:
    return str(_SOURCES[task.name.removesuffix(_RATING)]["file"])


def load_rated(task: Task, folder: Path) -> dict[str, Examples]:
    """The examples of an embedded task on each side, from the folder of its asset. InputError
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


def find_task(name: str, data: Path | None = None) -> Task:
    """The task of that name, or that of a folder of prepared examples. InputError listing the names
    there are, or for prepared examples that are gone."""
    if data is not None and prepared.is_prepared(data):
        return prepared.read_prepared(data).task
    if data is not None and name not in TASKS:
        raise InputError(
            f"the examples of {name} are no longer in the cache, in {data}; start the grid again, "
            "which reads the data anew"
        )
    if name not in TASKS:
        raise InputError(f"no task is called {name!r}; there are {', '.join(TASKS)}")
    return TASKS[name]


def load_data(
    name: str, data: Path | None = None, *, max_train: int | None = None, max_dev: int | None = None
) -> Data:
    """A task's examples, or those of its parts, for training and dev; never those for test.
    InputError: unknown name, `data` missing or without its files, or a failed download.

    Args:
        data: the folder that holds its files; None for an embedded task, which is fetched.
        max_train, max_dev: keep at most so many examples of each part, the same ones whatever the
            seed; a smaller number keeps a subset of what a larger one keeps.
    """
    task = find_task(name, data)
    for flag, count in (("--max-train", max_train), ("--max-dev", max_dev)):
        if count is not None and count < 1:
            raise InputError(f"{flag} {count}: give at least 1")
    folder = _folder(task, data)
    if task.parts:
        return cs224n.load_parts(
            folder, partial(load_task, data=data, max_train=max_train, max_dev=max_dev)
        )
    problems: list[str] = []
    if prepared.is_prepared(folder):
        examples = prepared.load(folder, task)
    elif task.files:
        examples, problems = cs224n.load(task, folder)
    else:
        examples = load_rated(task, folder)
    train, dev = examples[TRAIN].limited(max_train), examples[DEV].limited(max_dev)
    return TaskData(task, train, dev, tuple(problems))


def load_task(name: str, data: Path | None = None, **limits: int | None) -> TaskData:
    """As `load_data`, of a task without parts; `limits` are `max_train` and `max_dev`. InputError
    as `load_data`, or for a task with parts."""
    task = find_task(name, data)
    loaded = None if task.parts else load_data(name, data, **limits)
    if not isinstance(loaded, TaskData):
        raise InputError(f"task {task.name} has parts; take one of {', '.join(task.parts)}")
    return loaded


def load_test(name: str) -> Examples:
    """The test examples of an embedded task, which nothing but a final score may read. InputError
    for a task without labelled test examples, or a failed download."""
    task = find_task(name)
    if task.files:
        raise InputError(f"task {task.name} has no test examples with labels")
    return load_rated(task, _folder(task, None))[TEST]


def source_files(name: str, data: Path | None = None) -> list[Path]:
    """The files that a task's examples are read from, whether they exist or not; of a task with
    parts those that do. Prepared examples, which never change, have none. InputError: unknown name,
    `data` missing, or a failed download of an embedded task."""
    task = find_task(name, data)
    folder = _folder(task, data)
    if task.is_own:
        return []
    parts = [TASKS[part] for part in cs224n.parts_in(folder)] if task.parts else [task]
    return [folder / file for part in parts for file in part.files or (file_of(part),)]


def _folder(task: Task, data: Path | None) -> Path:
    """The folder of a task's files; those of an embedded task are fetched."""
    if task.files:
        if data is None:
            raise InputError(
                f"task {task.name} needs --data DIR, a folder with {' and '.join(task.files)}"
            )
        return data
    if data is not None:
        reading = ", ".join(name for name, other in TASKS.items() if other.files)
        raise InputError(f"--data: task {task.name} comes embedded; a folder is for {reading}")
    from minbert.assets.embedded import fetch

    return fetch("vader")
