"""Groups of rows that may be compared, and the settings of a group over their seeds."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import floor, inf, log10
from operator import attrgetter
from typing import Final

from bench.analysis.setting import FROZEN, Setting, between_processes, place_of_run, settings_of
from bench.common.grouping import grouped
from bench.plan.cell import ON, Value, named
from bench.plan.columns import VALUES, group_names
from bench.plan.learning_rates import still_lacking
from bench.plan.metrics import Metric, metric_of
from bench.plan.rows import Row, latest
from bench.results.outcomes import ValuesOf, no_values
from bench.stats.best import FEWEST_SEEDS
from bench.stats.intervals import Interval, Std

CHANGED: Final = named(lambda about: about.compared == "group")
"""Settings in which groups may differ and still be compared: not model, data or machine."""
_PLANNED: Final = frozenset(CHANGED) - {"batch_size", "epochs", "max_length", "max_steps"}
"""Settings that a grid changes one at a time from a usual value."""
_MOST_GROUPS: Final = 60
_FOLLOWING: Final = (
    "model_digest", "pooling", "max_length", "engine", "engine_version", "attn_implementation",
    "kernels",
)  # fmt: skip
"""Settings of a group that may follow from its encoder."""
_COMPARED: Final = tuple(
    n for n in named(lambda about: about.compared in ("group", "never")) if n != "regression_loss"
)
"""Settings in which the rows of a group agree, besides the loss of a regression."""
_SHARED: Final = tuple(name for name in _COMPARED if name not in _FOLLOWING)
"""Likewise of the groups of several encoders."""


@dataclass(frozen=True, eq=False)
class Group:
    """Rows under equal conditions and settings; only rows of one group are compared."""

    rows: tuple[Row, ...]
    settings: tuple[Setting, ...]
    race: "Group | None" = None  # the rounds of the race that chose among settings
    encoders: Mapping[str, "Group"] = field(default_factory=dict)  # their groups, if of several

    @property
    def first(self) -> Row:
        """A representative row; one that ended ok if there is one."""
        return next((row for row in self.rows if row.is_ok), self.rows[0])

    def shared(self, column: str) -> Value:
        """The first value in a column that the rows share."""
        values = map(attrgetter(column), (self.first, *self.rows))
        return next((value for value in values if value is not None), None)

    @cached_property
    def shared_values(self) -> Mapping[str, Value]:
        """The shared values of the columns in which groups differ; older rows of a regression
        without a score lack its loss, which was mse."""
        shared = {name: self.shared(name) for name in _GROUP_COLUMNS}
        return {**shared, "regression_loss": shared.get("regression_loss") or "mse"}

    @property
    def ok(self) -> int:
        return sum(row.is_ok for row in self.rows)

    @property
    def metric(self) -> str:
        """The dev metric's name; empty where quality was not measured."""
        return str(self.shared("dev_metric") or "")

    @property
    def scoring(self) -> Metric:
        return metric_of(self.metric)

    @cached_property
    def margin(self) -> float:
        """How much worse than full fine-tuning a score may be to count as no worse, as a positive
        difference of scores."""
        score = self.baseline.mean("dev_score") if self.baseline else None
        return self.scoring.tolerance(score or 0.0)

    @cached_property
    def decimals(self) -> int:
        """Decimals of scores in text: three, or four digits of those in the unit of the labels."""
        if self.scoring.bounded:
            return 3
        largest = max((abs(one.mean("dev_score") or 0.0) for one in self.settings), default=0.0)
        return max(0, 3 - floor(log10(largest))) if largest > 0 else 3

    @cached_property
    def usual(self) -> tuple[Setting, ...]:
        """The settings, one of each that differ only in the type of frozen weights: the most
        frequent one under a kind of AMP, and of equally frequent ones the first of the schema's
        values."""
        varied = [setting for setting in self.settings if setting.tells_frozen]
        types = {
            amp: [setting.frozen for setting in alike]
            for amp, alike in grouped(varied, lambda setting: setting.amp).items()
        }
        # Of equally frequent ones, max takes the first.
        most = {amp: max((*VALUES[FROZEN], None), key=types[amp].count) for amp in types}
        return tuple(s for s in self.settings if not s.tells_frozen or s.frozen == most[s.amp])

    def between(self, column: str) -> Std | None:
        return between_processes((setting.rows for setting in self.settings), column)

    @property
    def has_quality(self) -> bool:
        return any(setting.estimate("dev_score") for setting in self.settings)

    @property
    def memory_column(self) -> str:
        """The main column of memory: by tensors on a GPU, the resident set on a CPU."""
        is_gpu = str(self.shared("device")).startswith("cuda")
        return "peak_cuda_allocated_mib" if is_gpu else "peak_rss_mib"

    @property
    def time_column(self) -> str:
        """The main column of time: for 1,000 tokens without padding, or for a step without token
        counts; of several encoders, whose tokens differ, that of a whole training."""
        if any(setting.encoder for setting in self.settings):
            return "train_s"
        known = any(setting.estimate("ms_per_1k_tokens") for setting in self.settings)
        return "ms_per_1k_tokens" if known else "step_ms_median"

    def gain(self, setting: Setting) -> float:
        """A setting's score as a number of which more is better; −∞ without a score."""
        score = setting.mean("dev_score")
        return -inf if score is None else self.scoring.gain(score)

    @property
    def folds(self) -> int | None:
        return self.first.folds

    @property
    def is_race(self) -> bool:
        return self.rows[0].race == ON

    @property
    def seeds(self) -> int:
        """The largest number of seeds that ended ok in a setting."""
        return max((len({r.seed for r in setting.ok}) for setting in self.settings), default=0)

    @property
    def usual_seeds(self) -> int:
        """The number of seeds of its grid, without further ones that --confirm trained."""
        return sorted(1 + max(row.seed for row in one.rows) for one in self.settings)[-2:][0]

    @cached_property
    def common_places(self) -> set[tuple[int, int]]:
        """The seeds and folds that all settings with seeds enough to be recommended have with their
        memory; those that all settings have where none has enough."""
        every = [setting for setting in self.settings if setting.ok]
        enough = [setting for setting in every if len(setting.scores) >= FEWEST_SEEDS]
        places = [setting.places(self.memory_column) for setting in enough or every]
        return set.intersection(*places) if places else set()

    @cached_property
    def compared(self) -> dict[tuple[str, int, int], Interval | None]:
        """A cache of comparisons, by column and the ids of both settings."""
        return {}

    @cached_property
    def baseline(self) -> Setting | None:
        """Full fine-tuning in fp32, at the best of its rates."""
        return self.full("off")

    def full(self, amp: str) -> Setting | None:
        """Full fine-tuning under a kind of AMP, at the best of its rates; with gradual unfreezing
        only if all settings that can unfreeze do so."""
        return self._fulls.get(amp)

    @cached_property
    def _fulls(self) -> dict[str, Setting]:
        unfreezes = all(setting.unfreezes for setting in self.settings if setting.mode != "head")
        full = [s for s in self.settings if s.mode == "full" and s.ok and s.unfreezes == unfreezes]
        # of several with one AMP the last one stays: the best, and of equally good ones the first
        return {s.amp: s for s in sorted(full, key=self.gain, reverse=True)[::-1]}

    @cached_property
    def learned(self) -> bool:
        """Whether scores can be weighed against costs: a setting other than full fine-tuning, or
        one of full fine-tuning if there is no other, is not flagged `not_learned`."""
        ok = [setting for setting in self.settings if setting.ok]
        others = [setting for setting in ok if setting.mode != "full"]
        return any(setting.learned for setting in others or ok)

    @cached_property
    def unlearned(self) -> tuple[Setting, ...]:
        return tuple(setting for setting in self.settings if setting.ok and not setting.learned)

    @property
    def ordered(self) -> tuple[Row, ...]:
        return tuple(row for s in self.settings for row in sorted(s.rows, key=place_of_run))


def groups(
    rows: Sequence[Row], planned: Sequence[Row] = (), values_of: ValuesOf = no_values
) -> list[Group]:
    """Rows, and planned cells without a row of their code_version, grouped by what may be compared.
    Candidates of a search for learning rates are left out, as they were scored on other examples.
    The rounds of a race are a group within that of the same settings on dev or, without one, within
    itself. The group of the plan comes first, then that of most training examples, the newest and,
    of equally new ones, the largest."""
    done = still_lacking([row for row in latest(rows).values() if not row.is_candidate])
    planned = [row for row in planned if not row.is_candidate]
    known = {(row.key, row.code_version) for row in rows}
    waiting = [row for row in planned if (row.key, row.code_version) not in known]
    waiting = [replace(row, status=None) for row in waiting]
    planned_keys = {group_key(row) for row in planned}
    by_key = grouped([*done, *waiting], group_key)

    def order(key: tuple[Value, ...]) -> tuple[bool, float, str, int]:
        newest = max(r.finished_at or r.started_at or "" for r in by_key[key])
        most = by_key[key][0].max_train or inf  # less: of a learning curve
        return key in planned_keys, most, newest, len(by_key[key])

    members = [by_key[key] for key in sorted(by_key, key=order, reverse=True)]
    by_software = grouped(members, lambda group_rows: _software(group_rows[0]))
    result = []
    for group_rows in members:
        same = by_software[_software(group_rows[0])]
        others = [other for other in same if other is not group_rows]
        result.append(Group(tuple(group_rows), settings_of(group_rows, others, values_of)))
    return _with_races(result)


def _with_races(every: Sequence[Group]) -> list[Group]:
    """Groups with their races. The rounds of a race are no group of their own, unless nothing has
    run on dev yet."""
    of_race = {group_key(group.rows[0]): group for group in every if group.is_race}
    result: dict[tuple[Value, ...], Group] = {}
    for group in every:
        key = group_key(group.rows[0] | {"race": ON})
        if key not in result or not group.is_race:
            result[key] = replace(group, race=of_race.get(key))
    return [*result.values()]


def ordered_groups(rows: Sequence[Row], planned: Sequence[Row], values_of: ValuesOf) -> list[Group]:
    """The groups in the order of a report: first the one that is recommended from."""
    return hub_first(groups(rows, planned, values_of), {group_key(row) for row in planned})


def _software(row: Row) -> tuple[Value, ...]:
    """The values that must be equal for scores to be compared: a group's, except the machine."""
    return (*settings_key(row), *row.software)


def group_key(row: Row) -> tuple[Value, ...]:
    """The values that must be equal for rows to be compared."""
    return (row.conditions_id, *settings_key(row))


def settings_key(row: Row) -> tuple[Value, ...]:
    """The values of a group's key without the machine's; older rows of a regression without a score
    lack its loss, which was mse."""
    return (row.regression_loss or "mse", *_compared(row))


_compared = attrgetter(*_COMPARED)
_GROUP_COLUMNS: Final = (
    *(name for name in group_names("conditions") if name != "code_version"),
    *named(lambda about: about.compared in ("group", "never", "label")),
)
"""Columns in which groups can differ."""


def differing(group: Group, other: Group) -> list[str]:
    """Columns outside the axes in which two groups differ, labels before digests."""
    names = [n for n in _GROUP_COLUMNS if group.shared_values[n] != other.shared_values[n]]
    labelled = {"model_digest": "model" in names, "data_digest": {"task", "max_train"} & set(names)}
    return [name for name in names if not labelled.get(name)] or ["conditions_id"]


def hub(
    groups: Sequence[Group], names: Collection[str] = CHANGED
) -> tuple[Group, list[tuple[Group, str]]] | None:
    """The group with the most neighbours, and these with the setting, one of `names`, in which each
    differs. Groups are neighbours if they differ in one setting alone. None without any neighbours,
    or with too many groups to compare them all."""
    if not 1 < len(groups) <= _MOST_GROUPS:
        return None
    candidates = []
    for base in groups:
        columns = [(group, differing(group, base)) for group in groups if group is not base]
        alike = [(group, own[0]) for group, own in columns if len(own) == 1 and own[0] in names]
        candidates.append((base, alike))
    base, neighbours = max(candidates, key=lambda candidate: len(candidate[1]))
    return (base, neighbours) if neighbours else None


def hub_first(groups: Sequence[Group], planned: Collection[object]) -> list[Group]:
    """The groups, with the hub moved to the front if the first group is one of its neighbours; a
    hub that is not among the planned groups, if there are any, stays in its place."""
    base, neighbours = hub(groups, _PLANNED) or (None, [])
    if base is None or groups[0] not in [group for group, _ in neighbours]:
        return list(groups)
    if planned and group_key(base.first) not in planned:
        return list(groups)
    return [base, *(group for group in groups if group is not base)]


def encoders_of(groups: Sequence[Group]) -> Group | None:
    """The settings of the encoders that can be compared with that of the first group, which name
    their encoder, as one group; None without any other. Of several groups of an encoder, the one
    that differs least from the first counts."""
    if not groups:
        return None
    first = groups[0]
    alike = [group for group in groups if group.ok and _shared(group) == _shared(first)]
    by_model = grouped(alike, lambda group: group.shared("model_digest"))
    if len(by_model) < 2 or first.shared("model_digest") not in by_model:
        return None
    nearest = [min(own, key=lambda one: len(differing(one, first))) for own in by_model.values()]
    labels = [str(group.shared("model")) for group in nearest]
    digests = [str(group.shared("model_digest"))[:6] for group in nearest]
    by_name = {
        label if labels.count(label) == 1 else f"{label}@{digest}": group
        for label, digest, group in zip(labels, digests, nearest, strict=True)
    }
    rows = tuple(row for group in nearest for row in group.rows)
    settings = tuple(
        replace(s, encoder=name) for name, group in by_name.items() for s in group.settings
    )
    return Group(rows, settings, encoders=by_name)


def _shared(group: Group) -> tuple[Value, ...]:
    row = group.first
    return (row.conditions_id, *(row[name] for name in _SHARED), row.regression_loss or "mse")
