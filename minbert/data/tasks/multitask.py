"""The task of several parts: sentiment, paraphrase and similarity, learned by one model."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from minbert.data.tasks import cs224n
from minbert.data.tasks.base import Sizes, Task, TaskData
from minbert.data.tasks.splitting import DEV, TRAIN
from minbert.errors import InputError
from minbert.files import is_file, is_folder

PARTS: Final = ("sst", "quora", "sts")
PAIRS: Final = ("quora", "sts")
"""Parts whose examples are pairs: their two texts go through the encoder by themselves."""
_BY_CHANCE: Final = 0.5
"""What a correlation of 0 counts, (1 + r) / 2."""

TASK: Final = Task(
    "multitask",
    f"{', '.join(PARTS)}: learned together by one model",
    files=tuple(file for part in PARTS for file in cs224n.TASKS[part].files),
    notes=tuple(f"{part}: {note}" for part in PARTS for note in cs224n.TASKS[part].notes),
    parts=PARTS,
)
TASKS: Final = {TASK.name: TASK}


@dataclass(frozen=True)
class MultitaskData:
    """The examples of the parts that are there, by name in the order of `PARTS`; it is `Data`.

    `missing` tells which parts are not there, a line each.
    """

    task: Task
    parts: Mapping[str, TaskData]
    missing: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """As of `Data`."""
        return tuple(problem for data in self.parts.values() for problem in data.problems)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the parts' names and digests."""
        told = " ".join(f"{part} {data.digest}" for part, data in self.parts.items())
        return hashlib.sha256(f"{self.task.kind} {told}".encode()).hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """As of `Data`: those of the parts that are there, and which are not."""
        said = [f"{part}: {note}" for part, data in self.parts.items() for note in data.notes]
        return (*said, *self.missing)

    @property
    def sizes(self) -> Mapping[str, Sizes]:
        """As of `Data`."""
        return {part: data.sizes[part] for part, data in self.parts.items()}

    @property
    def regression(self) -> bool:
        """As of `Data`."""
        return any(data.regression for data in self.parts.values())

    @property
    def pairs_in_one(self) -> bool:
        """As of `Data`."""
        return False

    @property
    def majority(self) -> float | None:
        """As of `Data`."""
        found = [data.majority for data in self.parts.values()]
        scores = [_BY_CHANCE if score is None else score for score in found]
        return sum(scores) / len(scores)

    def pieces(self) -> Mapping[str, TaskData]:
        """As of `Data`: the first texts of a part, and the second ones of pairs."""
        return {
            piece: TaskData(data.task, train, dev)
            for part, data in self.parts.items()
            for piece, train, dev in zip(
                pieces_of_part(part), data.train.apart(), data.dev.apart(), strict=True
            )
        }


def pieces_of_part(part: str) -> tuple[str, ...]:
    """Names of what is tokenised by itself of a part."""
    return (f"{part}.1", f"{part}.2") if part in PAIRS else (f"{part}.1",)


def parts_in(folder: Path) -> list[str]:
    """The parts whose files a folder holds, in the order of `PARTS`."""
    return [part for part in PARTS if not _absent(part, folder)]


def files_in(folder: Path) -> list[Path]:
    """The files of those parts."""
    return [folder / file for part in parts_in(folder) for file in cs224n.TASKS[part].files]


def load(folder: Path, max_train: int | None, max_dev: int | None) -> MultitaskData:
    """The examples of the parts that a folder holds, each cut to so many.

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
    found = {}
    for part in parts:
        task = cs224n.TASKS[part]
        examples, problems = cs224n.load(task, folder)
        found[part] = TaskData(
            task,
            examples[TRAIN].limited(max_train),
            examples[DEV].limited(max_dev),
            tuple(problems),
        )
    missing = [f"{TASK.name} without {_absent_text(part, folder)}" for part in PARTS
               if part not in found]  # fmt: skip
    return MultitaskData(TASK, found, tuple(missing))


def _absent(part: str, folder: Path) -> list[str]:
    return [file for file in cs224n.TASKS[part].files if not is_file(folder / file)]


def _absent_text(part: str, folder: Path) -> str:
    absent = _absent(part, folder)
    verb = "is" if len(absent) == 1 else "are"
    return f"{part}, as {' and '.join(absent)} {verb} not there"
