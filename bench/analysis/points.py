"""The settings of a group: its rows by the points of the grid without their seeds and folds."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from operator import attrgetter
from typing import Final

from adapters import methods
from adapters.names import place
from bench.analysis.setting import Setting, between_processes
from bench.common.grouping import grouped
from bench.plan.cell import ABOUT, ALWAYS, Value, named
from bench.plan.columns import VALUES
from bench.plan.rows import Row
from bench.results.outcomes import ValuesOf

OPTIONS: Final = named(lambda about: about.compared == "follows" and about.before != ALWAYS)
"""Options of a method or of its rates, which a label names unless they have their usual value."""
FROM_MODE: Final = (
    *OPTIONS,
    *(name for name in named(lambda about: about.compared == "follows") if name not in OPTIONS),
    "scale",
)
"""Settings that follow from the mode."""
FROZEN: Final = "frozen_dtype"
"""A column in which the settings of a group may differ, like the axes."""
_AXES: Final = tuple(
    n for n in named(lambda about: about.compared == "axis") if n not in ("seed", "fold")
)


def settings_of(
    rows: Sequence[Row], others: Sequence[Sequence[Row]], values_of: ValuesOf
) -> tuple[Setting, ...]:
    """Rows by everything but seed and fold, in the order of modes, layer sets, ranks and AMP.

    Args:
        others: rows of each of the other machines from which scores may be taken.
    """
    points = grouped(rows, point)
    other_points = [grouped(machine, point) for machine in others]
    axes = len(_AXES)
    but_rates = axes + 1 + len(OPTIONS)
    rates = Counter(key[:but_rates] for key in points)
    frozen_types = Counter(key[:axes] for key in {key[: axes + 1] for key in points})
    between = cache(partial(between_processes, points.values()))
    settings = []
    for key, members in points.items():
        row = members[0]
        settings.append(Setting(
            row.mode, row.rank, row.layers, row.amp, row.unfreeze, row.frozen_dtype,
            rate=row.learning_rate or row.learning_rate_head, rows=tuple(members),
            elsewhere=_scored_elsewhere(members, [p.get(key, []) for p in other_points]),
            options=_options(row), tells_rate=rates[key[:but_rates]] > 1,
            tells_frozen=frozen_types[key[:axes]] > 1, values_of=values_of, between=between,
        ))  # fmt: skip
    return tuple(sorted(settings, key=_order))


point: Final[Callable[[Row], tuple[Value, ...]]] = attrgetter(*_AXES, FROZEN, *FROM_MODE)
"""The values that identify a setting within a group."""


def _options(row: Row) -> tuple[str, ...]:
    values = ((ABOUT[name], row[name]) for name in OPTIONS)
    return tuple(
        about.short.format(value) for about, value in values if value not in (None, about.before)
    )


def _order(setting: Setting) -> tuple[object, ...]:
    return (
        methods.place(setting.mode), place(setting.layers), setting.rank or 0,
        place_in(setting.amp, VALUES["amp"]), setting.unfreezes, setting.rate or 0.0,
        place_in(setting.frozen, VALUES[FROZEN]),
    )  # fmt: skip


def _scored_elsewhere(rows: Sequence[Row], others: Sequence[Sequence[Row]]) -> tuple[Row, ...]:
    """Rows of a setting on other machines, for seeds and folds that have no score here.

    Each score is taken from the first machine that has it.

    Args:
        rows: the setting's rows here.
        others: its rows on each of the other machines.
    """
    scores = {(row.seed, row.fold) for row in rows if _is_scored(row)}
    elsewhere: list[Row] = []
    for machine in others:
        scored = [r for r in machine if _is_scored(r) and (r.seed, r.fold) not in scores]
        scores |= {(row.seed, row.fold) for row in scored}
        elsewhere += scored
    return tuple(elsewhere)


def _is_scored(row: Row) -> bool:
    """Whether a row has a score, or is a fold whose predictions count though it has none."""
    return row.has_score or (row.folds is not None and row.is_ok and row.dev_metric is not None)


def place_in(value: str | None, order: Sequence[str]) -> int:
    """The index of a value in an order of values; −1 where it is not among them."""
    return order.index(value) if value in order else -1
