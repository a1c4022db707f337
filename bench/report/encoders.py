"""The report's section on encoders: which one to take, compared on the same examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Final

from bench.analysis.costs import Need, cost_of
from bench.analysis.groups import Group
from bench.analysis.recommendation import candidates_of, recommend
from bench.analysis.scorepairs import ScorePair, score_pair
from bench.analysis.setting import Setting
from bench.analysis.verdicts import COSTS, Objective, column, pareto
from bench.common.grouping import grouped
from bench.report import figures, text
from bench.report.pages import Section, phrase, sentences
from bench.report.recommendation import form_cost, ratios
from bench.report.tables import Table, frame, table
from bench.stats.intervals import Interval

_LEVEL: Final = 0.05
_point: Final = attrgetter("mode", "rank", "layers", "amp", "unfreeze", "options")


@dataclass(frozen=True, eq=False)
class _Choice:
    """A setting of an encoder, as one of its own group."""

    name: str
    group: Group
    setting: Setting
    is_recommended: bool = False

    @property
    def label(self) -> str:
        return f"{self.name} with {self.setting.label}"

    @property
    def score(self) -> Interval | None:
        return self.setting.estimate("dev_score")


def encoders_section(group: Group | None) -> list[Section]:
    if group is None:
        return []
    picks = [_pick(name, own) for name, own in group.encoders.items()]
    chosen = [pick for pick in picks if pick is not None]
    same = _same(group, chosen)
    tables = [_table(group, chosen), *([_table(group, same, is_same=True)] if same else [])]
    rows = frame(group)
    rows = rows.assign(chosen=rows["label"].isin({pick.label for pick in chosen}))
    drawings = [
        figures.encoders(
            rows, cost, text.x_label(group, cost), text.y_label(group), f"encoders-{cost}",
            phrase("captions", "encoders", group),
        )
        for cost in COSTS if not rows.dropna(subset=[cost, "score"]).empty
    ] if group.has_quality else []  # fmt: skip
    best, form = _best(group, chosen), partial(text.score_gap, group)
    pairs, own = _pairs(best, chosen), group.encoders

    def by_value(name: str) -> dict[str, list[str]]:
        return grouped(own, lambda encoder: str(own[encoder].shared(name)))

    heading, *lines = sentences(
        "encoders", group=group, best=best, form=form, ratios=ratios, chosen=chosen, pairs=pairs,
        gaps=_gaps(pairs), limits={c: _by_limit(group, c) for c in COSTS}, by_value=by_value,
    )  # fmt: skip
    return [Section("encoders", "Encoders", heading, lines, drawings, tables)]


def _pick(name: str, group: Group) -> _Choice | None:
    """The recommended setting of an encoder, or the best by score, or the cheapest."""
    recommended = recommend(candidates_of(group))
    if recommended.setting is not None:
        return _Choice(name, group, recommended.setting, recommended.decided)
    costs = {s: mib for s in group.settings if (mib := s.mean(group.memory_column)) is not None}
    cheapest = min(costs, key=costs.__getitem__, default=None)
    return None if cheapest is None else _Choice(name, group, cheapest)


def _same(joined: Group, chosen: Sequence[_Choice]) -> list[_Choice]:
    """Every encoder at the setting of the best that all have; none if all are at it already."""
    by_point = [
        {_point(setting): _Choice(name, group, setting)
         for setting in reversed(group.settings) if setting.ok}
        for name, group in joined.encoders.items()
    ]  # fmt: skip
    picks = {_point(choice.setting) for choice in chosen}
    if len(picks) == 1 and len(chosen) == len(by_point):
        return []
    common = [point for point in by_point[0] if all(point in own for own in by_point)]

    def mean(point: tuple[object, ...]) -> tuple[bool, float]:
        return point in picks, sum(joined.gain(own[point].setting) for own in by_point)

    best = max(common, key=mean, default=None)
    return [] if best is None else [own[best] for own in by_point]


def _best(group: Group, choices: Sequence[_Choice]) -> _Choice | None:
    scored = [choice for choice in choices if choice.score is not None]
    return max(scored, key=lambda choice: group.gain(choice.setting), default=None)


def _pairs(best: _Choice | None, choices: Sequence[_Choice]) -> dict[str, ScorePair | str]:
    """By encoder but the best one, the difference of its score from that one's, paired by seed and
    example, or why they can't be compared."""
    if best is None:
        return {}
    return {c.name: score_pair(best.setting, c.setting) for c in choices if c is not best}


def _gaps(pairs: Mapping[str, ScorePair | str]) -> dict[str, Interval]:
    return {name: of.interval(_LEVEL) for name, of in pairs.items() if not isinstance(of, str)}


def _by_limit(group: Group, cost: Objective) -> list[tuple[str, str, str, str]]:
    """By the Pareto front over all settings, which encoder is best from which limit on, up to which
    score, with its best setting."""
    steps = []
    for encoder, own in groupby(pareto(group, cost), key=lambda setting: setting.encoder):
        settings = list(own)
        first, last = settings[0], settings[-1]
        least, score = first.estimate(column(group, cost)), last.estimate("dev_score")
        if least is not None and score is not None:
            limit = form_cost("memory" if cost == "memory" else "time", least.value)
            steps.append((limit, encoder, text.score(group, score.value), last.own_label))
    return steps


def _table(group: Group, choices: Sequence[_Choice], is_same: bool = False) -> Table:
    best = _best(group, choices)
    form, form_gap = partial(text.score, group), partial(text.score_gap, group)
    gaps = _gaps(_pairs(best, choices))

    def row(choice: _Choice) -> dict[str, object]:
        setting = choice.setting
        star = "" if choice.is_recommended or is_same else " *"
        known = {name: setting.mean(column) for name, column in columns.items()}
        speed, total = known.pop("examples"), known.pop("total")
        costs: tuple[Need, ...] = ("parameters", "size")
        trained, size = (cost_of(choice.group, setting, need) for need in costs)
        own, gap = choice.score, gaps.get(choice.name)
        scores = {
            "score": own and text.with_span(own, form),
            "gap": gap and text.with_span(gap, form_gap),
        }
        return {
            "encoder": choice.name, "setting": f"{setting.label}{star}",
            **(scores if group.has_quality else {}),
            **known, "examples": 1e6 / speed if speed else None,
            "total": None if total is None else form_cost("parameters", total),
            "trained": None if trained is None else form_cost("parameters", trained),
            "size": None if size is None else form_cost("size", size),
        }  # fmt: skip

    columns = {
        "memory": group.memory_column, "time": group.time_column, "examples": "examples_per_s",
        "total": "params_total", "tokens": "ms_per_1k_tokens",
    }  # fmt: skip
    marks = ["baseline" if choice is best else "" for choice in choices]
    words = {cost: text.x_label(group, cost) for cost in COSTS} | {"metric": text.y_label(group)}
    caption = phrase("captions", "encoders_table", choices[0] if is_same else None)
    return table("encoders", map(row, choices), caption, marks, words)
