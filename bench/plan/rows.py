"""A row of runs.csv, and which rows count.

A row is a cell together with where it ran and what was measured. Its fields are the columns of
runs.csv: those of `bench.plan.cell.Cell`, and those of columns.toml.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, make_dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

from bench.common.files import read_tables
from bench.plan.cell import ABOUT, Cell, Value

_TABLES: Final = read_tables(__file__, "columns.toml")
STATUSES: Final[Mapping[str, str]] = _TABLES["statuses"]
BUSY: Final = "busy"
RESUMED: Final = ("interrupted", "skipped", BUSY)
"""Statuses that a grid runs again by itself; cells of the others, except `ok`, wait for --rerun."""
FLAGS: Final[Mapping[str, str]] = _TABLES["flags"]
TIMING_FLAGS: Final = ("unstable_timing", "throttled", "disturbed")
"""Flags that put the times of a row in doubt, so that a later result replaces it."""

DECLARED: Final[Mapping[str, Mapping[str, Any]]] = {
    name: {"group": group} | ({"meaning": about} if isinstance(about, str) else about)
    for group, columns in _TABLES["columns"].items()
    for name, about in columns.items()
}
"""What columns.toml says of each column."""
SCHEMA: Final[int] = max(
    *(about.since for about in ABOUT.values()), *(of.get("since", 0) for of in DECLARED.values())
)
KIND_NAMES: Final = {str: "text", int: "whole number", float: "number"}

CellKey = tuple[str, str, int]  # a measurement: cell_id, conditions_id and repeat


if TYPE_CHECKING:
    _Columns = Cell
else:
    _Columns = make_dataclass(
        "_Columns",
        [
            (name, kind | None, None)
            for name, about in DECLARED.items()
            for kind, called in KIND_NAMES.items()
            if about.get("kind") == called
        ],
        bases=(Cell,),
        frozen=True,
        kw_only=True,
    )


@dataclass(frozen=True)
class ConditionColumns:
    """The columns that say where a cell ran."""

    device: str
    device_name: str
    machine: str
    threads: int
    torch_version: str
    measurement_version: int
    code_version: str
    cuda_version: str | None = None
    environment: str | None = None
    sharing: str | None = None
    executor: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row(ConditionColumns, _Columns):
    """A row of runs.csv. None: does not apply, or was not measured; the first of these differs from
    the second by `bench.plan.columns.Column.applies`. A planned cell is a row without a status; its
    attempt is 0. The columns here are those that code reads by name."""

    schema: int = SCHEMA
    cell_id: str = ""  # with a default, which overrides the property of Cell
    conditions_id: str
    attempt: int = 0
    repeat: int = 1
    grid: str | None = None
    status: str | None = None
    flags: str | None = None
    message: str | None = None

    params_total: int | None = None
    params_trainable: int | None = None
    saved_mib: float | None = None
    epochs_run: int | None = None
    tokens_total: int | None = None

    step_ms_median: float | None = None
    ms_per_1k_tokens: float | None = None
    ms_per_1k_tokens_ci_low: float | None = None
    ms_per_1k_tokens_ci_high: float | None = None
    startup_s: float | None = None
    compile_s: float | None = None
    compile_cached: float | None = None
    train_s: float | None = None
    eval_s: float | None = None
    wall_s: float | None = None

    peak_cuda_allocated_mib: float | None = None
    peak_process_vram_mib: float | None = None
    peak_rss_mib: float | None = None
    peak_anon_mib: float | None = None
    imports_anon_mib: float | None = None
    predicted_peak_mib: float | None = None

    dev_metric: str | None = None
    dev_score: float | None = None
    dev_ci_low: float | None = None
    dev_ci_high: float | None = None
    dev_loss: float | None = None
    train_loss: float | None = None
    majority_score: float | None = None

    started_at: str | None = None
    finished_at: str | None = None

    def __getitem__(self, column: str) -> Value:
        """The value in a column, by its name; KeyError if there is no such column."""
        return self.scale if column == "scale" else self.__dict__[column]

    def __or__(self, values: Mapping[str, Value]) -> "Row":
        return replace(self, **cast(dict[str, Any], values))

    @property
    def cell(self) -> Cell:
        return Cell(**{item.name: getattr(self, item.name) for item in fields(Cell)})

    @property
    def flag_names(self) -> list[str]:
        return (self.flags or "").split()

    @property
    def key(self) -> CellKey:
        return self.cell_id, self.conditions_id, self.repeat

    @property
    def row_key(self) -> tuple[str, str, int, int]:
        return *self.key, self.attempt

    @property
    def is_ok(self) -> bool:
        return self.status == "ok"

    @property
    def has_score(self) -> bool:
        return self.is_ok and self.dev_score is not None

    @property
    def dev_ci_half(self) -> float:
        """Half of the score's 95% interval over the dev examples; 0 where it is not known."""
        low, high = self.dev_ci_low, self.dev_ci_high
        return 0.0 if low is None or high is None else (high - low) / 2

    @property
    def software(self) -> tuple[Value, ...]:
        """The conditions on which a score depends: type of device and software, not the machine."""
        return software_of(vars(self))


_SOFTWARE: Final = ("torch_version", "cuda_version", "environment", "measurement_version")


def software_of(conditions: Mapping[str, Value]) -> tuple[Value, ...]:
    """`Row.software` of the columns of conditions."""
    device = str(conditions["device"]).partition(":")[0]
    return device, *(conditions.get(name) or None for name in _SOFTWARE)


def repeat_suffix(repeat: Value) -> str:
    return f", repeat {repeat}" if isinstance(repeat, int) and repeat > 1 else ""


def current_rows(rows: Iterable[Row]) -> dict[CellKey, Row]:
    """The current row of each measurement, in order of first appearance: the last attempt that
    ended ok, or, where none did, the last attempt."""
    return _last([*rows], lambda row: row.key)


def _last(rows: list[Row], key: Callable[[Row], Any]) -> dict[Any, Row]:
    ranked = sorted(rows, key=lambda row: (row.is_ok, row.attempt))
    return {key(row): row for row in rows + ranked}


def latest(rows: Iterable[Row]) -> dict[tuple[str, str, int, str], Row]:
    """The rows that count, by measurement and code_version, in order of first appearance. For each
    version that is the last attempt that ended ok; where no version has one, the current row of the
    measurement. A row with a timing flag counts until a later attempt of any version ends ok."""
    rows = list(rows)
    current = current_rows(rows)
    counting = [
        row
        for row in rows
        if current[row.key] is row or (row.is_ok and set(TIMING_FLAGS).isdisjoint(row.flag_names))
    ]
    return _last(counting, lambda row: (*row.key, row.code_version))
