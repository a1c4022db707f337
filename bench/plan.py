"""From a grid to cells, and from cells and what has run to what must run. Pure."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from adapters.names import ADAPTER_MODES, LAYER_SETS, MODES
from bench.cell import Cell
from bench.errors import InputError
from bench.gridfile import Axes, Grid, Settings
from bench.parts import most_encoders, to_text
from bench.schema import (
    FLAGS,
    OFF,
    ON,
    RESUMED,
    STATUSES,
    VALUES,
    Row,
    latest,
    learning_rates,
    take_attempts,
)

NOT_RUN: Final = "not run yet"
SKIP: Final = "skip"
FRESH: Final = "--fresh"
RERUN: Final = "--rerun"
AXES: Final = ("mode", "rank", "layers", "amp", "unfreeze", "batch_size", "learning_rate", "seed")


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
    """A cell, and whether it runs: `action` is `run`, `done`, `kept` or `skip`, with the reason.

    `tries` tells how the candidates ended that found no rates for a cell that is to be skipped.
    """

    cell: Cell
    action: str
    reason: str
    attempt: int
    tries: tuple[str, ...] = ()


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
        adapted = mode in ADAPTER_MODES
        rates: Sequence[float | None] = axes.learning_rate or [None]
        for layers, rank, unfreeze, batch_size, rate in product(
            axes.layers if adapted else [None],
            axes.rank if adapted else [None],
            axes.unfreeze if mode != "head" else [None],
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
        **axes,
        mode=mode,
        rank=rank,
        layers=layers,
        model=resolved.model,
        model_digest=resolved.model_digest,
        init=settings.init,
        pooling=resolved.pooling,
        head=settings.head,
        task=settings.task,
        data_digest=resolved.data_digest,
        max_train=settings.max_train,
        max_dev=settings.max_dev,
        held_out=settings.held_out,
        max_length=settings.max_length,
        batching=settings.batching,
        compile=ON if settings.compile else OFF,
        epochs=settings.epochs,
        max_steps=settings.max_steps,
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        regression_loss=settings.regression_loss if resolved.regression else None,
        learning_rate_source=resolved.learning_rate_source,
        weight_decay=settings.weight_decay,
        warmup=settings.warmup,
        alpha=_alpha(settings, rank),
        dropout=settings.dropout,
        **values,
        **_of_parts(settings, resolved.parts),
    )


def _of_parts(settings: Settings, parts: Collection[str]) -> dict[str, Any]:
    """The settings of a task with parts, of those that are there; of another task none."""
    if not parts:
        return {}
    rates = {part: getattr(settings.task_rates, part) for part in parts}
    decays = {part: getattr(settings.task_decays, part) for part in parts}
    usual = settings.weight_decay
    return {
        "encoders": min(settings.encoders, most_encoders(parts)),
        "task_order": settings.task_order,
        "task_rates": to_text(rates),
        "task_decays": to_text({p: usual if d is None else d for p, d in decays.items()}),
    }


def _alpha(settings: Settings, rank: int | None) -> float | None:
    """The numerator of the scale: the setting's, or what gives the scale that was set."""
    if rank is None:
        return None
    if settings.scale is None:
        return settings.alpha
    return float(f"{settings.scale * rank:.7g}")  # as the CSV holds it


def parse_selection(text: str) -> dict[str, set[str]]:
    """`"mode=lora rank=1,8"` as values wanted of each axis.

    Raises:
        InputError: for a key that is no axis, or a value that the axis can't have.
    """
    wanted: dict[str, set[str]] = {}
    for term in text.split():
        axis, equals, values = term.partition("=")
        if axis not in AXES or not equals or not values:
            raise InputError(
                f"--select: {term!r} is not AXIS=VALUE[,VALUE]; the axes are {', '.join(AXES)}"
            )
        wanted.setdefault(axis, set()).update(values.split(","))
        known = _axis_values(axis)
        for value in values.split(","):
            if (known and value not in known) or (not known and not _is_number(axis, value)):
                allowed = ", ".join(known) or (
                    "numbers" if axis == "learning_rate" else "whole numbers"
                )
                raise InputError(f"--select: {axis} can't be {value!r}; it takes {allowed}")
    return wanted


def _axis_values(axis: str) -> tuple[str, ...]:
    values = {
        "mode": MODES,
        "layers": LAYER_SETS,
        "amp": ("off", "on", "bf16", "fp16"),
        "unfreeze": VALUES["unfreeze"],
    }
    return values.get(axis, ())


def _is_number(axis: str, value: str) -> bool:
    if axis != "learning_rate":
        return value.isdecimal()
    try:
        return 0 < float(value) <= 1
    except ValueError:
        return False


def select(cells: Iterable[Cell], wanted: Mapping[str, set[str]]) -> list[Cell]:
    """The cells whose axes all have a wanted value; `amp=on` stands for bf16 and fp16."""

    def matches(cell: Cell) -> bool:
        for axis, values in wanted.items():
            value = getattr(cell, axis)
            if axis == "learning_rate" and cell.mode == "head":
                value = cell.learning_rate_head
            if axis == "learning_rate":
                found = any(value == float(text) for text in values)
            else:
                on = {"on"} if axis == "amp" and value != "off" else set()
                found = bool(({str(value)} | on) & values)
            if value is None or not found:
                return False
        return True

    return [cell for cell in cells if matches(cell)]


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


def plan(
    cells: Sequence[Cell],
    rows: Sequence[Row],
    conditions_id: str,
    *,
    rerun: str | None = None,
    fresh: bool = False,
) -> list[Planned]:
    """What to do with each cell, given all rows there are.

    A cell runs if it has no row, was interrupted or skipped, or if `fresh` or `rerun` (a status
    or flag) asks for it. Others are `done` (status ok) or `kept` (failed, and left so). What a cell
    is, the row that counts says; its next attempt is above those of all its rows.
    """
    ids = {cell.cell_id for cell in cells}
    known = [r for r in rows if r["conditions_id"] == conditions_id and r["cell_id"] in ids]
    counting = {key[:2]: row for key, row in latest(known).items()}
    highest: dict[tuple[str, str], int] = {}
    take_attempts(highest, known)
    found = []
    for cell in cells:
        key = cell.cell_id, conditions_id
        action, reason = _decide(counting.get(key), rerun, fresh)
        found.append(Planned(cell, action, reason, highest.get(key, 0) + 1))
    return found


def _decide(row: Row | None, rerun: str | None, fresh: bool) -> tuple[str, str]:
    if fresh:
        return "run", FRESH
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
