"""Settings of two sets of rows, BASE and NEW, that may be compared, and why others may not."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, Literal

from bench.analysis.groups import settings_key
from bench.analysis.setting import Setting, settings_of
from bench.common.grouping import grouped
from bench.plan.cell import ABOUT, Value, named
from bench.plan.learning_rates import still_lacking
from bench.plan.rows import RESUMED, Row, current_rows
from bench.results.outcomes import ValuesOf

Side = Literal["BASE", "NEW"]
SIDES: Final[tuple[Side, Side]] = ("BASE", "NEW")
Machine = tuple[str, str, str, int, str | None, str | None]
"""Type of device, its name, machine, threads and what else ran there."""
Key = tuple[Value, ...]

IDENTIFYING: Final = tuple(n for n in named(lambda a: a.identifies) if n not in ("seed", "fold"))
"""Settings in which rows of one setting agree."""
_FOLLOWING: Final = named(lambda about: about.compared == "follows")
_WITH: Final = {
    "mode": _FOLLOWING,
    "layers": _FOLLOWING,
    "rank": ("alpha",),
    "learning_rate": ("learning_rate_base", "learning_rate_head"),
}
"""What follows from settings that filters name."""
_FORMERLY: Final = {name: ABOUT[name].before for name in ("unfreeze", "regression_loss")}
"""Settings that are empty where they do not matter, as if they had these values."""
_NEAR: Final = ("mode", "rank", "layers", "amp")
"""Settings in which the nearest setting of the other side agrees."""
_MOST_NEAR: Final = 20  # the number of settings of the other side among which the nearest is sought
_DIGESTS: Final = {"model_digest": "model", "data_digest": "data"}
_SHOWN: Final = ("model", "task", "max_train", *IDENTIFYING)
"""Columns that distinguish settings of one label."""


def counted_rows(rows: Iterable[Row]) -> list[Row]:
    """The newest row of each repeat of a cell on a machine, without candidates of a search for
    learning rates; of equal conditions, the last that ended ok, where one did."""
    current = current_rows(row for row in rows if not row.is_trial).values()
    last: dict[tuple[str, int, Machine], Row] = {}
    for row in still_lacking(list(current)):
        key = (row.cell_id, row.repeat, machine_of(row))
        pair = row, last.get(key, row)  # of equal ages the later row counts
        last[key] = max(pair, key=lambda one: (one.status not in RESUMED, one.started_at or ""))
    return list(last.values())


def machine_of(row: Row) -> Machine:
    device = row.device.partition(":")[0]
    return device, row.device_name, row.machine, row.threads, row.sharing, row.executor


def machine_name(machine: Machine) -> str:
    device, name, host, threads, *others = machine
    where = f"{name} in {host}" if device != "cpu" else host
    return f"{where}, {threads} threads{''.join(f', {other}' for other in others if other)}"


@dataclass(frozen=True, eq=False)
class Match:
    """A setting of each side that may be compared; machine None: they ran on different ones."""

    base: Setting
    new: Setting
    machine: Machine | None

    @property
    def sides(self) -> tuple[Setting, Setting]:
        return self.base, self.new

    @property
    def label(self) -> str:
        """The setting's name; where they differ, of both."""
        one, other = self.base.label, self.new.label
        return one if one == other else f"{other} against {one}"


@dataclass(frozen=True, eq=False)
class Matching:
    """Two sets of rows, matched: pairs of settings, settings that are compared with nothing and
    why, and the rows of BASE and NEW that count."""

    matches: list[Match]
    unmatched: list[tuple[Side, Setting, str]]
    rows: tuple[list[Row], list[Row]]


def matching(
    base: Iterable[Row],
    new: Iterable[Row],
    names: Collection[str],
    values_of: tuple[ValuesOf, ValuesOf],
) -> Matching:
    """Match settings of both sides, on each machine that both have; without any, across machines.
    They may differ in the columns of these names, as filters name them."""
    rows = counted_rows(base), counted_rows(new)
    by_machine = [grouped(side, machine_of) for side in rows]
    common = [machine for machine in by_machine[0] if machine in by_machine[1]]
    columns = _key_columns(names, rows)
    matched = Matching([], [], rows)
    if not common:
        _match(rows, None, columns, values_of, matched)
        return matched
    for machine in common:
        here = by_machine[0][machine], by_machine[1][machine]
        _match(here, machine, columns, values_of, matched)
    for side, machines, values in zip(SIDES, by_machine, values_of, strict=True):
        for machine in [machine for machine in machines if machine not in common]:
            why = f"measured on {machine_name(machine)} in {side} alone"
            settings = _settings(machines[machine], values)
            matched.unmatched.extend((side, setting, why) for setting in settings)
    return matched


def _match(
    rows: tuple[list[Row], list[Row]],
    machine: Machine | None,
    columns: tuple[str, ...],
    values_of: tuple[ValuesOf, ValuesOf],
    matched: Matching,
) -> None:
    """Add the matches of rows, and what has none."""

    def key_of(setting: Setting) -> Key:
        row = setting.rows[0]
        return tuple(row[name] or _FORMERLY.get(name, row[name]) for name in columns)

    sides = zip(rows, values_of, strict=True)
    base, new = (grouped(_settings(side, values), key_of) for side, values in sides)
    matched.matches.extend(
        Match(one, other, machine)
        for key, [one, *more] in base.items()
        for other in ([] if more else new.get(key, []))
    )
    near_places = [columns.index(name) for name in _NEAR if name in columns]

    def near(key: Key) -> Key:
        return tuple(key[place] for place in near_places)

    for side, mine, others in zip(SIDES, (base, new), (new, base), strict=True):
        by_near = grouped(others, near)
        for key, members in mine.items():
            if key not in others:
                why = _difference(columns, key, by_near.get(near(key), [])[:_MOST_NEAR], side)
            elif len(base[key]) > 1:
                why = "several settings of BASE match: narrow --base"
            else:
                continue
            matched.unmatched.extend((side, setting, why) for setting in members)


def _settings(rows: Iterable[Row], values_of: ValuesOf) -> list[Setting]:
    """The settings of groups of rows, on whatever machine, one group after the other."""
    groups = grouped(rows, settings_key).values()
    return [setting for own in groups for setting in settings_of(own, [], values_of)]


def _key_columns(names: Collection[str], rows: tuple[list[Row], list[Row]]) -> tuple[str, ...]:
    """The columns in which matching settings agree.

    That is all that identify a setting; but not those that filters name, what follows from these,
    and, with filters, what doesn't apply to any row of one side, such as the version of another
    engine's libraries. Different data or models can't be compared even if named.
    """
    free = {name for name in names if name in ABOUT and ABOUT[name].compared != "never"}
    for name in tuple(free):
        free.update(_WITH.get(name, ()))
    for name in ABOUT if free else ():
        applies = ABOUT[name].applies
        if not all(any(applies(vars(row)) for row in side) for side in rows):
            free.add(name)
    kept = [name for name in IDENTIFYING if name not in free]
    return tuple(sorted(kept, key=lambda name: name in _FORMERLY))


def _difference(columns: Sequence[str], key: Key, others: Sequence[Key], side: Side) -> str:
    """The columns in which a setting differs from the nearest one of the other side."""
    if not others:
        return f"only in {side}"
    pairs = [[i for i in range(len(key)) if key[i] != other[i]] for other in others]
    number = min(range(len(others)), key=lambda i: len(pairs[i]))
    other_side = "NEW" if side == "BASE" else "BASE"
    texts = [
        f"other {_DIGESTS[name]} than in {other_side}"
        if (name := columns[i]) in _DIGESTS
        else f"{name} is {text_of(key[i])}, in {other_side} {text_of(others[number][i])}"
        for i in pairs[number]
    ]
    return "; ".join(texts)


def not_measured(base: object, new: object) -> str:
    """The sides that lack what is compared, which is empty there; empty: neither does."""
    missing = [side for side, has in zip(SIDES, (base, new), strict=True) if not has]
    return f"not measured in {' and '.join(missing)}" if missing else ""


def text_of(value: Value, empty: str = "empty") -> str:
    return empty if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def distinct_labels(items: Sequence[tuple[str, Row]]) -> list[str]:
    """Labels, each with a row of what it names; equal ones get the columns that differ."""
    varying = {}
    for label, alike in grouped(items, itemgetter(0)).items():
        names = [name for name in _SHOWN if len({row[name] for _, row in alike}) > 1]
        varying[label] = [name for name in names if name not in _DIGESTS] or names
    return [", ".join([label, *(_named(n, row) for n in varying[label])]) for label, row in items]


def _named(name: str, row: Row) -> str:
    value, short = row[name], ABOUT[name].short
    return short.format(value) if value and short else f"{name} {text_of(value)}"
