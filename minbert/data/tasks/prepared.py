"""Tasks on the user's own data: examples that were read, checked and split, in a folder.

The folder has `task.json` (name, problem, classes, digest, and where the data came from) and
`train.jsonl` and `dev.jsonl`, an example a line: its text `a`, the second text `b` of a pair, its
`label` (the index of a class, a number, or the indices of several labels) and the `group` that it
belongs to, if there are groups.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from minbert.data.problems import PROBLEMS, problem_of
from minbert.data.tasks.base import Examples, Task, TaskData
from minbert.data.tasks.splitting import DEV, TRAIN
from minbert.errors import InputError, reading
from minbert.files import is_file, read_json

FILE: Final = "task.json"
_FORMAT: Final = 1
_SIDES: Final = (TRAIN, DEV)


@dataclass(frozen=True)
class Prepared:
    """The content of `task.json`."""

    name: str
    problem: str  # a name of `PROBLEMS`
    classes: tuple[str, ...]  # their names, in the order of the labels; empty for a regression
    digest: str
    spec: dict[str, Any] = field(default_factory=dict)  # what the user said about the data, as JSON
    plugin: str = ""  # the problem as of `Task.plugin`; empty: it is this project's
    format: int = _FORMAT

    @classmethod
    def of(cls, data: TaskData, spec: dict[str, Any] | None = None) -> "Prepared":
        task = data.task
        names = task.name, task.problem.name, task.classes
        return cls(*names, data.digest, spec or {}, task.plugin or "")

    @property
    def task(self) -> Task:
        return Task(self.name, self.classes, (FILE,), problem_name=self.problem, is_own=True)


def is_prepared(folder: Path | None) -> bool:
    return folder is not None and is_file(folder / FILE)


def read_prepared(folder: Path) -> Prepared:
    """The content of a folder's `task.json`. InputError if it can't be read or used here."""
    values = read_json(folder / FILE)
    try:
        prepared = Prepared(**values)
        if prepared.format != _FORMAT:
            raise ValueError("another format")
        prepared = replace(prepared, classes=tuple(prepared.classes))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{folder / FILE}: is of another version ({error}); start the grid again, which reads "
            "the data anew"
        ) from error
    installed = (prepared.problem in PROBLEMS and prepared.task.plugin) or ""
    if installed != prepared.plugin:
        raise InputError(
            f"{folder / FILE}: the problem is {prepared.plugin or prepared.problem}, and "
            f"{installed or 'no plugin with it'} is installed; install that version, or start the "
            "grid again"
        )
    return prepared


def load(folder: Path, task: Task) -> dict[str, Examples]:
    """Train and dev of the task in a folder. InputError for a file that is missing or broken."""
    return {side: _read(folder / f"{side}.jsonl", task) for side in _SIDES}


def _read(path: Path, task: Task) -> Examples:
    again = "; start the grid again, which writes it anew"
    with reading(path, KeyError, TypeError, IndexError, end=again):
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        return Examples(
            tuple(row["a"] for row in rows),
            tuple(row["b"] for row in rows if "b" in row) or None,
            task.problem.read([row["label"] for row in rows], len(task.classes)),
            tuple(row["group"] for row in rows if "group" in row) or None,
        )


def write(cache: Path, prepared: Prepared, data: TaskData) -> Path:
    """The folder of examples in a cache of such folders, written now unless it is there. Its name
    is a digest of `prepared`, so that the same examples described otherwise have another.
    InputError if it can't be written, or is full."""
    content = json.dumps(asdict(prepared), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    folder = cache / hashlib.sha256(content.encode()).hexdigest()[:32]
    try:
        with suppress(InputError):
            if read_prepared(folder) == prepared:
                mark_used(folder)
                return folder
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".part-", dir=cache, ignore_cleanup_errors=True
        ) as part:
            for side, examples in zip(_SIDES, (data.train, data.dev), strict=True):
                with Path(part, f"{side}.jsonl").open("w", encoding="utf-8") as file:
                    file.writelines(lines(examples))
            Path(part, FILE).write_text(content, encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)  # damaged, or it was found above
            with suppress(FileExistsError):
                Path(part).rename(folder)
    except OSError as error:
        raise InputError(
            f"{cache}: can't keep the examples there ({error.strerror or error}); "
            "MINBERT_CACHE=DIR names another folder"
        ) from error
    return folder


def mark_used(folder: Path) -> None:
    """Note that a folder of examples is in use, so that others are removed before it."""
    with suppress(OSError):  # of a cache that can only be read
        os.utime(folder)


def lines(examples: Examples, classes: Sequence[str] = ()) -> Iterator[str]:
    """A line of JSON for each example. Where names of the classes are given, labels are names, and
    words with tags are lists."""
    written = problem_of(examples.labels).written
    for index, text in enumerate(examples.text_a):
        values: dict[str, Any] = {"a": text}
        if examples.text_b is not None:
            values["b"] = examples.text_b[index]
        label = written(examples.labels[index])
        if classes:
            label = [classes[n] for n in label] if isinstance(label, list) else classes[label]
        values["label"] = label
        if classes and examples.by_word:
            values = {"tokens": text.split(" "), "tags": label}
        if examples.groups is not None:
            values["group"] = examples.groups[index]
        yield json.dumps(values, ensure_ascii=False) + "\n"
