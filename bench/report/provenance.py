"""What a report says of where its rows and intervals come from."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.analysis.verdicts import column
from bench.common.errors import InputError
from bench.plan.cell import Row, Value
from bench.report.text import count

_UNKNOWN: Final = "a version not recorded"
_MOST: Final = 6
"""Versions or machines that a sentence names."""


def of_version(rows: Sequence[Row], version: str) -> list[Row]:
    """The rows of one version of the code.

    Raises:
        InputError: where there are none.
    """
    found = [row for row in rows if row.get("code_version") == version]
    if rows and not found:
        there = _counted(row.get("code_version") or _UNKNOWN for row in rows)
        raise InputError(f"--code-version: no row is of {version!r}; there are {there}")
    return found


def versions(rows: Iterable[Row]) -> list[str]:
    """That rows are of several versions of the code, if they are."""
    names = [str(row.get("code_version") or _UNKNOWN) for row in rows]
    if len(set(names)) < 2:
        return []
    return [
        f"The rows are of {len(set(names))} versions of the code: {_counted(names)}. Of a cell "
        "that ran under several all runs count; --code-version shows one version alone."
    ]


def left_out(number: int, version: str) -> str:
    """That a report is narrowed to one version."""
    return f"Only rows of code version {version}: {count(number, 'row')} of others left out."


def _counted(names: Iterable[object]) -> str:
    counts = Counter(map(str, names)).most_common()
    named = ", ".join(f"{number:,} of {name}" for name, number in counts[:_MOST])
    return named + (f" and {len(counts) - _MOST} more" if len(counts) > _MOST else "")


def elsewhere(group: Group) -> list[str]:
    """Whose scores a group has from other machines, if it has some."""
    lent = {
        (at, row.get("seed")): row.get("machine") or "a machine not recorded"
        for at, setting in enumerate(group.settings)
        for row in setting.elsewhere
    }
    if not lent:
        return []
    return [
        f"{count(len(lent), 'score')} of seeds that have none here, and no costs, "
        f"{'is' if len(lent) == 1 else 'are'} from elsewhere, with the same software: "
        f"{_counted(lent.values())}."
    ]


def repeats(group: Group) -> str:
    """How many repeats the cells of a group have, after the number of its seeds."""
    by_cell: dict[Value, set[Value]] = {}
    for row in group.rows:
        if row.get("status") == "ok":
            by_cell.setdefault(row.get("cell_id"), set()).add(row.get("repeat") or 1)
    numbers = set(map(len, by_cell.values()))
    most = max(numbers, default=0)
    up_to = "up to " if len(numbers) > 1 else ""
    return f", {up_to}{most} repeats of each" if most > 1 else ""


def spread_over(group: Group) -> str:
    """What the intervals of several seeds are over, in brackets: of costs each process counts."""
    if group.seeds < 2:
        return ""
    several = [s for s in group.settings if len(s.scores) > 1]
    kept = [s.values.keys() == s.scores.keys() for s in several]
    if not several:
        return " (intervals are over runs)"
    said = " (intervals of costs are over runs, those of scores over seeds"
    if not any(kept):
        return f"{said})"
    where = "" if all(kept) else " where predictions are kept"
    return f"{said}, and over dev examples too{where})"


def paired(group: Group) -> list[str]:
    """Whether differences of scores are paired over dev examples."""
    scored = [setting for setting in group.settings if setting.scores]
    kept = sum(setting.values.keys() >= setting.scores.keys() for setting in scored)
    if len(scored) < 2:
        return []
    if kept == len(scored):
        return ["Scores are compared example by example: the predictions of all cells are known."]
    if kept < 2:
        return [
            "Scores are compared by the intervals of each, as if on different examples, for the "
            "predictions of the cells are not known: so differences have wider intervals."
        ]
    return [
        f"Scores of {kept:,} of {count(len(scored), 'setting')}, whose predictions are known, are "
        "compared example by example, and others as if on different examples, which is wider."
    ]


def between_processes(group: Group) -> list[str]:
    """How far processes that do the same are apart in time, where intervals are made of it."""
    name = column(group, "time")
    std = group.between(name)
    if std is None or not any(_uses_std(s, name) for s in group.settings):
        return []
    if std.freedom is None:
        return [
            f"No run shows by itself how far processes that do the same are apart. Intervals of "
            f"times of single runs hold a standard deviation of {std.value:.0%} for it, a constant "
            "from one CPU; with --repeats 3 it is measured."
        ]
    return [
        f"Processes that do the same are {std.value:.1%} apart in time, as the runs of the "
        f"same cell here show (standard deviation of logarithms, {std.freedom:,} degrees of "
        "freedom). Intervals of times of single runs and of several of one seed hold that."
    ]


def _uses_std(setting: Setting, name: str) -> bool:
    """Whether its interval is made of the std: that of runs of one seed."""
    runs = setting.by_run(name)
    estimate = setting.estimate(name)
    alike = len({seed for seed, _, _ in runs}) == 1
    return alike and estimate is not None and estimate.ends() is not None
