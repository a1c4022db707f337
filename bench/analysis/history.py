"""Settings against a reference setting of the same run, by version of the code.

The rows of one version of the code under the same conditions are a run. On a shared machine times
of different days are not comparable, but their ratios within a run are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import exp, log
from statistics import fmean
from typing import Final

from bench.analysis.comparison import MEASURES, Limits, Measure, score_limit
from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.common.grouping import grouped
from bench.stats.changepoints import change_points, segment_medians

_NEARLY_ALL: Final = 0.9
"""The share of runs that full fine-tuning in fp32 must be in to be the reference."""
Run = tuple[int, int, int]  # seed, fold and repeat


@dataclass(frozen=True)
class Segment:
    """A stretch between changes: its first and last version by index, and its median."""

    start: int
    end: int
    median: float


@dataclass(frozen=True, eq=False)
class Series:
    """A measure of a setting by version: the reference's own values are absolute, others are ratios
    to the reference, or of scores differences."""

    setting: Setting
    measure: Measure
    is_reference: bool
    values: tuple[float | None, ...]  # by version; None: not measured
    starts: tuple[int, ...] = ()  # indices of the versions since which another median holds

    @cached_property
    def known(self) -> list[int]:
        return [i for i, value in enumerate(self.values) if value is not None]

    @cached_property
    def scaled(self) -> list[float]:
        """The known values as they are compared: logarithms, or scores' differences."""
        known = [value for value in self.values if value is not None]
        return known if self.measure.kind == "score" else [log(value) for value in known]

    @cached_property
    def segments(self) -> list[Segment]:
        places = [0, *(self.known.index(start) for start in self.starts), len(self.known)]
        medians = segment_medians(self.scaled, places[1:-1])
        is_score = self.measure.kind == "score"
        return [
            Segment(self.known[first], self.known[end - 1], median if is_score else exp(median))
            for (first, end), median in zip(pairwise(places), medians, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Change:
    """A change point: the index of the version since which another median holds, and both."""

    series: Series
    at: int
    before: float
    after: float

    @property
    def effect(self) -> float:
        """The ratio of the medians; of scores their difference."""
        is_score = self.series.measure.kind == "score"
        return self.after - self.before if is_score else self.after / self.before


@dataclass(frozen=True, eq=False)
class History:
    """The series of settings over the versions that have the reference; `left_out` lack it."""

    group: Group
    reference: Setting
    versions: tuple[str, ...]
    left_out: tuple[str, ...]
    started_at: Mapping[str, str]  # when the first cell of a version started
    series: tuple[Series, ...]

    @cached_property
    def changes(self) -> list[Change]:
        """The change points, those of the newest versions first."""
        changes = [
            Change(series, after.start, before.median, after.median)
            for series in self.series
            for before, after in pairwise(series.segments)
        ]
        return sorted(changes, key=lambda change: -change.at)


def history(group: Group) -> History | None:
    """The history of a group; None if no cell of it ended ok."""
    started_at = _versions(group)
    reference = _reference(group, len(started_at))
    if reference is None:
        return None
    has_reference = {row.code_version for row in reference.ok}
    compared = tuple(version for version in started_at if version in has_reference)
    left_out = tuple(version for version in started_at if version not in has_reference)
    searched: list[Series] = []
    memory = {"peak_rss_mib", "peak_cuda_allocated_mib"} - {group.memory_column}
    measures = [measure for measure in MEASURES if measure.column not in memory]
    noisy = sum(not measure.exact for measure in measures)
    for measure in measures:
        every = (_series(setting, reference, measure, compared) for setting in group.settings)
        family = [series for series in every if series is not None]
        limit = _limit(measure, group, reference)
        starts = change_points([series.scaled for series in family], limit, noisy)
        searched += [
            replace(series, starts=tuple(series.known[place] for place in places))
            for series, places in zip(family, starts, strict=True)
        ]
    return History(group, reference, compared, left_out, started_at, tuple(searched))


def _versions(group: Group) -> dict[str, str]:
    """When the first cell of each version of the code started, the oldest first."""
    runs = grouped(group.rows, lambda row: row.code_version).items()
    versions = ((min(row.started_at or "" for row in rows), name) for name, rows in runs)
    return {name: at for at, name in sorted(versions)}


def _reference(group: Group, versions: int) -> Setting | None:
    """Full fine-tuning in fp32 if nearly all versions have it, else what most versions have."""

    def presence(setting: Setting) -> int:
        return len({row.code_version for row in setting.ok})

    full = [s for s in group.settings if s.mode == "full" and s.amp == "off"]
    usual = max(full, key=presence, default=None)
    if usual is not None and presence(usual) >= max(_NEARLY_ALL * versions, 1):
        return usual
    best = max(group.settings, key=presence, default=None)
    return best if best is not None and presence(best) else None


def _limit(measure: Measure, group: Group, reference: Setting) -> float:
    """The least step of a series' scaled values that is reported."""
    limits = Limits()
    if measure.kind == "score":
        score = reference.mean(measure.column)
        return score_limit(limits.score_drop, group.scoring, 1.0 if score is None else score)
    return log(1 + limits.ratio(measure.kind))


def _series(
    setting: Setting, reference: Setting, measure: Measure, versions: Sequence[str]
) -> Series | None:
    """A setting's series; None if nothing was measured, and for the reference's time and score."""
    is_reference = setting is reference
    if is_reference and measure.kind in ("time", "score"):
        return None
    own, base = (_by_version(one, measure) for one in (setting, reference))
    values = tuple(
        _relative(own.get(v, {}), None if is_reference else base.get(v, {}), measure)
        for v in versions
    )
    known = any(value is not None for value in values)
    return Series(setting, measure, is_reference, values) if known else None


def _by_version(setting: Setting, measure: Measure) -> dict[str, dict[Run, float]]:
    values: dict[str, dict[Run, float]] = {}
    for (seed, fold, repeat, version), value in setting.by_run(measure.column).items():
        if value > 0 or measure.kind == "score":
            values.setdefault(version, {})[seed, fold, repeat] = value
    return values


def _relative(
    own: Mapping[Run, float], base: Mapping[Run, float] | None, measure: Measure
) -> float | None:
    """The mean of ratios, or of scores' differences, over common runs; without any, of means;
    without a base, the mean of the values themselves."""
    if not own or (base is not None and not base):
        return None
    is_score = measure.kind == "score"
    runs = own.keys() & base.keys() if base else own.keys()

    def mean(values: Mapping[Run, float]) -> float:
        chosen = [values[run] for run in runs or values]
        return fmean(chosen if is_score else map(log, chosen))

    gap = mean(own) - (mean(base) if base else 0.0)
    return gap if is_score else exp(gap)
