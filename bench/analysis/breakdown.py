"""The parts of a setting's memory, in MiB, and of its training step.

The caption of their figure (`why` in captions.txt.jinja) says what the parts of memory are.
`libraries`, on a CPU alone, are `imports_anon_mib` and the difference of `peak_rss_mib` and
`peak_anon_mib`. Where the parts that are measured exceed the peak, in which they need not all
exist, there is no `rest` but an `excess`. The parts of a step are shares of it, measured in runs
that recorded them, of the group's main column of time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from bench.analysis.groups import Group
from bench.analysis.setting import Setting, number
from bench.common.grouping import grouped

LIBRARIES: Final = "libraries"
REST: Final = "rest"
OWNERS: Final = ("weights", "optimizer", "gradients", "activations")
STEP: Final = ("forward", "backward", "optimizer")
_USUAL_RANK: Final = 8  # PEFT's default


@dataclass(frozen=True)
class Breakdown:
    """A measured total and its parts, whose sum is the total and the excess."""

    total: float
    parts: Mapping[str, float]
    excess: float = 0.0

    def of(self, *names: str) -> float:
        return sum(self.parts.get(name, 0.0) for name in names)


def memory_parts(group: Group, setting: Setting) -> Breakdown | None:
    """The parts of the peak in the main column of memory, over the runs in which all are known."""
    on_cpu = group.memory_column == "peak_rss_mib"
    names = tuple(f"{name}_mib" for name in OWNERS)
    libraries = ("imports_anon_mib", "peak_anon_mib") if on_cpu else ()
    rows = _complete(setting, (*names, group.memory_column, *libraries))
    if not rows:
        return None
    parts = {}
    if on_cpu:
        parts[LIBRARIES] = fmean(imports + rss - anon for *_, rss, imports, anon in rows)
    parts |= {name: fmean(row[i] for row in rows) for i, name in enumerate(OWNERS)}
    peak = fmean(row[len(OWNERS)] for row in rows)
    rest = peak - sum(parts.values())
    return Breakdown(peak, {**parts, REST: max(rest, 0.0)}, max(-rest, 0.0))


def step_parts(group: Group, setting: Setting) -> Breakdown | None:
    """The parts of the time in the group's main column of time; None where they are unknown."""
    times = setting.by_run(group.time_column).values()
    rows = _complete(setting, [f"{name}_ms" for name in STEP])
    whole = sum(map(sum, rows))
    if not times or whole <= 0:
        return None
    parts = {
        name: fmean(times) * sum(of_part) / whole
        for name, of_part in zip(STEP, zip(*rows, strict=True), strict=True)
    }
    return Breakdown(fmean(times), parts)


def _complete(setting: Setting, names: Sequence[str]) -> list[list[float]]:
    """The values of some columns in the runs that have them all."""
    rows = [[number(row[name]) for name in names] for row in setting.ok]
    return [[v for v in row if v is not None] for row in rows if None not in row]


def representatives(group: Group, pick: Setting | None = None) -> tuple[Setting, ...]:
    """Full fine-tuning in each precision, and in one precision the head alone and a setting of each
    mode and layer set.

    Precision and type of frozen weights are those of the pick, the recommended setting, which
    stands for its own kind, or else the precision is that in which most settings have all parts,
    and of equally many one with AMP. The rank is the nearest to PEFT's default; of several rates
    and ways of unfreezing the first is taken.
    """
    settings = [setting for setting in group.settings if setting.ok]
    usual = {id(setting) for setting in group.usual}
    amps = list(dict.fromkeys(setting.amp for setting in settings))

    def known(amp: str) -> tuple[bool, int, bool]:
        of_amp = [s for s in settings if s.amp == amp]
        parts = [part(group, s) for s in of_amp for part in (memory_parts, step_parts)]
        of_pick = pick in of_amp and any(part(group, pick) for part in (memory_parts, step_parts))
        return of_pick, sum(part is not None for part in parts), amp != "off"

    def order(setting: Setting) -> tuple[bool, bool, bool, int]:
        rank = setting.rank or _USUAL_RANK
        differs = pick is None or setting.frozen != pick.frozen
        return setting is not pick, differs, id(setting) not in usual, abs(rank - _USUAL_RANK)

    best = max(amps, key=known, default=None)
    adapted = [setting for setting in settings if setting.amp == best and setting.mode != "full"]
    kinds = grouped(adapted, lambda setting: (setting.mode, setting.layers))
    full = [one for amp in amps if (one := group.full(amp))]
    return (*full, *(min(alike, key=order) for alike in kinds.values()))
