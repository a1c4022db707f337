"""From a grid to its cells, and from cells and rows to a plan of what to run. Pure."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby, product
from typing import Any, Final

from adapters.methods import METHODS, PEFT, has_layers, has_rank
from adapters.names import trains_base
from bench.common.errors import InputError
from bench.common.messages import count
from bench.plan.cell import (
    ABOUT,
    DEFAULT,
    FP32,
    HAS_PARTS,
    MINBERT,
    MIXED,
    OFF,
    ON,
    TRANSFORMERS,
    Cell,
    Columns,
    named,
)
from bench.plan.columns import format_parts, most_encoders
from bench.plan.gridfile import AUTO, DEFAULT_TASK, USUAL, Axes, Grid, Rates, Settings
from bench.plan.learning_rates import rates_of
from bench.plan.rows import (
    FLAGS,
    RESUMED,
    STATUSES,
    CellKey,
    Row,
    current_rows,
    repeat_suffix,
    software_of,
)

NOT_RUN: Final = "not run yet"
SKIP: Final = "skip"
ELSEWHERE: Final = "score from another machine"
RERUN: Final = "--rerun"


@dataclass(frozen=True)
class Resolved:
    """A grid's names, resolved on this machine."""

    model: str
    model_digest: str
    pooling: str
    data_digest: str
    amp_on: str
    learning_rate_source: str
    regression: bool = False  # whether the task predicts a number
    one_class: bool = False  # whether each text has one class, without parts and plugins
    parts: tuple[str, ...] = ()  # of the task, those that the data has
    auto_length: int | None = None  # what `max_length` auto stands for, if the grid has it
    auto: Mapping[str, float] = field(default_factory=lambda: USUAL)  # what it stands for, by name
    no_compiling: str = ""  # why `compile` auto is off on the device; empty: on where a cell can be
    engine: str = MINBERT  # what engine auto stands for
    engine_version: str = ""  # of the libraries of engine transformers
    attention: str = ""  # what `attn_implementation` auto stands for
    adapters: Mapping[str, str] = field(default_factory=dict)  # names in cells, by path of a file


@dataclass(frozen=True)
class Planned:
    """A repeat of a cell, and whether it runs."""

    cell: Cell
    action: str  # `run`, `done`, `kept` or `skip`
    reason: str
    attempt: int
    repeat: int = 1
    tries: tuple[str, ...] = ()  # statuses of the candidates, if none gave it learning rates
    prefix: str = ""  # of its name, in a plan of several models or engines
    conditions_id: str = ""  # of the conditions that it is planned for
    amp_is_on: bool = False  # whether its AMP type is the device's usual one

    @property
    def elsewhere(self) -> bool:
        return self.reason == ELSEWHERE

    @property
    def name(self) -> str:
        """The cell's name, with the repeat after the first, and what a plan has several of."""
        return self.prefix + self.cell.name + repeat_suffix(self.repeat)

    @property
    def key(self) -> tuple[str, int]:
        return self.cell.cell_id, self.repeat

    @property
    def row_key(self) -> CellKey:
        """`Row.key` of its rows, under the conditions that it is planned for."""
        return self.cell.cell_id, self.conditions_id, self.repeat


def expand(grid: Grid, *resolved: Resolved) -> list[Cell]:
    """All cells of a grid for each resolved model, each once, seeds outermost, then folds. Those of
    a seed and fold are permuted by digest: always in the same order, but with neighbours in the
    grid far apart, so that a drift of the machine does not become a difference between modes or
    models."""
    by_id: dict[str, Cell] = {}
    folds = [None] if grid.settings.folds is None else range(grid.settings.folds)
    for seed, fold in product(range(grid.settings.seeds), folds):
        cells = [
            cell
            for model in resolved
            for axes in grid.cells
            for cell in _round(axes, grid, model, seed, fold)
        ]
        by_id.update((cell.cell_id, cell) for cell in _permuted(cells, len(resolved) > 1))
    return list(by_id.values())


def _permuted(cells: Sequence[Cell], by_model: bool) -> list[Cell]:
    """Cells in the order of a digest of all that they differ in where names are not unique."""
    names = Counter((cell.model, cell.name) for cell in cells)
    by_length = len({cell.max_length for cell in cells}) > 1

    def key(cell: Cell) -> bytes:
        further = f" {cell.model_digest}" if by_model else ""
        if names[cell.model, cell.name] > 1:
            length = f" {cell.max_length}" if by_length else ""
            rate = cell.learning_rate or cell.learning_rate_head
            further = f" {cell.batch_size} {rate}{length}{further}"
        return hashlib.sha256(f"order {cell.name}{further}".encode()).digest()

    return sorted(cells, key=key)


def _round(
    axes: Axes, grid: Grid, resolved: Resolved, seed: int, fold: int | None
) -> Iterable[Cell]:
    settings = grid.settings_of(axes)
    lengths = axes.max_length or [settings.max_length]
    batches = axes.batch_size or [settings.batch_size]
    rates: Sequence[float | None] = axes.learning_rate or [None]
    for mode, amp in product(axes.mode, axes.amp):
        configs = axes.adapter_config if mode == PEFT else []
        has_unfreeze = ABOUT["unfreeze"].applies({"mode": mode})
        values: dict[str, Sequence[Any]] = {
            "layers": axes.layers if has_layers(mode) else [None],
            "rank": axes.rank if has_rank(mode) else [None],
            "adapter": [resolved.adapters[config] for config in configs] or [None],
            "unfreeze": axes.unfreeze if has_unfreeze else [None],
            "batch_size": [resolved.auto["batch_size"] if n == AUTO else n for n in batches],
            "max_length": [resolved.auto_length if n == AUTO else n for n in lengths],
        }
        of_all = {"mode": mode, "seed": seed, "fold": fold}
        of_all["amp"] = resolved.amp_on if amp == "on" else amp
        for *others, rate in product(*values.values(), rates):
            yield _cell(
                settings, resolved, rate, **of_all, **dict(zip(values, others, strict=True))
            )


_AS_GIVEN: Final = tuple(name for name in ABOUT if name in Settings.model_fields)
"""Settings that a cell takes from the grid under the same name, unless they are resolved."""
_LIMITED: Final = {name: about for name, about in ABOUT.items() if about.where or about.only}


def _cell(settings: Settings, resolved: Resolved, rate: float | None, **axes: Any) -> Cell:
    """A cell; `rate`, where it is an axis, is used for all parameters that train."""
    rates = settings.learning_rates
    if rate is not None:
        rates = Rates(full=rate, adapter=rate, base=rate, head=rate)
    attention = settings.attn_implementation
    given = {name: getattr(settings, name) for name in _AS_GIVEN}
    share = resolved.auto["contrastive"] if settings.contrastive == AUTO else settings.contrastive
    step = axes["batch_size"] * given["gradient_accumulation_steps"]
    values = {
        **{n: (ON if v else OFF) if isinstance(v, bool) else v for n, v in given.items()},
        **{name: value for name, value in vars(resolved).items() if name in ABOUT},
        "task": settings.task or DEFAULT_TASK,
        "held_out": settings.share_held_out,
        "race": None,  # of the cells of its rounds alone
        "compile": ON if settings.compile else OFF,  # on for auto, which is resolved below
        "engine": resolved.engine if settings.engine == AUTO else settings.engine,
        "plugin": METHODS.plugin(axes["mode"]),
        "attn_implementation": resolved.attention if attention == AUTO else attention,
        "regression_loss": settings.regression_loss if resolved.regression else None,
        "contrastive": share if resolved.one_class else 0.0,
        "alpha": _alpha(settings, axes["rank"]),
        "frozen_dtype": _frozen_dtype(settings, axes["mode"], axes["layers"], axes["amp"]),
        **axes,
        **rates_of(rates, axes["mode"], axes["layers"], step),
        **_part_settings(settings, resolved.parts),
    }
    for name, about in _LIMITED.items():
        if not about.applies(values):
            values[name] = None
        elif not about.has_effect(values):
            values[name] = about.before
    cell = Cell(**values)
    return _with_compile_auto(cell, resolved.no_compiling) if settings.compile == AUTO else cell


def _with_compile_auto(cell: Cell, no_compiling: str) -> Cell:
    """A cell with what `compile` auto stands for; `no_compiling` as in `Resolved`."""
    cell = replace(cell, compile=ON)
    why_not = no_compiling or cell.why_not_compiled
    if cell.engine == TRANSFORMERS and not why_not:
        why_not = f"engine {TRANSFORMERS} compiles for minutes, without CUDA graphs"
    if why_not:
        return replace(cell, compile=OFF, compile_why=f"{AUTO}: {why_not}")
    return replace(cell, compile_why=f"{AUTO}: a GPU")


def on_device(cell: Cell, amp_on: str, no_compiling: str) -> Cell:
    """A cell as planned for another device, with its usual AMP type."""
    frozen = amp_on if cell.frozen_dtype == cell.amp else cell.frozen_dtype
    cell = replace(cell, amp=amp_on, frozen_dtype=frozen)
    is_auto = cell.compile_why is not None and cell.compile_why.startswith(f"{AUTO}: ")
    return _with_compile_auto(cell, no_compiling) if is_auto else cell


def why_transformers(grid: Grid) -> str:
    """Why engine auto is transformers, whatever the model; empty: it is not."""
    for axes in grid.cells:
        settings = grid.settings_of(axes)
        for mode in axes.mode:
            if mode in METHODS and METHODS[mode].layer is None:
                return f"mode {mode} is one of PEFT's"
        if settings.attn_implementation != AUTO:
            return "engine minbert has no attn_implementation"
        if settings.init_lora_weights != DEFAULT:
            return f"init_lora_weights {settings.init_lora_weights} is one of PEFT's"
    return ""


def _part_settings(settings: Settings, parts: Collection[str]) -> dict[str, Any]:
    """The settings of a task with parts, for the given ones; all None for another task."""
    if not parts:
        return dict.fromkeys(named(lambda about: about.where == HAS_PARTS))
    rates = {part: getattr(settings.task_rates, part) for part in parts}
    decays = {part: getattr(settings.task_decays, part) for part in parts}
    default = settings.weight_decay
    return {
        "encoders": min(settings.encoders, most_encoders(parts)),
        "task_order": settings.task_order,
        "task_rates": format_parts(rates),
        "task_decays": format_parts({p: default if d is None else d for p, d in decays.items()}),
    }


def _frozen_dtype(settings: Settings, mode: str, layers: str | None, amp: str) -> str:
    """The type of frozen weights, where there are any; those with an adapter are fp32: half ones
    would round small updates away."""
    if settings.frozen_dtype == FP32 or (layers is not None and trains_base(layers)):
        return FP32
    return MIXED if mode in METHODS else amp


def _alpha(settings: Settings, rank: int | None) -> float | None:
    """The numerator of the adapter's scale: the setting `alpha`, or `scale` times the rank."""
    if rank is None:
        return None
    if settings.scale is None:
        return settings.alpha
    return float(f"{settings.scale * rank:.7g}")  # as the CSV holds it


def check_rerun(text: str) -> str:
    """A status or flag for --rerun; raises InputError if it is neither."""
    if text not in STATUSES and text not in FLAGS:
        raise InputError(
            f"--rerun: {text!r} is no status or flag; choose {', '.join([*STATUSES, *FLAGS])}"
        )
    return text


def count_cells(planned: Sequence[Planned], what: str = "cell") -> str:
    cells = len({item.cell.cell_id for item in planned})
    repeats = len({item.key for item in planned})
    shown = count(cells, what)
    return shown if repeats == cells else f"{count(repeats, 'repeat')} of {shown}"


def scores_elsewhere(planned: Iterable[Planned]) -> int:
    return len({item.cell.cell_id for item in planned if item.elsewhere})


def scores_sentence(number: int, what: str = "cells") -> str:
    return f"{number} {what} take their scores from other machines"


def plan(
    cells: Sequence[Cell],
    rows: Sequence[Row],
    here: Columns,
    *,
    repeats: int = 1,
    rerun: str | None = None,
    fresh: bool = False,
) -> list[Planned]:
    """The action for each repeat of each cell, given all rows and the columns of the conditions
    here; repeats outermost, and neighbours of one name in turn.

    A repeat runs if it has no row, was interrupted or skipped, or if `rerun` (a status or flag)
    matches its current row. Otherwise it is `done` (status ok) or `kept` (failed). The next attempt
    is one above all of its rows. What is scored on training examples is not repeated. With `fresh`,
    only rows of the present code_version count.

    A cell is also `done` if another machine with the same software has its score, and the costs of
    its setting have been measured here or will be by another seed or fold of the plan; if by none,
    the first one runs. Candidates need scores only, and further repeats need costs only.
    """
    conditions_id = str(here["conditions_id"])
    highest: dict[CellKey, int] = {}
    for row in rows:
        highest[row.key] = max(highest.get(row.key, 0), row.attempt)
    if fresh:
        rows = [row for row in rows if row.code_version == here["code_version"]]
    current = current_rows(rows)
    varied = [name for name in ("model", "engine") if len({getattr(c, name) for c in cells}) > 1]
    planned = []
    for repeat, cell in chain.from_iterable(_in_turn(cells, n) for n in range(1, repeats + 1)):
        if repeat > 1 and cell.is_trial:
            continue
        key = cell.cell_id, conditions_id, repeat
        decided, attempt = _decide(current.get(key), rerun), highest.get(key, 0) + 1
        prefix = "".join(f"{getattr(cell, name)} " for name in varied)
        planned.append(
            Planned(cell, *decided, attempt, repeat, prefix=prefix, conditions_id=conditions_id)
        )
    scored = _scored_elsewhere(rows, here).intersection(cell.cell_id for cell in cells)
    if not scored:
        return planned
    measured = {_setting(r.cell) for r in rows if r.conditions_id == conditions_id and r.is_ok}
    return _with_scores(planned, scored, measured)


def _in_turn(cells: Iterable[Cell], repeat: int) -> Iterator[tuple[int, Cell]]:
    """The cells of a repeat: neighbours of one name, such as those of both engines, are in reverse
    order in every second repeat, so that a drift of the machine does not favour one."""
    for _, members in groupby(cells, key=lambda cell: (cell.model, cell.name, cell.fold)):
        own = list(members)
        yield from ((repeat, cell) for cell in (own if repeat % 2 else reversed(own)))


def _scored_elsewhere(rows: Iterable[Row], here: Columns) -> set[str]:
    """Ids of the cells that have a score from another machine with the same software."""
    own, software = here["conditions_id"], software_of(here)
    scored = (row for row in rows if row.conditions_id != own and row.has_score)
    return {row.cell_id for row in scored if row.software == software}


def _setting(cell: Cell) -> str:
    """An id that all seeds and folds of a cell share."""
    return replace(cell, seed=0, fold=None).cell_id


def _with_scores(planned: list[Planned], scored: set[str], measured: set[str]) -> list[Planned]:
    """A plan in which cells don't run that have a score elsewhere and known costs: those measured,
    or that the plan measures."""

    def is_optional(item: Planned) -> bool:
        return item.action == "run" and not item.reason.startswith(RERUN)

    def has_score_elsewhere(item: Planned) -> bool:
        return is_optional(item) and item.repeat == 1 and item.cell.cell_id in scored

    measured |= {
        _setting(item.cell)
        for item in planned
        if item.action == "run" and item.repeat == 1 and not has_score_elsewhere(item)
    }
    result = []
    left_out: set[str] = set()  # ids of cells, whose further repeats are left out too
    for item in planned:
        if has_score_elsewhere(item):
            setting = _setting(item.cell)
            if item.cell.is_candidate or setting in measured:
                left_out.add(item.cell.cell_id)
            measured.add(setting)
        if is_optional(item) and item.cell.cell_id in left_out:
            item = replace(item, action="done", reason=ELSEWHERE)
        result.append(item)
    return result


def _decide(row: Row | None, rerun: str | None) -> tuple[str, str]:
    if row is None:
        return "run", NOT_RUN
    status = row.status
    if rerun is not None and rerun in [status, *row.flag_names]:
        return "run", f"{RERUN} {rerun}"
    if status in RESUMED:
        return "run", f"was {status}"
    if status == "ok":
        return "done", "done"
    return "kept", f"{status}; {RERUN} {status} runs it again"


def groups_of(items: Iterable[Planned]) -> list[list[Planned]]:
    """The cells of a plan, in order, in groups that have to run one after the other on one device:
    those that are compared by their costs, such as a cell of both engines. A candidate of a search
    is alone."""

    def key(item: Planned) -> tuple[object, ...]:
        cell = item.cell
        candidate = cell.cell_id if cell.is_candidate else ""
        return cell.model, cell.name, cell.fold, item.repeat, candidate

    return [list(group) for _, group in groupby(items, key=key)]
