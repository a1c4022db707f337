"""Command lines that repeat what a report shows."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from bench.analysis.groups import Group
from bench.common.errors import InputError
from bench.plan import gridfile
from bench.plan.cell import GRID, SEARCHED
from bench.plan.planning import Resolved, expand
from bench.plan.rows import Row
from bench.report import selections
from bench.report.selections import Point
from bench.report.text import count
from minbert.data.tasks import TASKS

_MOST_CELLS: Final = 100_000
"""Cells of the largest grid that is searched for the cells of a group."""
_MOST_GRIDS: Final = 8
"""Grids of a group whose commands are shown."""


@dataclass(frozen=True)
class Repeat:
    """Command lines, and sentences that explain them."""

    notes: Sequence[str]
    lines: Sequence[str]


def commands(
    group: Group, sources: Sequence[str], *, alone: bool = True, code_version: str | None = None
) -> Repeat:
    """Command lines that repeat a group, one of its cells, and this report.

    A user's own grid is named by its file; the folder of a task's files is left for the user to
    fill in. Rates that a search found are searched again.

    Args:
        alone: whether the report has no other group.
        code_version: the only version of the code whose rows it shows.
    """
    parts = _parts(group)
    repeated = [part.repeated() for part in parts[:_MOST_GRIDS]]
    whole = [line for lines, _ in repeated for line in lines]
    first = next(part for part in parts if any(row is group.first for row in part.rows))
    runs = " ".join(shlex.quote(_line(name)) for name in sources) or "runs.csv"
    narrow = "" if code_version is None else f" --code-version {shlex.quote(_line(code_version))}"
    report = f"python -m bench.report --runs {runs} --reports reports/{narrow}"
    about = (
        f"{'All of it' if alone else 'All of the first group'}"
        f"{f' ({len(whole)} commands)' if len(whole) > 1 else ''}, one cell"
        f"{'' if alone else ' of it'}, and this report without running anything. A task that is "
        "read from a folder also takes --data; a checkpoint in a folder takes its path as --model."
    )
    notes = [note for _, note in repeated if note]
    if len(parts) > _MOST_GRIDS:
        notes.append(f"The other cells are of {count(len(parts) - _MOST_GRIDS, 'more grid')}.")
    return Repeat([about, *notes], [*whole, first.one(group.first), report])


@dataclass(frozen=True)
class _Part:
    """The rows of a group that come from one grid, all with its rates or all with searched ones.

    `options` are the options of a command for the whole grid.
    """

    grid: str
    searched: bool
    rows: Sequence[Row]
    seeds: int
    options: str

    @cached_property
    def known(self) -> dict[Point, Point] | None:
        """The points of all cells of the grid; None if it can't be read here or is too big."""
        name = _file(self.grid)
        if "/" in name or not name.isprintable():  # only files of this folder are read
            return None
        try:
            grid = gridfile.with_settings(gridfile.load(name), {"seeds": 1})
        except InputError:
            return None
        if self.seeds * sum(axes.most_cells for axes in grid.cells) > _MOST_CELLS:
            return None
        kinds = [row.amp for row in self.rows if row.amp not in (None, "off")]
        resolved = Resolved(
            model="", model_digest="", pooling="", data_digest="",
            amp_on=kinds[0] if kinds else "bf16", learning_rate_source=GRID,
        )  # fmt: skip
        return selections.points(expand(grid, resolved), self.seeds, searched=self.searched)

    def repeated(self) -> tuple[list[str], str]:
        """The commands for all of its cells, and a note if they plan others too, or may."""
        shown = list(dict.fromkeys(self._point(row) for row in self.rows))
        known = self.known
        if known is None:
            return [self._command("")], (
                f"The cells of grid {self.grid} are not known here, so its command may plan more "
                "than are shown."
            )
        if not known.keys() >= set(shown):
            return [self._command("")], (
                f"As it is here, grid {self.grid} does not plan all of the cells that are shown."
            )
        texts, planned = selections.selections([known[one] for one in shown], known.values())
        lines = [self._command(text) for text in texts]
        if planned == len(shown):
            return lines, ""
        return lines, (
            f"Of grid {self.grid} {'this plans' if len(lines) == 1 else 'these plan'} "
            f"{count(planned, 'cell')}, and {len(shown):,} are shown: --select takes every "
            "combination of the values that it names."
        )

    def one(self, row: Row) -> str:
        """The command for one of its cells; it names all axes if the grid's are not known."""
        point = self._point(row)
        if self.known is None or point not in self.known:
            selection = _line(selections.named(point))
        else:
            selection, _ = selections.narrow([self.known[point]], self.known.values())
        return f"{self._command(selection)} --rerun ok"

    def _point(self, row: Row) -> Point:
        return selections.point(row, searched=self.searched)

    def _command(self, selection: str) -> str:
        search = " --lr auto" if self.searched else ""
        select = f" --select {shlex.quote(selection)}" if selection else ""
        return f"python -m bench.grid {self.options}{search}{select}"


def _parts(group: Group) -> list[_Part]:
    """The parts of a group, those with a grid's own rates first."""
    rows_of: dict[tuple[bool, str], list[Row]] = {}
    for row in group.ordered:
        grid = _line(row.grid or str(group.shared("grid") or "full"))
        rows_of.setdefault((row.learning_rate_source == SEARCHED, grid), []).append(row)
    seeds = 1 + max(row.seed for row in group.rows)
    options = _options(group, seeds)
    return [
        _Part(grid, searched, rows, seeds, f"--grid {shlex.quote(_file(grid))} {options}")
        for (searched, grid), rows in sorted(rows_of.items())
    ]


def _options(group: Group, seeds: int) -> str:
    names = ("model", "init", "task", "epochs", "max_steps", "max_train", "max_dev")
    options = [
        f"--{name.replace('_', '-')} {shlex.quote(_line(str(value)))}"
        for name in names
        if (value := group.shared(name)) is not None
    ]
    options.append(f"--seeds {seeds}")
    if (repeats := max(row.repeat for row in group.rows)) > 1:
        options.append(f"--repeats {repeats}")
    task = TASKS.get(str(group.shared("task")))
    if task is not None and task.files:
        options.append("--data DIR")
    options.append(f"--device {shlex.quote(_line(str(group.shared('device') or 'auto')))}")
    return " ".join(options)


def _file(grid: str) -> str:
    """The value of `--grid` for a grid: its name, or the file of a user's own."""
    return grid if grid in gridfile.names() else f"{grid}.toml"


def _line(text: str) -> str:
    return " ".join(text.split())
