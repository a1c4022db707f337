"""Sentences on where a report's rows and intervals come from."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.analysis.verdicts import column
from bench.common.errors import InputError
from bench.plan.cell import Value
from bench.plan.rows import Row
from bench.report.text import count

_UNKNOWN: Final = "a version not recorded"
_MOST: Final = 6
"""Versions or machines that a sentence names."""


def of_version(rows: Sequence[Row], version: str) -> list[Row]:
    """The rows of one version of the code.

    Raises:
        InputError: if there are none.
    """
    selected = [row for row in rows if row.code_version == version]
    if rows and not selected:
        versions = _counted(row.code_version or _UNKNOWN for row in rows)
        raise InputError(f"--code-version: no row is of {version!r}; there are {versions}")
    return selected


def versions(rows: Iterable[Row]) -> list[str]:
    """A sentence on the versions of the code, if the rows are of several."""
    names = [row.code_version for row in rows]
    if len(set(names)) < 2:
        return []
    return [
        f"The rows are of {len(set(names))} versions of the code: {_counted(names)}. All "
        "runs of a cell count, of any version; --code-version shows one version alone."
    ]


def left_out(number: int, version: str) -> str:
    """A sentence on the rows that a report of one version leaves out."""
    return f"Only rows of code version {version}: {count(number, 'row')} of others left out."


def _counted(names: Iterable[object]) -> str:
    counts = Counter(map(str, names)).most_common()
    named = ", ".join(f"{number:,} of {name}" for name, number in counts[:_MOST])
    return named + (f" and {len(counts) - _MOST} more" if len(counts) > _MOST else "")


def elsewhere(group: Group) -> list[str]:
    """A sentence on the scores that a group has from other machines, if any."""
    machines = {
        (at, row.seed): row.machine or "a machine not recorded"
        for at, setting in enumerate(group.settings)
        for row in setting.elsewhere
    }
    if not machines:
        return []
    return [
        f"{count(len(machines), 'score')} of seeds that have none here, and no costs, "
        f"{'is' if len(machines) == 1 else 'are'} from elsewhere, with the same software: "
        f"{_counted(machines.values())}."
    ]


def repeats(group: Group) -> str:
    """The repeats of a group's cells, to follow the number of its seeds."""
    by_cell: dict[Value, set[Value]] = {}
    for row in group.rows:
        if row.is_ok:
            by_cell.setdefault(row.cell_id, set()).add(row.repeat or 1)
    numbers = set(map(len, by_cell.values()))
    most = max(numbers, default=0)
    up_to = "up to " if len(numbers) > 1 else ""
    return f", {up_to}{most} repeats of each" if most > 1 else ""


def spread_over(group: Group) -> str:
    """The variation that the intervals of several seeds cover, in brackets."""
    if group.seeds < 2:
        return ""
    several = [s for s in group.settings if len(s.scores) > 1]
    kept = [s.values.keys() == s.scores.keys() for s in several]
    if not several:
        return " (intervals are over runs)"
    examples = ", and over dev examples too" if any(kept) else ""
    where = " where predictions are kept" if any(kept) and not all(kept) else ""
    return f" (intervals of costs are over runs, those of scores over seeds{examples}{where})"


def paired(group: Group) -> list[str]:
    """A sentence on whether differences of scores are paired over dev examples."""
    scored = [setting for setting in group.settings if setting.scores]
    kept = sum(setting.values.keys() >= setting.scores.keys() for setting in scored)
    if len(scored) < 2:
        return []
    if kept == len(scored):
        return ["Scores are compared example by example: the predictions of all cells are known."]
    if kept < 2:
        return [
            "Scores are compared by their own intervals, as if on different examples, because the "
            "predictions of the cells are not known, so differences have wider intervals."
        ]
    return [
        f"Scores of {kept:,} of {count(len(scored), 'setting')}, whose predictions are known, are "
        "compared example by example, and others as if on different examples, with wider intervals."
    ]


def between_processes(group: Group) -> list[str]:
    """A sentence on how much the time of identical processes varies, if intervals include that."""
    name = column(group, "time")
    std = group.between(name)
    if std is None or not any(_uses_std(s, name) for s in group.settings):
        return []
    if std.freedom is None:
        return [
            "No runs are repeated here, so the variation of time between identical processes is "
            "not measured. Intervals of times of single runs include a standard deviation of "
            f"{std.value:.0%} for it, a constant from one CPU; --repeats 3 measures it."
        ]
    return [
        f"Time varies by {std.value:.1%} between identical processes, as measured here between "
        f"runs of the same cell (standard deviation of logarithms, {std.freedom:,} degrees of "
        "freedom). Intervals of times of single runs and of several of one seed include that."
    ]


def _uses_std(setting: Setting, name: str) -> bool:
    """Whether a setting's interval includes the std: that of runs of one seed does."""
    estimate = setting.estimate(name)
    one_seed = len({seed for seed, _, _ in setting.by_run(name)}) == 1
    return one_seed and estimate is not None and estimate.ends() is not None
