"""Which rows may be compared: comparability groups, and in them the settings over their seeds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

from bench.analysis.metrics import Metric, metric_of
from bench.analysis.points import FROZEN, place_in, settings_of
from bench.analysis.setting import Setting, between_processes
from bench.plan.cell import CANDIDATE, Row, Value, named
from bench.plan.columns import BY_NAME, VALUES, cell_key, group_names, latest, software_key
from bench.plan.learning_rates import still_lacking
from bench.results.outcomes import ValuesOf, no_values
from bench.stats.intervals import Interval, Std

CHANGED: Final = named(lambda about: about.compared == "group")
"""Settings in which groups may differ and be compared all the same: not those of the model, of the
data, or of the machine."""


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
    def shared_values(self) -> Mapping[str, Value]:
        """What its rows share, by the columns that tell groups apart.

        Older rows of a regression that has no score don't tell its loss, which was mse.
        """
        found = {name: self.shared(name) for name in _group_columns()}
        return {**found, "regression_loss": found.get("regression_loss") or "mse"}

    @property
    def ok(self) -> int:
        """How many rows ended ok."""
        return sum(row.get("status") == "ok" for row in self.rows)

    @property
    def metric(self) -> str:
        """The dev metric's name; empty where quality was not measured."""
        return str(self.shared("dev_metric") or "")

    @property
    def scoring(self) -> Metric:
        """The dev metric."""
        return metric_of(self.metric)

    @cached_property
    def usual(self) -> tuple[Setting, ...]:
        """Its settings, where some differ in how frozen weights are held alone, as most hold them.

        That is told for each kind of AMP by itself; of equals the first of the schema's values.
        """
        held: dict[str, Counter[str | None]] = {}
        for setting in self.settings:
            if setting.tells_frozen:
                held.setdefault(setting.amp, Counter())[setting.frozen] += 1
        order = VALUES[FROZEN]
        most = {
            amp: max(counts, key=lambda one: (counts[one], -place_in(one, order)))
            for amp, counts in held.items()
        }
        return tuple(
            setting
            for setting in self.settings
            if not setting.tells_frozen or setting.frozen == most[setting.amp]
        )

    def between(self, column: str) -> Std | None:
        """How far processes that do the same are apart in a column."""
        return between_processes(self.rows, column)

    @property
    def has_quality(self) -> bool:
        """Whether any setting has a dev score."""
        return any(setting.estimate("dev_score") for setting in self.settings)

    @property
    def memory_column(self) -> str:
        """The headline of memory: by tensors on a GPU, the resident set on a CPU."""
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
        return max(
            (len({r.get("seed") for r in setting.ok}) for setting in self.settings), default=0
        )

    @property
    def runs(self) -> int:
        """The most runs that ended ok in any setting: of all seeds, repeats and versions."""
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
        unfreezes = all(setting.unfreezes for setting in self.settings if setting.mode != "head")
        found = [
            s
            for s in self.settings
            if s.mode == "full" and s.amp == amp and s.ok and s.unfreezes == unfreezes
        ]
        return max(found, key=self._gain, default=None)

    def _gain(self, setting: Setting) -> float:
        score = setting.estimate("dev_score")
        return self.scoring.gain(score.value) if score else float("-inf")

    @cached_property
    def learned(self) -> bool:
        """Whether scores can be weighed against costs: some setting is not flagged as having
        learned nothing, and it is not full fine-tuning alone beside others that are."""
        ok = [setting for setting in self.settings if setting.ok]
        others = [setting for setting in ok if setting.mode != "full"]
        return any(setting.learned for setting in others or ok)

    @cached_property
    def judged(self) -> tuple[Setting, ...]:
        """The settings that can win: those not flagged as having learned nothing.

        Where nothing can be weighed it is all of them: their costs mean something, their scores
        don't.
        """
        if not self.learned:
            return self.settings
        return tuple(setting for setting in self.settings if setting.ok and setting.learned)

    @cached_property
    def unlearned(self) -> tuple[Setting, ...]:
        """The settings that are flagged as having learned nothing."""
        return tuple(setting for setting in self.settings if setting.ok and not setting.learned)

    @property
    def ordered(self) -> tuple[Row, ...]:
        """Its rows, by setting, seed and repeat."""
        return tuple(
            row
            for setting in self.settings
            for row in sorted(
                setting.rows,
                key=lambda row: (int(row.get("seed") or 0), int(row.get("repeat") or 1)),
            )
        )


def groups(
    rows: Sequence[Row], planned: Sequence[Row] = (), values_of: ValuesOf = no_values
) -> list[Group]:
    """Rows, and planned cells that have none, by what may be compared.

    A planned cell with a code_version is one that a result of that version is wanted of.
    A search's candidates for learning rates are left out: they were scored on other examples.
    The group of the plan comes first, then the newest and, of equals, the largest.
    """
    done = still_lacking([row for row in latest(rows).values() if not is_candidate(row)])
    planned = [row for row in planned if not is_candidate(row)]
    known = {(cell_key(row), of) for row in rows for of in (None, row.get("code_version"))}
    waiting = [
        {**row, "status": None}
        for row in planned
        if (cell_key(row), row.get("code_version")) not in known
    ]
    wanted = {group_key(row) for row in planned}
    found: dict[tuple[Value, ...], list[Row]] = {}
    for row in [*done, *waiting]:
        found.setdefault(group_key(row), []).append(row)

    def order(key: tuple[Value, ...]) -> tuple[bool, str, int]:
        newest = max(str(r.get("finished_at") or r.get("started_at") or "") for r in found[key])
        return key in wanted, newest, len(found[key])

    ordered = sorted(found, key=order, reverse=True)
    alike: dict[tuple[Value, ...], list[tuple[Value, ...]]] = {}
    for key in ordered:
        if (software := _software(found[key][0])) is not None:
            alike.setdefault(software, []).append(key)
    found_groups = []
    for key in ordered:
        same = alike.get(_software(found[key][0]) or (), ())
        others = [found[other] for other in same if other != key]
        found_groups.append(Group(tuple(found[key]), settings_of(found[key], others, values_of)))
    return found_groups


def _software(row: Row) -> tuple[Value, ...] | None:
    """What must be equal for scores to be compared: all that groups share, but for the machine.

    None where the software is not known.
    """
    if row.get("torch_version") is None or row.get("measurement_version") is None:
        return None
    whole = group_key(row)
    return (*whole[:_MACHINE], *whole[_MACHINE + 1 :], *software_key(row))


def is_candidate(row: Mapping[str, Value]) -> bool:
    """Whether a row is one of the tries of a search for learning rates."""
    return row.get("learning_rate_source") == CANDIDATE


@cache
def key_columns() -> tuple[str, ...]:
    """Columns whose values must be equal for rows to be compared."""
    return ("conditions_id", *named(lambda about: about.compared in ("group", "never")))


def group_key(row: Mapping[str, Value]) -> tuple[Value, ...]:
    """What must be equal for rows to be compared.

    Older rows of a regression that has no score don't tell its loss, which was mse.
    """
    model = row.get("model_digest") or row.get("model")
    data = row.get("data_digest") or f"{row.get('task')} {row.get('max_train')}"
    return (model, data, row.get("regression_loss") or "mse", *map(row.get, _OTHER_KEYS))


_MACHINE: Final = 3
"""Where the machine stands in a group's key: its conditions_id."""
_OTHER_KEYS: Final = tuple(
    name for name in key_columns() if name not in ("model_digest", "data_digest", "regression_loss")
)


@cache
def _group_columns() -> tuple[str, ...]:
    """Columns that tell groups apart."""
    names = [name for name in group_names("conditions") if name != "code_version"]
    return (*names, *named(lambda about: about.compared in ("group", "never", "label")))


def differing(group: Group, other: Group) -> list[str]:
    """Columns outside the axes in which two groups differ, labels before digests."""
    found = [
        name for name in _group_columns() if group.shared_values[name] != other.shared_values[name]
    ]
    named = {"model_digest": "model" in found, "data_digest": {"task", "max_train"} & set(found)}
    found = [name for name in found if not named.get(name)]
    return found or ["conditions_id"]


def about(column: str) -> str:
    """A column's own description, from the schema."""
    return BY_NAME[column].about
