"""The separate effects of AMP and of an adapter on cost, in a group."""

from dataclasses import dataclass
from itertools import product
from statistics import geometric_mean

from adapters.methods import ADAPTER_MODES
from adapters.names import in_order
from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.analysis.verdicts import Objective, compare
from bench.stats.intervals import Interval


@dataclass(frozen=True)
class Effects:
    """Cost relative to full fine-tuning in fp32: with AMP alone, an adapter alone, and both.

    Each is the geometric mean over the `ranks` that ran with AMP and without. `product` is the
    value of `both` if the two effects were independent.
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
    """The effects of each adapter mode, layer set and kind of AMP."""
    base = group.baseline
    settings = [s for s in group.usual if base and not s.unfreezes and not s.options]
    ratios = {
        (s.mode, s.layers, s.amp, s.rank): ratio.value
        for s in reversed(settings)
        if base and (ratio := compare(group, cost, s, base))
    }
    amps = sorted({s.amp for s in settings} - {"off"})
    layer_sets = in_order(s.layers for s in settings if s.layers is not None)
    ranks = {s.rank for s in settings}
    results = []
    for amp, mode, layers in product(amps, ADAPTER_MODES, layer_sets):
        alone = ratios.get(("full", None, amp, None))
        pairs = [
            [ratios.get((mode, layers, kind, rank)) for kind in ("off", amp)] for rank in ranks
        ]
        known = [(off, on) for off, on in pairs if off and on]
        if alone is not None and known:
            adapter, both = map(geometric_mean, zip(*known, strict=True))
            results.append(Effects(mode, layers, amp, len(known), alone, adapter, both))
    return results


def amp_ratios(group: Group, cost: Objective) -> list[tuple[Setting, Interval]]:
    """Each setting that ran with AMP, and its cost relative to the same setting without."""

    def without_amp(s: Setting) -> tuple[object, ...]:
        return s.mode, s.layers, s.rank, s.unfreezes, s.options, s.rate

    off = {without_amp(s): s for s in group.settings if s.amp == "off"}
    ratios = []
    for setting in group.usual:
        twin = off.get(without_amp(setting))
        if setting.amp != "off" and twin and (ratio := compare(group, cost, setting, twin)):
            ratios.append((setting, ratio))
    return ratios
