"""Command lines that repeat what a report shows."""

import shlex
from collections.abc import Sequence
from typing import Final

from bench.analysis.groups import Group
from bench.plan import gridfile
from bench.plan.cell import SEARCHED
from bench.plan.columns import format_value
from bench.plan.metrics import ROW_METRICS
from bench.plan.rows import Row
from bench.plan.selection import AXES
from minbert.data.tasks import TASKS

NOTE: Final = (
    "The grids of the cells at the top, one of these cells, and this report without running "
    "anything. A grid may have more cells than are shown here; --select narrows it. A task that is "
    "read from a folder also takes --data; a checkpoint in a folder takes its path as --model."
)
_MOST_GRIDS: Final = 8


def commands(group: Group, sources: Sequence[str], code_version: str | None = None) -> list[str]:
    """Command lines for the grids of a group, for one of its cells, and for this report.

    A user's own grid is named by its file; the folder of a task's files is left for the user to
    fill in. Rates that a search chose are searched again.
    """
    options = _options(group)
    grids = sorted({_grid(group, row) for row in group.rows})[:_MOST_GRIDS]
    lines = [f"python -m bench.grid --grid {grid} {options}{search}" for search, grid in grids]
    search, grid = _grid(group, group.first)
    one = f"python -m bench.grid --grid {grid} {options}{search} --select {_cell(group, search)}"
    runs = " ".join(map(_word, sources)) or "runs.csv"
    narrow = "" if code_version is None else f" --code-version {_word(code_version)}"
    if group.metric and group.metric not in ROW_METRICS:
        narrow += f" --metric {group.metric}"
    report = f"python -m bench.report --runs {runs} --reports reports/{narrow}"
    return [*lines, f"{one} --rerun ok", report]


def _grid(group: Group, row: Row) -> tuple[str, str]:
    """The option of a search if the row's rates are of one, and the name or file of its grid."""
    grid = row.grid or str(group.shared("grid") or "full")
    search = " --lr auto" if row.learning_rate_source == SEARCHED else ""
    return search, _word(grid if grid in gridfile.names() else f"{grid}.toml")


def _cell(group: Group, search: str) -> str:
    """A selection of the group's representative cell, by its rate too where rates vary."""
    row = group.first
    values = {name: row[name] for name in AXES}
    if row.mode == "head":
        values["learning_rate"] = row.learning_rate_head
    if search or not any(setting.tells_rate for setting in group.settings):
        values["learning_rate"] = None
    texts = {name: format_value(value) for name, value in values.items()}
    return _word(" ".join(f"{name}={text}" for name, text in texts.items() if text))


def _options(group: Group) -> str:
    names = ("model", "init", "task", "folds", "epochs", "max_steps", "max_train", "max_dev")
    options = [
        f"--{name.replace('_', '-')} {_word(value)}"
        for name in names
        if (value := group.shared(name)) is not None
    ]
    options.append(f"--seeds {1 + max(row.seed for row in group.rows)}")
    if (repeats := max(row.repeat for row in group.rows)) > 1:
        options.append(f"--repeats {repeats}")
    task = TASKS.get(str(group.shared("task")))
    if task is not None and task.files:
        options.append("--data DIR")
    options.append(f"--device {_word(group.shared('device') or 'auto')}")
    return " ".join(options)


def _word(value: object) -> str:
    """A value as one word of a command line, without line breaks."""
    return shlex.quote(" ".join(str(value).split()))
