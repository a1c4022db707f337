"""From a grid to cells, and from cells and what has run to what must run. Pure."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final

from adapters.methods import METHODS, has_rank
from bench.common.errors import InputError
from bench.plan.cell import ABOUT, CANDIDATE, FP32, OFF, ON, Cell, Row, has_parts, named
from bench.plan.columns import (
    FLAGS,
    RESUMED,
    STATUSES,
    CellKey,
    has_score,
    learning_rates,
    repeat_suffix,
    software_key,
    standing,
    take_attempts,
)
from bench.plan.gridfile import Axes, Grid, Settings
from bench.plan.parts import most_encoders, to_text

NOT_RUN: Final = "not run yet"
SKIP: Final = "skip"
ELSEWHERE: Final = "score from another machine"
RERUN: Final = "--rerun"


@dataclass(frozen=True)
class Resolved:
    """What a grid's names stand for on this machine.

    `regression` tells whether a number is learned; `parts` names those of the task that the data
    has, if the task has any.
    """

    model: str
    model_digest: str
    pooling: str
    data_digest: str
    amp_on: str
    learning_rate_source: str
    regression: bool = False
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planned:
    """A repeat of a cell, and whether it runs: `action` is `run`, `done`, `kept` or `skip`.

    `tries` tells how the candidates ended that found no rates for a cell that is to be skipped.
    """

    cell: Cell
    action: str
    reason: str
    attempt: int
    repeat: int = 1
    tries: tuple[str, ...] = ()

    @property
    def elsewhere(self) -> bool:
        """Whether it does not run because another machine has its score."""
        return self.reason == ELSEWHERE

    @property
    def name(self) -> str:
        """The cell's name, with the repeat if it is not the first."""
        return self.cell.name + repeat_suffix(self.repeat)

    @property
    def key(self) -> tuple[str, int]:
        """The cell's id and the repeat."""
        return self.cell.cell_id, self.repeat


def expand(grid: Grid, resolved: Resolved) -> list[Cell]:
    """All cells of a grid, each once, seeds outermost.

    Inside a seed's round the order is a permutation by digest: the same every time, and with
    neighbours in the grid apart, so that a drift of the machine does not become a difference
    between modes.
    """
    found: dict[str, Cell] = {}
    for seed in range(grid.settings.seeds):
        cells = [cell for axes in grid.cells for cell in _round(axes, grid, resolved, seed)]
        alike = Counter(cell.name for cell in cells)
        cells.sort(key=lambda cell: _place(cell, alike[cell.name] > 1))
        found.update((cell.cell_id, cell) for cell in cells)
    return list(found.values())


def _place(cell: Cell, by_settings: bool) -> bytes:
    """Where a cell stands in the permutation; with its settings in it if its name isn't enough."""
    rate = cell.learning_rate or cell.learning_rate_head
    further = f" {cell.batch_size} {rate}" if by_settings else ""
    return hashlib.sha256(f"order {cell.name}{further}".encode()).digest()


def _round(axes: Axes, grid: Grid, resolved: Resolved, seed: int) -> Iterable[Cell]:
    settings = grid.settings_of(axes)
    for mode, amp in product(axes.mode, axes.amp):
        adapted = mode in METHODS
        rates: Sequence[float | None] = axes.learning_rate or [None]
        for layers, rank, unfreeze, batch_size, rate in product(
            axes.layers if adapted else [None],
            axes.rank if has_rank(mode) else [None],
            axes.unfreeze if ABOUT["unfreeze"].applies({"mode": mode}) else [None],
            axes.batch_size or [settings.batch_size],
            rates,
        ):
            yield _cell(
                settings,
                resolved,
                rate,
                mode=mode,
                rank=rank,
                layers=layers,
                amp=resolved.amp_on if amp == "on" else amp,
                unfreeze=unfreeze,
                batch_size=batch_size,
                seed=seed,
            )


_AS_GIVEN: Final = tuple(name for name in ABOUT if name in Settings.model_fields)
"""Settings that a cell has by the names of the grid's; those that are resolved replace some."""


def _cell(
    settings: Settings,
    resolved: Resolved,
    rate: float | None,
    *,
    mode: str,
    rank: int | None,
    layers: str | None,
    **axes: Any,
) -> Cell:
    """A cell; `rate` is that of all that trains, where it is an axis."""
    rates = settings.learning_rates
    values: dict[str, Any] = {
        "learning_rate": rates.full if mode == "full" else rates.adapter,
        "learning_rate_base": rates.base,
        "learning_rate_head": rates.head,
    }
    values = values if rate is None else dict.fromkeys(values, rate)
    used = learning_rates(mode, layers)
    values = {name: value if name in used else None for name, value in values.items()}
    return Cell(
        **{name: getattr(settings, name) for name in _AS_GIVEN}
        | {
            "model": resolved.model,
            "model_digest": resolved.model_digest,
            "pooling": resolved.pooling,
            "data_digest": resolved.data_digest,
            "compile": ON if settings.compile else OFF,
            "regression_loss": settings.regression_loss if resolved.regression else None,
            "learning_rate_source": resolved.learning_rate_source,
            "alpha": _alpha(settings, rank),
            "frozen_dtype": _frozen_dtype(settings, mode, axes["amp"]),
        }
        | {"mode": mode, "rank": rank, "layers": layers}
        | axes
        | values
        | _of_parts(settings, resolved.parts)
    )


def _of_parts(settings: Settings, parts: Collection[str]) -> dict[str, Any]:
    """The settings of a task with parts, of those that are there; of another task none."""
    if not parts:
        return dict.fromkeys(named(lambda about: about.applies is has_parts))
    rates = {part: getattr(settings.task_rates, part) for part in parts}
    decays = {part: getattr(settings.task_decays, part) for part in parts}
    usual = settings.weight_decay
    return {
        "encoders": min(settings.encoders, most_encoders(parts)),
        "task_order": settings.task_order,
        "task_rates": to_text(rates),
        "task_decays": to_text({p: usual if d is None else d for p, d in decays.items()}),
    }


def _frozen_dtype(settings: Settings, mode: str, amp: str) -> str | None:
    """The type of frozen weights; None where nothing is frozen, or all is fp32 anyway."""
    if not ABOUT["frozen_dtype"].applies({"mode": mode, "amp": amp}):
        return None
    return FP32 if settings.frozen_dtype == FP32 else amp


def _alpha(settings: Settings, rank: int | None) -> float | None:
    """The numerator of the scale: the setting's, or what gives the scale that was set."""
    if rank is None:
        return None
    if settings.scale is None:
        return settings.alpha
    return float(f"{settings.scale * rank:.7g}")  # as the CSV holds it


def check_rerun(text: str) -> str:
    """A status or flag for --rerun.

    Raises:
        InputError: if it is neither.
    """
    if text not in STATUSES and text not in FLAGS:
        raise InputError(
            f"--rerun: {text!r} is no status or flag; choose {', '.join([*STATUSES, *FLAGS])}"
        )
    return text


def count_cells(planned: Sequence[Planned], what: str = "cells") -> str:
    """How many cells a plan has, and how many repeats of them if not one of each."""
    cells = len({item.cell.cell_id for item in planned})
    repeats = len({item.key for item in planned})
    return f"{cells} {what}" if repeats == cells else f"{repeats} repeats of {cells} {what}"


def scores_elsewhere(planned: Iterable[Planned]) -> int:
    """How many cells don't run because other machines have their scores."""
    return len({item.cell.cell_id for item in planned if item.elsewhere})


def scores_sentence(number: int, what: str = "cells") -> str:
    """How many cells don't run because other machines have their scores."""
    return f"{number} {what} take their scores from other machines"


def plan(
    cells: Sequence[Cell],
    rows: Sequence[Row],
    here: Row,
    *,
    repeats: int = 1,
    rerun: str | None = None,
    fresh: bool = False,
) -> list[Planned]:
    """What to do with each repeat of each cell, given all rows there are; repeats outermost.

    It runs if it has no row, was interrupted or skipped, or if `rerun` (a status or flag) asks for
    it. Others are `done` (status ok) or `kept` (failed, and left so), as the row says that the
    repeat stands at; the next attempt is above those of all its rows. A try of a search is not
    repeated.

    `done` is also what has a score from another machine of the same software, if costs of its
    setting have been measured here, or are by another seed of the plan: the first, if need be. Of
    tries only scores are wanted, and of further repeats only costs.

    Args:
        here: the columns of the conditions under which cells run.
        fresh: only rows of the present code_version count.
    """
    conditions_id = str(here["conditions_id"])
    ids = {cell.cell_id for cell in cells}
    known = [r for r in rows if r["conditions_id"] == conditions_id and r["cell_id"] in ids]
    if fresh:
        rows = [row for row in rows if row["code_version"] == here["code_version"]]
    at = standing(r for r in rows if r["conditions_id"] == conditions_id and r["cell_id"] in ids)
    highest: dict[CellKey, int] = {}
    take_attempts(highest, known)
    found = []
    for repeat, cell in product(range(1, repeats + 1), cells):
        if repeat > 1 and cell.learning_rate_source == CANDIDATE:
            continue
        key = cell.cell_id, conditions_id, repeat
        action, reason = _decide(at.get(key), rerun)
        found.append(Planned(cell, action, reason, highest.get(key, 0) + 1, repeat))
    others = _scored_elsewhere(rows, here) & ids
    return _with_scores(found, others, _measured(rows, conditions_id)) if others else found


def _scored_elsewhere(rows: Iterable[Row], here: Row) -> set[str]:
    """Ids of the cells whose score a machine of other conditions and the same software has."""
    own, software = here["conditions_id"], software_key(here)
    scored = (row for row in rows if row["conditions_id"] != own and has_score(row))
    return {str(row["cell_id"]) for row in scored if software_key(row) == software}


def _measured(rows: Iterable[Row], conditions_id: str) -> set[str]:
    """The settings whose costs have been measured under some conditions."""
    ok = (r for r in rows if r["conditions_id"] == conditions_id and r["status"] == "ok")
    return {_setting(Cell.from_columns(row)) for row in ok}


def _setting(cell: Cell) -> str:
    return replace(cell, seed=0).cell_id


def _with_scores(planned: list[Planned], others: set[str], measured: set[str]) -> list[Planned]:
    """A plan in which cells don't run whose scores others have, and whose costs are known."""

    def may_be_left_out(item: Planned) -> bool:
        return item.action == "run" and not item.reason.startswith(RERUN)

    def can_do_without(item: Planned) -> bool:
        return may_be_left_out(item) and item.repeat == 1 and item.cell.cell_id in others

    measured |= {
        _setting(item.cell)
        for item in planned
        if item.action == "run" and item.repeat == 1 and not can_do_without(item)
    }
    found = []
    left_out: set[str] = set()  # cells; further repeats of them are not wanted either
    for item in planned:
        cell_id = item.cell.cell_id
        if can_do_without(item):
            setting = _setting(item.cell)
            if item.cell.learning_rate_source == CANDIDATE or setting in measured:
                left_out.add(cell_id)
            measured.add(setting)
        if may_be_left_out(item) and cell_id in left_out:
            item = replace(item, action="done", reason=ELSEWHERE)
        found.append(item)
    return found


def _decide(row: Row | None, rerun: str | None) -> tuple[str, str]:
    if row is None:
        return "run", NOT_RUN
    status = str(row["status"])
    if rerun is not None and rerun in [status, *str(row["flags"] or "").split()]:
        return "run", f"{RERUN} {rerun}"
    if status in RESUMED:
        return "run", f"was {status}"
    if status == "ok":
        return "done", "done"
    return "kept", f"{status}; {RERUN} {status} runs it again"
