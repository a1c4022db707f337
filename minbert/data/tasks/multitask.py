"""The task of several parts: sentiment, paraphrase and similarity, learned by one model."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from minbert.data.tasks import cs224n
from minbert.data.tasks.base import Data, Task, TaskData
from minbert.errors import InputError
from minbert.files import is_file, is_folder

PARTS: Final = ("sst", "quora", "sts")
PAIRS: Final = ("quora", "sts")
"""Parts whose examples are pairs; both texts go through the encoder separately."""

TASK: Final = Task(
    "multitask",
    f"{', '.join(PARTS)}: learned together by one model",
    files=tuple(file for part in PARTS for file in cs224n.TASKS[part].files),
    notes=tuple(f"{part}: {note}" for part in PARTS for note in cs224n.TASKS[part].notes),
    parts=PARTS,
)
TASKS: Final = {TASK.name: TASK}


@dataclass(frozen=True)
class MultitaskData(Data):
    """The examples of the parts whose files a folder holds.

    Attributes:
        by_part: by name in the order of `PARTS`.
        missing: a line for each part whose files are missing.
    """

    task: Task
    by_part: Mapping[str, TaskData]
    problems: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def parts(self) -> Mapping[str, TaskData]:
        """The examples of each part."""
        return self.by_part

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the parts' names and digests."""
        digests = " ".join(f"{part} {data.digest}" for part, data in self.parts.items())
        return hashlib.sha256(f"{self.task.kind} {digests}".encode()).hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of the parts, and lines on missing parts."""
        notes = [f"{part}: {note}" for part, data in self.parts.items() for note in data.notes]
        return (*notes, *self.missing)

    def pieces(self) -> Mapping[str, TaskData]:
        """The first texts of each part, and the second texts of pairs."""
        pieces = {}
        for part, data in self.parts.items():
            sides = zip(data.train.split_pairs(), data.dev.split_pairs(), strict=True)
            for number, (train, dev) in enumerate(sides, start=1):
                pieces[f"{part}.{number}"] = TaskData(data.task, train, dev)
        return pieces


def parts_in(folder: Path) -> list[str]:
    """The parts whose files a folder holds, in the order of `PARTS`."""
    return [part for part in PARTS if not _absent(part, folder)]


def load(folder: Path, load_part: Callable[[str], TaskData]) -> MultitaskData:
    """The examples of the parts that a folder holds, each loaded by its name.

    Raises:
        InputError: no such folder, one without any part, or a file of another kind.
    """
    if not is_folder(folder):
        raise InputError(f"--data {folder}: is no folder")
    parts = parts_in(folder)
    if not parts:
        raise InputError(
            f"--data {folder}: task {TASK.name} needs both files of at least one of "
            f"{', '.join(PARTS)} there, such as {' and '.join(cs224n.TASKS[PARTS[0]].files)}"
        )
    loaded = {part: load_part(part) for part in parts}
    problems = [problem for data in loaded.values() for problem in data.problems]
    missing = tuple(
        f"{TASK.name} without {part}, as {' and '.join(absent)} can't be found"
        for part in PARTS
        if (absent := _absent(part, folder))
    )
    return MultitaskData(TASK, loaded, tuple(problems), missing)


def _absent(part: str, folder: Path) -> list[str]:
    return [file for file in cs224n.TASKS[part].files if not is_file(folder / file)]
