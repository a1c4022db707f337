"""Command lines that repeat what a report shows."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from bench.analysis.groups import Group
from bench.common.errors import InputError
from bench.plan import gridfile
from bench.plan.cell import GRID, SEARCHED, Row
from bench.plan.planning import Resolved, expand
from bench.report import selections
from bench.report.selections import Point
from bench.report.text import count
from minbert.data.tasks import TASKS

_MOST_CELLS: Final = 100_000
"""Of a grid among which those of a group are looked for."""
_MOST_GRIDS: Final = 8
"""Whose commands are shown, of those that planned a group."""


@dataclass(frozen=True)
class Repeat:
    """Command lines, and sentences on what they do."""

    said: Sequence[str]
    lines: Sequence[str]


def commands(
    group: Group, sources: Sequence[str], *, alone: bool = True, code_version: str | None = None
) -> Repeat:
    """Command lines that repeat a group, one of its cells, and this report.

    A grid that does not come with the project is named as its file, which its user has; the folder
    of a task's files is left to fill in. Rates that a search found are searched again.

    Args:
        alone: whether the report has no other group.
        code_version: the one whose rows alone it shows.
    """
    parts = _parts(group)
    found = [part.repeated() for part in parts[:_MOST_GRIDS]]
    whole = [line for lines, _ in found for line in lines]
    first = next(part for part in parts if any(row is group.first for row in part.rows))
    runs = " ".join(shlex.quote(_line(name)) for name in sources) or "runs.csv"
    narrow = "" if code_version is None else f" --code-version {shlex.quote(_line(code_version))}"
    report = f"python -m bench.report --runs {runs} --reports reports/{narrow}"
    said = (
        f"{'All of it' if alone else 'All of the first group'}"
        f"{f' ({len(whole)} commands)' if len(whole) > 1 else ''}, one cell"
        f"{'' if alone else ' of it'}, and this report without running anything. A task that is "
        "read from a folder takes --data beside it, a checkpoint in a folder its path as --model."
    )
    notes = [note for _, note in found if note]
    if len(parts) > len(found):
        notes.append(f"The other cells are of {count(len(parts) - len(found), 'grid')} more.")
    return Repeat([said, *notes], [*whole, first.one(group.first), report])


@dataclass(frozen=True)
class _Part:
    """The rows of a group that one grid planned, with its rates or with those of a search.

    `options` are those of a command for all cells of the grid.
    """

    grid: str
    searched: bool
    rows: Sequence[Row]
    seeds: int
    options: str

    @cached_property
    def known(self) -> dict[Point, Point] | None:
        """The places of all cells of the grid; None where it can't be read here or is too big."""
        name = _file(self.grid)
        if "/" in name or not name.isprintable():  # it is looked for here, not elsewhere
            return None
        try:
            grid = gridfile.with_settings(gridfile.load(name), {"seeds": 1})
        except InputError:
            return None
        if self.seeds * sum(axes.most_cells for axes in grid.cells) > _MOST_CELLS:
            return None
        kinds = [str(row["amp"]) for row in self.rows if row.get("amp") not in (None, "off")]
        resolved = Resolved(
            model="", model_digest="", pooling="", data_digest="",
            amp_on=kinds[0] if kinds else "bf16", learning_rate_source=GRID,
        )  # fmt: skip
        return selections.points(expand(grid, resolved), self.seeds, searched=self.searched)

    def repeated(self) -> tuple[list[str], str]:
        """The commands for all of its cells, and what there is to say of others that they plan."""
        wanted = list(dict.fromkeys(self._place(row) for row in self.rows))
        known = self.known
        if known is None:
            return [self._command("")], (
                f"Which cells grid {self.grid} has can't be told here, so its command may plan "
                "more than are shown."
            )
        if not known.keys() >= set(wanted):
            return [self._command("")], (
                f"As it is here, grid {self.grid} does not plan all of the cells that are shown."
            )
        found, planned = selections.exactly([known[one] for one in wanted], list(known.values()))
        lines = [self._command(each) for each in found]
        if planned == len(wanted):
            return lines, ""
        return lines, (
            f"Of grid {self.grid} {'this plans' if len(lines) == 1 else 'these plan'} "
            f"{count(planned, 'cell')}, and {len(wanted):,} are shown: --select takes every "
            "combination of the values that it names."
        )

    def one(self, row: Row) -> str:
        """The command for one of its cells; it names all axes where the grid's aren't known."""
        place = self._place(row)
        if self.known is None or place not in self.known:
            selection = _line(selections.named(place))
        else:
            selection, _ = selections.narrow([self.known[place]], list(self.known.values()))
        return f"{self._command(selection)} --rerun ok"

    def _place(self, row: Row) -> Point:
        return selections.point(row, searched=self.searched)

    def _command(self, selection: str) -> str:
        search = " --lr auto" if self.searched else ""
        select = f" --select {shlex.quote(selection)}" if selection else ""
        return f"python -m bench.grid {self.options}{search}{select}"


def _parts(group: Group) -> list[_Part]:
    """Those with a grid's own rates first."""
    found: dict[tuple[bool, str], list[Row]] = {}
    for row in group.ordered:
        grid = _line(str(row.get("grid") or group.shared("grid") or "full"))
        found.setdefault((row.get("learning_rate_source") == SEARCHED, grid), []).append(row)
    seeds = 1 + max(int(row.get("seed") or 0) for row in group.rows)
    further = _options(group, seeds)
    return [
        _Part(grid, searched, rows, seeds, f"--grid {shlex.quote(_file(grid))} {further}")
        for (searched, grid), rows in sorted(found.items())
    ]


def _options(group: Group, seeds: int) -> str:
    values = {name: group.shared(name) for name in ("model", "init", "task", "epochs")}
    values |= {name: group.shared(name) for name in ("max_steps", "max_train", "max_dev")}
    options = [
        f"--{name.replace('_', '-')} {shlex.quote(_line(str(value)))}"
        for name, value in values.items()
        if value is not None
    ]
    options.append(f"--seeds {seeds}")
    if (repeats := max(int(row.get("repeat") or 1) for row in group.rows)) > 1:
        options.append(f"--repeats {repeats}")
    task = TASKS.get(str(group.shared("task")))
    if task is not None and task.files:
        options.append("--data DIR")
    options.append(f"--device {shlex.quote(_line(str(group.shared('device') or 'auto')))}")
    return " ".join(options)


def _file(grid: str) -> str:
    """A grid as `--grid` takes it."""
    return grid if grid in gridfile.names() else f"{grid}.toml"


def _line(text: str) -> str:
    return " ".join(text.split())
