"""Measures two sides in alternation, cell by cell and round by round, until all is decided.

A round is a repeat: every cell runs once on both sides, BASE first in odd rounds and NEW first in
even ones, in an order that each round permutes, and each time by a `bench.grid` of its own. On
several devices, or shares of the CPU's cores, each setting stays on one of them in all rounds.
"""

import json
import os
import sys
from argparse import ArgumentError, ArgumentParser
from collections.abc import Collection, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from math import ceil
from pathlib import Path
from threading import Event
from typing import Any, Final

from bench.analysis.comparison import Comparison, Limits, Pair, Verdict, compare
from bench.analysis.matching import SIDES, Side
from bench.common.errors import InputError, StoppedError
from bench.common.grouping import grouped
from bench.common.messages import command_line, echo, last_error
from bench.common.progress import progress_bar
from bench.compare.sides import Location
from bench.launch.locks import Locks, device_locks
from bench.launch.signals import Signals
from bench.machine.conditions import Target, find_slots, usable_threads
from bench.machine.devices import ALL
from bench.machine.environment import recorded
from bench.plan.cell import digest
from bench.plan.selection import AXES, parse_selection
from bench.results.rescoring import read_results
from bench.results.rowfile import read_rows

_LOOKS: Final = 3
"""How often at most what varies is looked at: more looks cost more of the 5% than they save."""
_OWN: Final = (
    "--grid", "--select", "--repeats", "--runs", "--reports", "--dry-run", "--json", "--lr",
    "--rerun", "--budget",
)  # fmt: skip
"""Options of bench.grid that can't be passed on."""
_Cell = Mapping[str, Any]  # a cell as in the JSON of a plan


@dataclass(frozen=True)
class CellPair:
    """Cells of both sides that are compared with one another; `runs` has by side the ids of the
    cells that each text of --select selects: one, or several if they differ in no axis."""

    name: str
    setting: str  # digest of the axes in which they agree, seed and fold left out
    runs: Mapping[Side, Mapping[str, Set[str]]]

    @property
    def ids(self) -> set[str]:
        return {one for side in self.runs.values() for ids in side.values() for one in ids}


def cell_pairs(
    cells: Mapping[Side, Sequence[_Cell]], chosen: Collection[str], named: Collection[str]
) -> list[CellPair]:
    """The cells that both sides have, matched by their axes, with a note on all others; InputError
    if there are none. They were selected by the chosen axes, and may differ in those among them
    that are `named`, and in axes that one side does not have."""
    differ = {*named, *(["learning_rate"] if "mode" in named else [])}
    differ |= {a for a in AXES for side in cells.values() if all(_axis(c, a) is None for c in side)}
    shared = [axis for axis in AXES if axis not in differ]
    runs: dict[Side, dict[tuple[Any, ...], dict[str, set[str]]]] = {side: {} for side in SIDES}
    names: dict[tuple[Any, ...], str] = {}
    for side, of_side in cells.items():
        axes = [a for a in AXES if a in chosen or len({_axis(cell, a) for cell in of_side}) > 1]
        for cell in of_side:
            key = tuple(_axis(cell, axis) for axis in shared)
            names.setdefault(key, cell["name"])
            values = {axis: value for axis in axes if (value := _axis(cell, axis)) is not None}
            text = " ".join(f"{axis}={value}" for axis, value in values.items())
            runs[side].setdefault(key, {}).setdefault(text, set()).add(cell["cell_id"])
    both = runs["BASE"].keys() & runs["NEW"].keys()
    if not both:
        raise InputError("--run: BASE and NEW have no cell in common")
    for side in SIDES:
        if alone := sorted(names[key] for key in runs[side].keys() - both):
            echo(f"note: left out, only in {side}: {', '.join(alone)}", err=True)
    of_setting = [i for i, axis in enumerate(shared) if axis not in ("seed", "fold")]
    return [
        CellPair(name, digest([key[i] for i in of_setting]), {s: runs[s][key] for s in SIDES})
        for key, name in names.items()
        if key in both
    ]


def _axis(cell: _Cell, axis: str) -> Any:
    if axis == "learning_rate" and cell["mode"] == "head":
        return cell.get("learning_rate_head")
    return cell.get(axis)


@dataclass(frozen=True, kw_only=True)
class Alternation:
    """Two sides to measure in alternation, with further options of bench.grid, of which several
    devices or jobs are of the alternation. Without places, `terms` are those of --base and --new,
    as in --select."""

    places: Sequence[Path]  # checkouts or virtual environments of both; empty: this checkout
    grid: str
    selection: str = ""
    terms: tuple[str, str] = ("", "")
    rounds: int  # at most
    folder: Path  # where each pair of sides gets a folder for its results
    options: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)

    def measure(self) -> tuple[list[Path], frozenset[str], int]:
        """Measure until every setting is decided, or for the most rounds: the files of BASE's and
        NEW's results, the axes in which matching cells may differ, and how often at most the sides
        were compared. Results of an earlier run count if its code, packages, cells, devices and
        threads were the same. InputError for bad input, before anything is written, and if a side
        can't go on; StoppedError if the user stopped it, after printing how to go on."""
        chosen, named = self._axes()
        slots, options = several_slots(self.options)
        here: list[Any] = [usable_threads(), recorded(os.environ, on_gpu=True)]
        here += [[slot.device_name, sorted(slot.cores)] for slot in slots]
        paths = zip(SIDES, self.places or (None, None), strict=True)
        locations = {side: Location.of(side, path) for side, path in paths}
        with Signals() as signals:
            try:
                cells = {
                    side: self._cells(locations[side], terms, [*options, *_device(slots)], signals)
                    for side, terms in zip(SIDES, self.terms, strict=True)
                }
                pairs = cell_pairs(cells, chosen, named)
                ids = [sorted(cell["cell_id"] for cell in cells[side]) for side in SIDES]
                digests = {side: location.digest() for side, location in locations.items()}
                folder = self.folder / digest([digests, ids, here])
                parts = self, folder, locations, digests, named, signals, slots, options
                session = _Session(*parts)
                return [session.csv(side) for side in SIDES], named, session.run(pairs)
            except StoppedError:
                echo(f"to go on: {command_line('compare', *sys.argv[1:])}", err=True)
                raise

    def _axes(self) -> tuple[frozenset[str], frozenset[str]]:
        """The axes that --select, --base or --new name, and those to which the latter two give
        different values."""
        if len(self.places) != (0 if any(self.terms) else 2):
            raise InputError(
                "--run takes two places, BASE and NEW, or --base and --new with axes of --select"
            )
        if any(self.terms) and not all(self.terms):
            raise InputError("--run: give both --base and --new")
        for option in self.options:
            if option.partition("=")[0] == "--executor":
                raise InputError(
                    "--run: cells that take turns need one node; leave --executor out, and start "
                    "bench.compare itself as a job, by srun --exclusive"
                )
            if option.partition("=")[0] in _OWN:
                raise InputError(f"{option} can't be passed on to bench.grid by --run")
        selected = parse_selection(self.selection).keys()
        base = parse_selection(self.terms[0], "--base")
        new = parse_selection(self.terms[1], "--new")
        used = base.keys() | new.keys()
        if both := sorted(used & selected):
            raise InputError(f"--select: {both[0]} is named by --base or --new; name it there only")
        differ = {axis for axis in used if base.get(axis) != new.get(axis)}
        return frozenset(used | selected), frozenset(differ)

    def _cells(
        self, location: Location, terms: str, options: Sequence[str], signals: Signals
    ) -> list[_Cell]:
        """The cells of a side, by a plan of bench.grid with some options."""
        selection = f"{self.selection} {terms}".strip()
        plan = ["--dry-run", "--json", "--runs", str(self.folder / "none.csv")]
        done = location.grid([*self.arguments(selection), *options, *plan], signals)
        try:
            cells: list[_Cell] = json.loads(done.stdout)["cells"]
        except (ValueError, KeyError) as error:
            raise InputError(f"{location.side}: no plan: {last_error(done.stderr)}") from error
        return cells

    def arguments(self, selection: str) -> list[str]:
        return ["--grid", self.grid, *(["--select", selection] if selection else [])]


def several_slots(options: Sequence[str]) -> tuple[Sequence[Target], list[str]]:
    """The slots that options of bench.grid name, if that may be several, and the other options;
    InputError as `find_slots`."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", default="1")
    with suppress(ArgumentError):  # bench.grid refuses it
        own, others = parser.parse_known_args(options)
        jobs = int(own.jobs) if own.jobs.isdecimal() else 1
        if jobs > 1 or own.device == ALL or "," in own.device:
            return find_slots(own.device, jobs), others
    return (), list(options)


def _device(slots: Sequence[Target]) -> list[str]:
    return ["--device", slots[0].conditions.device] if slots else []


@dataclass(frozen=True)
class _Repeat:
    """A repeat of the cells that a text of --select selects on a side."""

    pair: CellPair
    side: Side
    text: str
    ids: Set[str]
    number: int


@dataclass(frozen=True)
class _Session:
    """An alternation as it runs, with the folder of its results and the code of both sides. Without
    slots it is on the device that the options of bench.grid name."""

    alternation: Alternation
    folder: Path
    locations: Mapping[Side, Location]
    digests: Mapping[Side, str]
    named: frozenset[str]
    signals: Signals
    slots: Sequence[Target]
    options: Sequence[str]

    def csv(self, side: Side) -> Path:
        return self.folder / f"{side.lower()}.csv"

    def run(self, to_do: list[CellPair]) -> int:
        """Run rounds of cells, each setting until it is decided; the most looks that there are."""
        most, count = self.alternation.rounds, len(to_do)
        looks = look_rounds(most)
        numbers = range(max(1, len(self.slots)))
        slot_of = dict(zip(sorted({pair.setting for pair in to_do}), cycle(numbers)))
        for number in range(1, most + 1):
            to_do.sort(key=lambda pair: digest([number, pair.name, sorted(pair.ids)]))
            repeats = [
                _Repeat(pair, side, text, ids, number)
                for pair in to_do
                for side in (SIDES if number % 2 else SIDES[::-1])
                for text, ids in pair.runs[side].items()
            ]
            by_slot = grouped(repeats, lambda repeat: slot_of[repeat.pair.setting])
            name = f"round {number} of at most {most}, {len(to_do)} of {count} cells"
            self._run_round(name, [by_slot.get(slot, []) for slot in numbers])
            undecided = self._undecided(len(looks), number in looks)
            to_do = [pair for pair in to_do if pair.ids & undecided]
            if not to_do:
                break
        return len(looks)

    def _run_round(self, name: str, by_slot: Sequence[Sequence[_Repeat]]) -> None:
        """Run the repeats of each slot, those of several slots at once; none begins after an error
        of `_run_cells`."""
        count = sum(map(len, by_slot))
        with (
            Locks(device_locks(), self.signals) as devices,
            progress_bar(count) as show,
            ThreadPoolExecutor(len(by_slot)) as pool,
        ):
            begun, failed = iter(range(count)), Event()

            def work(number: int, repeats: Sequence[_Repeat]) -> None:
                slot = self.slots[number] if self.slots else None
                if slot is not None and slot.cores:
                    os.sched_setaffinity(0, slot.cores)  # of this thread, and of what it starts
                for repeat in repeats:
                    if failed.is_set():
                        return
                    show(next(begun), f"{name}: {repeat.pair.name}, {repeat.side}")
                    try:
                        self._run_cells(repeat, slot, devices)
                    except BaseException:
                        failed.set()
                        raise

            ends = [pool.submit(work, number, own) for number, own in enumerate(by_slot)]
        for end in ends:
            end.result()

    def _run_cells(self, repeat: _Repeat, slot: Target | None, devices: Locks) -> None:
        """Run a repeat of cells, unless they have results. InputError if they have none then, or
        the side's code is no longer the same; StoppedError if the user stopped it."""
        side, ids, workers = repeat.side, repeat.ids, len(self.slots)
        if ids <= self._ended(repeat).keys():
            return
        if self.locations[side].digest() != self.digests[side]:
            raise InputError(f"{side}: the code has changed; the same command measures it anew")
        self.folder.mkdir(parents=True, exist_ok=True)
        reports = self.folder / "reports" / side
        cpu_lock: AbstractContextManager[None] = nullcontext()
        if slot is not None:
            reports /= str(self.slots.index(slot))
            if not slot.gpu:  # bench.grid takes the lock on the slot's cores alone
                cpu_lock = devices.using(slot.device_name, partial(echo, err=True))
        arguments = [
            *self.alternation.arguments(repeat.text), *self.options,
            *_device([slot] if slot else []), "--repeats", str(repeat.number),
            "--runs", str(self.csv(side)), "--reports", str(reports),
        ]  # fmt: skip
        with cpu_lock:
            done = self.locations[side].grid(arguments, self.signals, workers)
        ended = self._ended(repeat)
        if not ids <= ended.keys():
            raise InputError(
                f"{side}: bench.grid ended with {done.returncode} and without a result: "
                f"{last_error(done.stderr)}"
            )
        if workers > 1 and None in {ended[one] for one in ids}:
            raise InputError(
                f"{side}: its version of bench.grid does not record that {workers} workers share "
                "the machine; measure it on one device, without --jobs"
            )

    def _ended(self, repeat: _Repeat) -> dict[str, str | None]:
        """The cells of a side for which a repeat has a result: by id, what shared the machine."""
        path = self.csv(repeat.side)
        rows = read_rows(path) if path.exists() else []
        own = [row for row in rows if row.repeat == repeat.number and row.status != "interrupted"]
        return {row.cell_id: row.sharing for row in own}

    def _undecided(self, looks: int, is_look: bool) -> set[str]:
        """The ids of cells of settings that are not decided yet, where what varies is looked at so
        often at most, and is now if it is a look."""
        base, new = (read_results([self.csv(side)], None) for side in SIDES)
        comparison = compare(
            base.rows, new.rows, self.alternation.limits, named=self.named, looks=looks,
            values_of=(base.values_of, new.values_of),
        )  # fmt: skip
        return undecided_cells(comparison, is_look)


def look_rounds(most: int) -> list[int]:
    """The rounds after which what varies is looked at, where there are at most so many rounds."""
    return sorted({max(2, ceil(most * i / _LOOKS)) for i in range(1, _LOOKS + 1)})


def undecided_cells(comparison: Comparison, is_look: bool) -> set[str]:
    """The ids of the cells of settings for which more rounds are needed, as `is_undecided` says."""
    pairs = [pair for pair in comparison.pairs if is_undecided(pair, is_look)]
    return {row.cell_id for pair in pairs for row in (*pair.base.rows, *pair.new.rows)}


def is_undecided(pair: Pair, is_look: bool) -> bool:
    """Whether more rounds may show a setting to be worse, or not to be; by what varies at a look
    alone. They add nothing to scores, since repeats of a seed are the same training, and nothing
    where a cell newly fails or counts of work are a regression."""
    costs = [one for one in pair.compared if one.gates and one.measure.kind != "score"]
    exact = [one for one in costs if one.measure.exact]
    if pair.failing or any(one.verdict is Verdict.REGRESSION for one in exact):
        return False
    return any(
        not is_look or (one.verdict is Verdict.UNDECIDED and one.may_be_worse)
        for one in costs
        if not one.measure.exact
    )
