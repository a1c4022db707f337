"""From `--data` to examples that workers can read: recognised, read, split, and prepared once; and
the flags that describe the user's own data, shared by the commands that read it.

A validation share is split off by digest of the texts, or of the groups, so it is the same for
every cell and on every machine.
"""

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from pydantic import ValidationError

from bench.common.command import options_in
from bench.common.errors import InputError
from bench.common.files import remove_oldest
from bench.common.progress import Console
from bench.examples.reading import read
from bench.plan.dataset import HUB, DataSpec
from bench.plan.gridfile import DEFAULT_TASK
from bench.plan.metrics import PROBLEM_NAMES, SINGLE_LABEL
from minbert.assets.cache import cache_folder
from minbert.data.tasks import TASKS, Examples, Task, TaskData
from minbert.data.tasks.prepared import Prepared, write
from minbert.data.tasks.splitting import stratified
from minbert.files import is_file, is_folder

DEV_PARTS: Final = 10
"""Without a validation file one part of so many becomes the dev examples."""
_MOST_FOLDERS: Final = 16
"""Most sets of prepared examples in the cache; the one used longest ago is removed first."""
_GENERIC: Final = {"train", "training", "data", "dataset", "all", "examples"}
"""Names of files that say nothing about their content: their folder's name is taken."""
PATH: Final = "FILE|DIR|hub:NAME"


@dataclass(frozen=True)
class Source:
    """The origin of a run's examples."""

    task: str
    folder: Path | None  # of the task's files or the prepared examples; None for an embedded task
    files: str = ""  # names of the files as the user gave them, without folders
    given: Mapping[str, str] = field(default_factory=dict)  # as of `DataSpec.given`
    notes: tuple[str, ...] = ()  # what was inferred and left out, a line each


def find_source(task: str | None, spec: DataSpec | None, *, folds: bool = False) -> Source:
    """The examples that a task's name and a description of data stand for; with `folds` no dev set
    is announced. InputError for data that can't be read or used, or a task that does not fit it."""
    if spec is None:
        return Source(task or DEFAULT_TASK, None)
    if (course := _course_task(task, spec)) is not None:
        return Source(course, Path(spec.path), Path(spec.path).name)
    return _prepare(_name_of(task, spec), spec, folds)


def _course_task(task: str | None, spec: DataSpec) -> str | None:
    """The task whose files, in the format of the course, a folder has; None: it has none."""
    if task in TASKS:
        if spec.is_on_hub or is_file(spec.path):
            raise InputError(
                f"--task {task} is a task that this tool knows, and --data {spec.path} is not its "
                "folder; leave --task out, or give the data a name of its own with it"
            )
        _check_plain(spec)
        return task  # its files are looked for when they are read
    if spec.is_on_hub or not is_folder(spec.path):
        return None
    names = [
        name
        for name, known in TASKS.items()
        if known.files and all(is_file(Path(spec.path, file)) for file in known.files)
    ]
    if not names:
        return None
    _check_plain(spec)
    if len(names) > 1:
        raise InputError(
            f"--data {spec.path}: has the files of {', '.join(names)}; choose one with --task"
        )
    return names[0]


def _check_plain(spec: DataSpec) -> None:
    if given := spec.model_dump(exclude_defaults=True).keys() - {"path"}:
        raise InputError(
            f"{flag_of(min(given))} does not apply to --data {spec.path}, a folder in the format "
            "of the course"
        )


def _name_of(task: str | None, spec: DataSpec) -> str:
    if task is not None:
        return task
    if spec.is_on_hub:
        base = spec.path.partition(":")[2].partition("@")[0].rpartition("/")[2]
        name = f"{base}-{spec.config}" if spec.config else base
    else:
        path = Path(spec.path).absolute()
        name = path.name.partition(".")[0] if path.suffix else path.name
        if name.lower() in _GENERIC:
            name = path.parent.name or name
    name = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:50] or "data"
    return f"{name}-data" if name in TASKS else name


def _prepare(name: str, spec: DataSpec, folds: bool) -> Source:
    if spec.test is not None and not spec.test.startswith(HUB) and not is_file(spec.test):
        raise InputError(f"--test {spec.test}: there is no such file")
    with Console(stderr=True).status(f"reading {spec.path}"):
        data = read(spec)
        problem, classes = data.spec.problem or SINGLE_LABEL, data.spec.classes
        task = Task(name, classes, problem_name=problem, is_own=True)
        train, dev, notes = data.examples, data.validation, [*data.notes]
        if dev is None:
            train, dev = _split(train, task)
            if not folds:
                notes.append(
                    f"no validation file: {len(dev):,} of {len(train) + len(dev):,} examples, "
                    "chosen by digest, are the dev examples"
                )
        if spec.drop_leaks:
            before = len(train)
            train = _without_leaks(TaskData(task, train, dev))
            notes.append(
                f"--drop-leaks: {before - len(train):,} of {before:,} training examples dropped, "
                "whose text, or a near duplicate of it, is in dev"
            )
        examples = TaskData(task, train, dev)
        about = data.spec.inside(Path.cwd()).model_dump(mode="json", exclude_defaults=True)
        prepared = Prepared.of(examples, about)
        folder = write(cache_folder() / "data", prepared, examples)
    remove_oldest(folder.parent.iterdir(), _MOST_FOLDERS, folder)
    files = ", ".join(Path(path).name for path in (spec.path, spec.validation) if path)
    if spec.is_on_hub:
        files = f"{spec.path} ({spec.config})" if spec.config else spec.path
    return Source(name, folder, files, spec.given, tuple(notes))


def _split(examples: Examples, task: Task) -> tuple[Examples, Examples]:
    """Split off the dev examples: strata in equal shares, groups and equal texts together. A class
    whose only examples would be dev examples stays in training."""
    keys = examples.keys()
    is_dev = stratified(keys, task.problem.strata(examples.labels), DEV_PARTS) == 0
    if task.kind == "classification":
        only_dev = np.setdiff1d(examples.labels[is_dev], examples.labels[~is_dev])
        back = {keys[index] for index in np.flatnonzero(np.isin(examples.labels, only_dev))}
        if back:
            is_dev &= np.array([key not in back for key in keys])
    if not is_dev.any() or is_dev.all():
        raise InputError(
            f"{len(examples):,} examples in {len(set(keys)):,} groups or distinct texts are too "
            "few to split dev examples off; give more, or --validation FILE"
        )
    return examples.taken(~is_dev), examples.taken(is_dev)


def _without_leaks(data: TaskData) -> Examples:
    from bench.examples.checks import leaks

    kept = np.ones(len(data.train), dtype=bool)
    kept[leaks(data)] = False
    if not kept.any():
        raise InputError("--drop-leaks: the text of every training example is in dev")
    return data.train.taken(kept)


def _listed(text: str) -> tuple[str, ...]:
    """Names separated by commas; those with commas of their own are in double quotes."""
    try:
        [names] = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        raise click.UsageError(f"--classes {text!r}: give names separated by commas") from error
    return tuple(name.strip() for name in names)


_add_details: Final = options_in(
    __file__,
    "options.toml",
    {"problem": click.Choice(PROBLEM_NAMES), "classes": click.types.FuncParamType(_listed)},
)


def flag_of(field: str) -> str:
    return "--data-config" if field == "config" else f"--{field.replace('_', '-')}"


def with_details(function: Callable[..., int]) -> Callable[..., int]:
    """Add the flags that describe data to a command, which receives those given as a dict named
    `data`. The command declares `path` itself."""

    @wraps(function)
    def command(**values: Any) -> int:
        given = {name: values.pop(name, None) for name in DataSpec.model_fields}
        data = {name: value for name, value in given.items() if value not in (None, False)}
        return function(data=data, **values)

    return _add_details(command)


with_data: Final = options_in(__file__, "data.toml", groups={"data": with_details})


def merged(spec: DataSpec | None, given: dict[str, Any]) -> DataSpec | None:
    """A grid file's description of data with the flags that were given; None: neither.
    click.UsageError for flags without data that they describe."""
    if not given:
        return spec
    if spec is None and "path" not in given:
        flag = flag_of(next(name for name in DataSpec.model_fields if name in given))
        raise click.UsageError(f"{flag} describes data: give it with --data")
    if spec is not None and "path" in given:
        spec = None  # other data: what the file says of its own does not fit
    try:
        return DataSpec.model_validate({**(spec.model_dump() if spec else {}), **given})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        flag = "--data" if name in ("path", "test") else flag_of(name)
        raise click.UsageError(f"{flag}: give a name that is not empty") from error
