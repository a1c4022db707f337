"""The rows of a group by setting: points of the grid without their seeds."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache, partial
from typing import Final

from adapters.methods import MODES
from adapters.names import LAYER_SETS
from bench.analysis.setting import Setting, between_processes, number
from bench.plan.cell import Row, Value, named
from bench.plan.columns import VALUES, has_score
from bench.results.outcomes import ValuesOf

FROM_MODE: Final = (*named(lambda about: about.compared == "follows"), "scale")
"""Settings that follow from the mode."""
FROZEN: Final = "frozen_dtype"
"""A setting in which the settings of a group may differ, like the axes."""
_AXES: Final = tuple(n for n in named(lambda about: about.compared == "axis") if n != "seed")


def settings_of(
    rows: Sequence[Row], others: Sequence[Sequence[Row]], values_of: ValuesOf
) -> tuple[Setting, ...]:
    """Rows by everything but the seed, in the order of modes, layer sets, ranks and AMP.

    Args:
        others: rows of each of the other machines that can lend scores.
    """
    found = _by_point(rows)
    lenders = [_by_point(each) for each in others]
    axes = len(_AXES)
    rates = Counter(key[: axes + 1] for key in found)
    held = Counter(key[:axes] for key in {key[: axes + 1] for key in found})
    between = cache(partial(between_processes, rows))
    settings = [
        Setting(
            mode=str(of[0].get("mode") or "unknown"),
            rank=None if (rank := number(of[0].get("rank"))) is None else int(rank),
            layers=_text(of[0], "layers"),
            amp=str(of[0].get("amp") or "off"),
            unfreeze=_text(of[0], "unfreeze"),
            frozen=_text(of[0], FROZEN),
            rate=number(of[0].get("learning_rate") or of[0].get("learning_rate_head")),
            rows=tuple(of),
            elsewhere=_lent(of, [points.get(key, []) for points in lenders]),
            tells_rate=rates[key[: axes + 1]] > 1,
            tells_frozen=held[key[:axes]] > 1,
            values_of=values_of,
            between=between,
        )
        for key, of in found.items()
    ]
    return tuple(sorted(settings, key=_place))


def _by_point(rows: Iterable[Row]) -> dict[tuple[Value, ...], list[Row]]:
    found: dict[tuple[Value, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(point(row), []).append(row)
    return found


def point(row: Row) -> tuple[Value, ...]:
    """What makes a setting of a group."""
    return tuple(map(row.get, (*_AXES, FROZEN, *FROM_MODE)))


def _text(row: Row, name: str) -> str | None:
    return None if row.get(name) is None else str(row[name])


def _place(setting: Setting) -> tuple[int, int, int, int, bool, float, int]:
    return (
        place_in(setting.mode, MODES), place_in(setting.layers, LAYER_SETS), setting.rank or 0,
        place_in(setting.amp, VALUES["amp"]), setting.unfreezes, setting.rate or 0.0,
        place_in(setting.frozen, VALUES[FROZEN]),
    )  # fmt: skip


def _lent(rows: Sequence[Row], others: Sequence[Sequence[Row]]) -> tuple[Row, ...]:
    """Rows of the same setting on other machines, for seeds that have no score here.

    Of several machines the first that has a seed lends its score.

    Args:
        rows: of the setting here.
        others: of the setting on each of the others.
    """
    has = {row.get("seed") for row in rows if has_score(row)}
    found: list[Row] = []
    for machine in others:
        lent = [row for row in machine if has_score(row) and row.get("seed") not in has]
        has |= {row.get("seed") for row in lent}
        found += lent
    return tuple(found)


def place_in(value: str | None, order: Sequence[str]) -> int:
    """The place of a value in an order of values; before all of them where it is none."""
    return order.index(value) if value in order else -1
