"""The section on where memory and a step go, and why adapters save as much of them as they do."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from bench.analysis import breakdown
from bench.analysis.breakdown import LIBRARIES, OWNERS, REST, STEP, memory_parts, step_parts
from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.analysis.verdicts import COSTS, Objective, compare
from bench.common.grouping import grouped
from bench.report import figures
from bench.report.commands import narrowed
from bench.report.pages import Section, phrase, sentences
from bench.report.tables import Table, table
from bench.report.text import range_of, short_name, x_label
from bench.results.facts import KnownFacts

_NAMED: Final = 0.02  # the share of a total from which the change of a part is named
_STATE: Final = ("gradients", "optimizer")
_UNITED: Final[dict[Objective, tuple[tuple[str, ...], ...]]] = {
    "memory": ((LIBRARIES,), ("weights",), _STATE, ("activations",), (REST,)),
    "time": tuple((name,) for name in STEP),
}
"""The parts that sentences speak of."""
_NAMES: Final[dict[tuple[str, ...], str]] = {
    _STATE: "gradients and optimizer state",
    (REST,): "the rest",
}


@dataclass(frozen=True, eq=False)
class _Bar:
    """A setting and the parts of its costs, where they are known."""

    setting: Setting
    name: str
    parts: dict[Objective, breakdown.Breakdown | None]


def why_section(group: Group, pick: Setting | None, facts: KnownFacts) -> list[Section]:
    """The section, unless no setting has known parts; the pick is the recommended setting."""
    settings = breakdown.representatives(group, pick)
    common = set.intersection(*[s.places(group.memory_column) for s in settings] or [set()])
    bars = [
        _Bar(s, _name(s), {"memory": memory_parts(group, own), "time": step_parts(group, own)})
        for s, own in [(s, s.at(common) if common else s) for s in settings]
    ]
    costs = [cost for cost in COSTS if any(bar.parts[cost] for bar in bars)]
    if not costs:
        return []
    panels = {x_label(group, cost): [bar.parts[cost] for bar in bars] for cost in costs}
    drawing = figures.parts(
        [short_name(bar.setting, "rank", "layers", "amp") for bar in bars], panels, "why",
        phrase("captions", "why"),
    )  # fmt: skip
    full = [bar for bar in bars if bar.setting.mode == "full"]
    others = [bar for bar in bars if bar.setting.mode != "full"]
    amps = {bar.setting.amp for bar in others}
    base = max(full, key=lambda bar: bar.setting.amp in amps, default=None)
    adapted = [bar for bar in others if bar.setting.adapted]
    heading, *lines = sentences(
        "why", bars=bars, base=base, amount=_amount, part=_part,
        largest=lambda memory: max(_UNITED["memory"], key=lambda parts: memory.of(*parts)),
        modes=[*grouped(adapted, lambda bar: bar.setting.mode).values()], shares=_shares,
        percents=partial(range_of, shape=lambda share: f"{100 * share:.0f}"),
        gaps=partial(_gaps, group), between=partial(_between_modes, group),
        again=partial(narrowed, group, facts, rerun="ok"), state=_STATE,
    )  # fmt: skip
    return [Section("why", "Why", heading, lines, [drawing], [_table(group, bars)])]


def _name(setting: Setting) -> str:
    if setting.mode == "full":
        return f"full fine-tuning in {setting.precision}"
    rank = "" if setting.rank is None else f" rank {setting.rank}"
    layers = f" on {setting.layers}" if setting.layers else ""
    return f"{setting.mode}{rank}{layers}"


def _gaps(group: Group, bar: _Bar, base: _Bar) -> str:
    """How much a setting's costs differ from another's, with the parts that change most."""
    every = []
    for cost in COSTS:
        one, other = bar.parts[cost], base.parts[cost]
        if one is not None and other is not None:
            gap = compare(group, cost, bar.setting, base.setting)
            change = one.total - other.total
            unit = _unit(group, cost, "less" if change < 0 else "more")
            changed = [
                (_part(parts), one.of(*parts), other.of(*parts))
                for parts in sorted(_UNITED[cost], key=lambda p: -abs(one.of(*p) - other.of(*p)))
                if abs(one.of(*parts) - other.of(*parts)) >= _NAMED * other.total
            ]
            no_effect = gap is not None and gap.holds(1.0)
            every.append((_amount(abs(change), other.total), unit, no_effect, changed, other.total))
    return phrase("gaps", "gaps", every, _amount)


def _amount(value: float, total: float, sign: str = "") -> str:
    return f"{value:{sign},.{0 if total >= 100 else 1 if total >= 10 else 2}f}".replace("-", "−")


def _unit(group: Group, cost: Objective, than: str = "") -> str:
    """The unit of a cost; with `than`, such as `ms less for 1,000 tokens`."""
    unit, _, of = ("MiB" if cost == "memory" else x_label(group, cost)).partition(" ")
    return " ".join(filter(None, (unit, than, of)))


def _part(parts: tuple[str, ...]) -> str:
    return _NAMES.get(parts, parts[0])


def _shares(
    left: Sequence[breakdown.Breakdown], full: breakdown.Breakdown, *names: str
) -> list[float]:
    """The shares that are left of some parts; none where these are zero."""
    whole = full.of(*names)
    return [each.of(*names) / whole for each in left] if whole > 0 else []


def _between_modes(group: Group, bars: Sequence[_Bar], first: Sequence[_Bar]) -> str:
    """The costs of a mode against those of another on the same layers; may be empty."""
    twins = {bar.setting.layers: bar for bar in first}
    pairs = [(b, twins[b.setting.layers]) for b in bars if b.setting.layers in twins]
    clauses = []
    for cost in COSTS:
        known = [(a, b) for x, y in pairs if (a := x.parts[cost]) and (b := y.parts[cost])]
        if not known:
            continue
        gaps = [a.total - b.total for a, b in known]
        most = max(
            _UNITED[cost], key=lambda parts: abs(sum(a.of(*parts) - b.of(*parts) for a, b in known))
        )
        scale = max(a.total for a, _ in known)
        ends = range_of(gaps, partial(_amount, total=scale, sign="+"))
        clauses.append(f"{ends} {_unit(group, cost)}, mostly in {_part(most)}")
    return "; ".join(clauses)


def _table(group: Group, bars: Sequence[_Bar]) -> Table:
    memory = [n for n in (LIBRARIES, *OWNERS, REST) if any(
        (m := bar.parts["memory"]) and n in m.parts for bar in bars
    )]  # fmt: skip
    columns: dict[str, tuple[Objective, str]] = {
        "peak": ("memory", ""), **{f"{name}_mib": ("memory", name) for name in memory},
        "time": ("time", ""), **{f"{name}_time": ("time", name) for name in STEP},
    }  # fmt: skip

    def shown(bar: _Bar, cost: Objective, name: str) -> str | None:
        of = bar.parts[cost]
        return None if of is None else _amount(of.parts[name] if name else of.total, of.total)

    rows = [
        {"setting": bar.setting.label, **{key: shown(bar, *of) for key, of in columns.items()}}
        for bar in bars
    ]
    units = {"peak": x_label(group, "memory"), "time": x_label(group, "time")}
    return table("why", rows, words=units, folded=True)
