"""What AMP and what an adapter take in a group, told from one another."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from math import exp, log

from adapters.methods import ADAPTER_MODES
from adapters.names import LAYER_SETS
from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.analysis.verdicts import Objective, column, compare
from bench.stats.intervals import Interval


@dataclass(frozen=True)
class Effects:
    """Cost against full fine-tuning in fp32, of AMP alone, of an adapter alone, and of both.

    Each is the geometric mean over the `ranks` that have it with AMP and without. `product` is
    what `both` would be if the two effects did not touch each other.
    """

    mode: str
    layers: str
    amp: str
    ranks: int
    amp_alone: float
    adapter_alone: float
    both: float

    @property
    def product(self) -> float:
        """AMP alone times the adapter alone."""
        return self.amp_alone * self.adapter_alone


def effects(group: Group, cost: Objective) -> list[Effects]:
    """AMP's effect told from the adapter's, for each adapter mode, layer set and kind of AMP."""
    name, base = column(group, cost), group.baseline
    unit = _cost(base, name) if base else None
    if unit is None:
        return []
    found = []
    for amp, mode, layers in product(_amps(group), ADAPTER_MODES, LAYER_SETS):
        whole = [s for s in group.usual if not s.unfreezes]
        full = [s for s in whole if s.mode == "full" and s.amp == amp]
        alone = next((cost_of for s in full if (cost_of := _cost(s, name))), None)
        of = [s for s in whole if (s.mode, s.layers) == (mode, layers)]
        off = {s.rank: v for s in of if s.amp == "off" and (v := _cost(s, name))}
        on = {s.rank: v for s in of if s.amp == amp and (v := _cost(s, name))}
        ranks = off.keys() & on.keys()
        if alone is None or not ranks:
            continue
        adapter, both = (_geometric_mean(side[r] / unit for r in ranks) for side in (off, on))
        found.append(Effects(mode, layers, amp, len(ranks), alone / unit, adapter, both))
    return found


def amp_ratios(group: Group, cost: Objective) -> list[tuple[Setting, Interval]]:
    """Each setting that ran with AMP, and its cost against the same setting without."""

    def without_amp(s: Setting) -> tuple[object, ...]:
        return s.mode, s.layers, s.rank, s.unfreezes, s.rate

    off = {without_amp(s): s for s in group.settings if s.amp == "off"}
    found = []
    for setting in group.usual:
        twin = off.get(without_amp(setting))
        if setting.amp != "off" and twin and (gap := compare(group, cost, setting, twin)):
            found.append((setting, gap))
    return found


def _amps(group: Group) -> list[str]:
    return sorted({s.amp for s in group.settings} - {"off"})


def _cost(setting: Setting, name: str) -> float | None:
    estimate = setting.estimate(name)
    return estimate.value if estimate and estimate.value > 0 else None


def _geometric_mean(values: Iterable[float]) -> float:
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs))
