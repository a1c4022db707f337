"""Which rows may be compared: comparability groups, and in them the settings over their seeds."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from adapters.names import LAYER_SETS, MODES
from bench.rates import still_lacking
from bench.schema import BY_NAME, CANDIDATE, Row, Value, cell_key, group_names, latest
from bench.stats import Interval, mean_t, spread, widened

_FOLLOW_FROM_MODE: Final = (
    "learning_rate", "learning_rate_base", "learning_rate_head", "alpha", "scale",
)  # fmt: skip
_LABELS: Final = ("model", "task", "max_train", "max_dev", "learning_rate_source")
"""Names of what digests hold: they count only where the digest is missing."""

CHANGED: Final = (
    "batch_size", "epochs", "max_steps", "batching", "compile", "pooling", "head", "optimizer",
    "schedule", "regression_loss", "weight_decay", "warmup", "dropout", "encoders", "task_order",
    "task_rates", "task_decays",
)  # fmt: skip
"""Settings in which groups may differ and be compared all the same: not those of the model, of the
data, or of the machine."""

_AMPS: Final = ("off", "bf16", "fp16")
_AXES: Final = ("mode", "rank", "layers", "amp", "unfreeze")


Values = NDArray[np.float64]
ValuesOf = Callable[[Row], Values | None]
"""Of a row's dev examples a number each [N], whose mean is its score; None where not kept."""


def no_values(_row: Row) -> Values | None:
    """Where nothing is kept."""
    return None


def number(value: Value) -> float | None:
    """A value as a float, or None if it is empty or no number."""
    return float(value) if isinstance(value, int | float) else None


@dataclass(frozen=True, eq=False)
class Setting:
    """A point of the grid without its seed, and the rows of its seeds, whatever their status."""

    mode: str
    rank: int | None
    layers: str | None
    amp: str
    unfreeze: str | None
    rate: float | None
    rows: tuple[Row, ...]
    tells_rate: bool = False
    values_of: ValuesOf = no_values

    @cached_property
    def values(self) -> dict[int, Values]:
        """By seed, the numbers of the dev examples whose mean is the score, where kept."""
        found = ((row.get("seed"), self.values_of(row)) for row in self.ok)
        return {int(seed or 0): values for seed, values in found if values is not None}

    @property
    def adapted(self) -> bool:
        """Whether it carries adapters."""
        return self.rank is not None

    @property
    def label(self) -> str:
        """Its name in sentences and tables, such as `lora rank 8 on all-lin-only, bf16`."""
        adapter = f" rank {self.rank} on {self.layers}" if self.adapted else ""
        rate = f", rate {self.rate:g}" if self.tells_rate and self.rate is not None else ""
        thaw = ", unfreezing" if self.unfreezes else ""
        return f"{self.mode}{adapter}{thaw}, {'fp32' if self.amp == 'off' else self.amp}{rate}"

    @property
    def unfreezes(self) -> bool:
        """Whether layers are unfrozen one after the other."""
        return self.unfreeze not in (None, "all")

    @cached_property
    def ok(self) -> tuple[Row, ...]:
        """The rows that ended ok."""
        return tuple(row for row in self.rows if row.get("status") == "ok")

    @cached_property
    def learned(self) -> bool:
        """False if any of its seeds was flagged as having learned nothing."""
        return not any("not_learned" in str(row.get("flags") or "").split() for row in self.ok)

    def by_seed(self, column: str) -> dict[int, float]:
        """Values of a column in the rows that ended ok, by seed."""
        if column not in self._by_seed:
            values = ((row.get("seed"), number(row.get(column))) for row in self.ok)
            self._by_seed[column] = {
                int(seed or 0): value for seed, value in values if value is not None
            }
        return self._by_seed[column]

    @cached_property
    def _by_seed(self) -> dict[str, dict[int, float]]:
        return {}

    def estimate(self, column: str) -> Interval | None:
        """Mean and interval over seeds; of one seed, its row's own interval if there is one.

        Scores whose predictions are kept vary by seeds and dev examples; the rest by seeds alone.
        """
        if column not in self._estimates:
            self._estimates[column] = self._estimate(column)
        return self._estimates[column]

    @cached_property
    def _estimates(self) -> dict[str, Interval | None]:
        return {}

    def _estimate(self, column: str) -> Interval | None:
        values = self.by_seed(column)
        if not values:
            return None
        if len(values) > 1:
            kept = self.values if column == "dev_score" else {}
            if kept.keys() == values.keys() and len({len(each) for each in kept.values()}) == 1:
                return spread(np.stack(list(kept.values()))).interval()
            return mean_t(list(values.values()))
        row = next(row for row in self.ok if number(row.get(column)) is not None)
        return _own_interval(row, column)


BETWEEN_PROCESSES: Final = 0.06
"""How far the times of processes that do the same are apart, as a deviation of their logarithms:
what no process shows of itself, and what its own interval therefore lacks. docs/measuring.md says
from what it was taken."""
_ENDS: Final = {
    "dev_score": ("dev_ci_low", "dev_ci_high"),
    "step_ms_median": ("step_ms_ci_low", "step_ms_ci_high"),
    "ms_per_1k_tokens": ("ms_per_1k_tokens_ci_low", "ms_per_1k_tokens_ci_high"),
}


def _own_interval(row: Row, column: str) -> Interval:
    """A row's value with the interval that the row itself holds; of times, wider by how much
    processes differ."""
    low, high = (number(row.get(name)) for name in _ENDS.get(column, ("", "")))
    found = Interval(number(row[column]) or 0.0, low, high)
    return found if column == "dev_score" else widened(found, BETWEEN_PROCESSES)


@dataclass(frozen=True, eq=False)
class Group:
    """Rows under equal conditions and settings: only these are compared with one another."""

    rows: tuple[Row, ...]
    settings: tuple[Setting, ...]

    @property
    def first(self) -> Row:
        """A row that stands for what all of them share; one that ended ok if there is one."""
        return next((row for row in self.rows if row.get("status") == "ok"), self.rows[0])

    def shared(self, column: str) -> Value:
        """The value that the group's rows have in a column, of the first that has one."""
        values = (row.get(column) for row in (self.first, *self.rows))
        return next((value for value in values if value is not None), None)

    @cached_property
    def told(self) -> Mapping[str, Value]:
        """What its rows share, by the columns that tell groups apart.

        Older rows of a regression that has no score don't tell its loss, which was mse.
        """
        found = {name: self.shared(name) for name in _told()}
        return {**found, "regression_loss": found.get("regression_loss") or "mse"}

    @property
    def ok(self) -> int:
        """How many cells ended ok."""
        return sum(row.get("status") == "ok" for row in self.rows)

    @property
    def metric(self) -> str:
        """The dev metric's name; empty where quality was not measured."""
        return str(self.shared("dev_metric") or "")

    @property
    def has_quality(self) -> bool:
        """Whether any setting has a dev score."""
        return any(setting.estimate("dev_score") for setting in self.settings)

    @property
    def memory_column(self) -> str:
        """The headline of memory: by tensors on a card, the resident set on a CPU."""
        on_cuda = str(self.shared("device") or "").startswith("cuda")
        return "peak_cuda_allocated_mib" if on_cuda else "peak_rss_mib"

    @property
    def time_column(self) -> str:
        """The headline of time: for 1,000 real tokens, or for a step where no tokens are known."""
        known = any(setting.estimate("ms_per_1k_tokens") for setting in self.settings)
        return "ms_per_1k_tokens" if known else "step_ms_median"

    @property
    def seeds(self) -> int:
        """The most seeds that ended ok in any setting."""
        return max((len(setting.ok) for setting in self.settings), default=0)

    @cached_property
    def compared(self) -> dict[tuple[str, int, int], Interval | None]:
        """Comparisons made so far, by column and the ids of both settings."""
        return {}

    @cached_property
    def baseline(self) -> Setting | None:
        """Full fine-tuning in fp32, at its best rate if there are several."""
        return self.full("off")

    def full(self, amp: str) -> Setting | None:
        """Full fine-tuning under a kind of AMP, at its best rate if there are several.

        It unfreezes gradually only where all settings with something to unfreeze do.
        """
        thaws = all(setting.unfreezes for setting in self.settings if setting.mode != "head")
        found = [
            s
            for s in self.settings
            if s.mode == "full" and s.amp == amp and s.ok and s.unfreezes == thaws
        ]
        return max(found, key=_score, default=None)

    @cached_property
    def judged(self) -> tuple[Setting, ...]:
        """The settings that can win: those not flagged as having learned nothing.

        Where all are flagged it is all of them: their costs mean something, their scores don't.
        """
        learned = tuple(setting for setting in self.settings if setting.ok and setting.learned)
        return learned or self.settings

    @cached_property
    def unlearned(self) -> tuple[Setting, ...]:
        """The settings that are flagged as having learned nothing."""
        return tuple(setting for setting in self.settings if setting.ok and not setting.learned)

    @property
    def ordered(self) -> tuple[Row, ...]:
        """Its rows, by setting and seed."""
        return tuple(
            row
            for setting in self.settings
            for row in sorted(setting.rows, key=lambda row: int(row.get("seed") or 0))
        )


def _score(setting: Setting) -> float:
    score = setting.estimate("dev_score")
    return score.value if score else float("-inf")


def groups(
    rows: Sequence[Row], planned: Sequence[Row] = (), values_of: ValuesOf = no_values
) -> list[Group]:
    """Rows, and planned cells that have none, by what may be compared.

    A search's candidates for learning rates are left out: they were scored on other examples.
    The group of the plan comes first, then the newest and, of equals, the largest.
    """
    done = still_lacking([row for row in latest(rows).values() if not is_candidate(row)])
    planned = [row for row in planned if not is_candidate(row)]
    known = set(map(cell_key, done))
    waiting = [{**row, "status": None} for row in planned if cell_key(row) not in known]
    wanted = {group_key(row) for row in planned}
    found: dict[tuple[Value, ...], list[Row]] = {}
    for row in [*done, *waiting]:
        found.setdefault(group_key(row), []).append(row)

    def order(key: tuple[Value, ...]) -> tuple[bool, str, int]:
        newest = max(str(r.get("finished_at") or r.get("started_at") or "") for r in found[key])
        return key in wanted, newest, len(found[key])

    ordered = sorted(found, key=order, reverse=True)
    return [Group(tuple(found[key]), _settings(found[key], values_of)) for key in ordered]


def is_candidate(row: Mapping[str, Value]) -> bool:
    """Whether a row is one of the tries of a search for learning rates."""
    return row.get("learning_rate_source") == CANDIDATE


@cache
def key_columns() -> tuple[str, ...]:
    """Columns whose values must be equal for rows to be compared."""
    apart = (*_FOLLOW_FROM_MODE, *_LABELS)
    return ("conditions_id", *(name for name in group_names("settings") if name not in apart))


def group_key(row: Mapping[str, Value]) -> tuple[Value, ...]:
    """What must be equal for rows to be compared.

    Older rows of a regression that has no score don't tell its loss, which was mse.
    """
    model = row.get("model_digest") or row.get("model")
    data = row.get("data_digest") or f"{row.get('task')} {row.get('max_train')}"
    return (model, data, row.get("regression_loss") or "mse", *map(row.get, _OTHER_KEYS))


_OTHER_KEYS: Final = tuple(
    name for name in key_columns() if name not in ("model_digest", "data_digest", "regression_loss")
)


def _settings(rows: Sequence[Row], values_of: ValuesOf) -> tuple[Setting, ...]:
    """Rows by everything but the seed, in the order of modes, layer sets, ranks and AMP."""
    axes = (*_AXES, *_FOLLOW_FROM_MODE)
    found: dict[tuple[Value, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(name) for name in axes), []).append(row)
    alike = Counter(key[: len(_AXES)] for key in found)
    settings = [
        Setting(
            mode=str(of[0].get("mode") or "unknown"),
            rank=None if (rank := number(of[0].get("rank"))) is None else int(rank),
            layers=None if of[0].get("layers") is None else str(of[0]["layers"]),
            amp=str(of[0].get("amp") or "off"),
            unfreeze=None if of[0].get("unfreeze") is None else str(of[0]["unfreeze"]),
            rate=number(of[0].get("learning_rate") or of[0].get("learning_rate_head")),
            rows=tuple(of),
            tells_rate=alike[key[: len(_AXES)]] > 1,
            values_of=values_of,
        )
        for key, of in found.items()
    ]
    return tuple(sorted(settings, key=_place))


def _place(setting: Setting) -> tuple[int, int, int, int, bool, float]:
    def index(value: str | None, order: Sequence[str]) -> int:
        return order.index(value) if value in order else -1

    return (
        index(setting.mode, MODES), index(setting.layers, LAYER_SETS), setting.rank or 0,
        index(setting.amp, _AMPS), setting.unfreezes, setting.rate or 0.0,
    )  # fmt: skip


@cache
def _told() -> tuple[str, ...]:
    """Columns that tell groups apart."""
    names = [name for name in group_names("conditions") if name != "code_version"]
    return (*names, *(n for n in group_names("settings") if n not in _FOLLOW_FROM_MODE))


def differing(group: Group, other: Group) -> list[str]:
    """Columns outside the axes in which two groups differ, labels before digests."""
    found = [name for name in _told() if group.told[name] != other.told[name]]
    named = {"model_digest": "model" in found, "data_digest": {"task", "max_train"} & set(found)}
    found = [name for name in found if not named.get(name)]
    return found or ["conditions_id"]


def about(column: str) -> str:
    """A column's own description, from the schema."""
    return BY_NAME[column].about
