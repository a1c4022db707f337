"""The report's section on encoders: which one to take, compared on the same examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Final

from bench.analysis.costs import Need, cost_of
from bench.analysis.groups import Encoders, Group
from bench.analysis.recommendation import candidates_of, recommend
from bench.analysis.scorepairs import ScorePair, score_pair
from bench.analysis.setting import Setting
from bench.analysis.verdicts import COSTS, Objective, column, pareto
from bench.common.grouping import grouped
from bench.report import figures, text
from bench.report.pages import sentences
from bench.report.recommendation import form_cost, ratios
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table, frame
from bench.stats.intervals import Interval

_LEVEL: Final = 0.05


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


def encoders_section(encoders: Encoders | None) -> list[Section]:
    """The section, unless there is one encoder alone."""
    if encoders is None:
        return []
    group = encoders.joined
    picks = [_pick(name, own) for name, own in encoders.groups.items()]
    chosen = [pick for pick in picks if pick is not None]
    same = _same(encoders, chosen)
    tables = [
        _table(group, chosen, "Each encoder at the setting that is recommended for it or, where "
               "none is (*), at the best by score or else the cheapest."),
        *([_table(group, same, f"All at the same setting, {same[0].setting.label}.")]
          if same else []),
    ]  # fmt: skip
    rows = frame(group)
    chosen_labels = {pick.label for pick in chosen}
    drawings = [
        figures.encoders(
            rows.assign(chosen=rows["label"].isin(chosen_labels)), cost,
            text.x_label(group, cost), text.y_label(group), f"encoders-{cost}",
            "A colour for each encoder; larger markers are the settings of the first table. Up "
            f"and to the left is better{'' if group.scoring.higher_is_better else ', down'}.",
        )
        for cost in COSTS
        if not rows.dropna(subset=[cost, "score"]).empty
    ] if group.has_quality else []  # fmt: skip
    best, form = _best(group, chosen), partial(text.score_gap, group)
    pairs = [(choice, _pair(best, choice)) for choice in chosen]

    def by_value(name: str) -> dict[str, list[str]]:
        return grouped(encoders.groups, lambda own: str(encoders.groups[own].shared(name)))

    lines = sentences(
        "encoders", group=group, best=best, form=form, span=text.span, ratios=ratios, level=_LEVEL,
        compared=[(choice, pair) for choice, pair in pairs if pair is not None],
        distinct=_is_distinct, limits={c: _by_limit(group, c) for c in COSTS}, by_value=by_value,
    )  # fmt: skip
    return [Section("encoders", "Encoders", _heading(group, chosen), lines, drawings, tables)]


def _pick(name: str, group: Group) -> _Choice | None:
    """The recommended setting of an encoder, or the best by score, or the cheapest."""
    recommended = recommend(candidates_of(group))
    if recommended.setting is not None:
        return _Choice(name, group, recommended.setting, recommended.decided)
    known = [s for s in group.settings if s.estimate(group.memory_column)]
    cheapest = min(known, key=lambda s: s.estimate(group.memory_column).value, default=None)  # type: ignore[union-attr]
    return None if cheapest is None else _Choice(name, group, cheapest)


def _same(encoders: Encoders, chosen: Sequence[_Choice]) -> list[_Choice]:
    """Every encoder at the setting of the best that all have; none if all are at it already."""
    by_point = [
        {_point(setting): _Choice(name, group, setting)
         for setting in reversed(group.settings) if setting.ok}
        for name, group in encoders.groups.items()
    ]  # fmt: skip
    picks = {_point(choice.setting) for choice in chosen}
    if len(picks) == 1 and len(chosen) == len(by_point):
        return []
    common = [point for point in by_point[0] if all(point in own for own in by_point)]
    gain = encoders.joined.scoring.gain

    def mean(point: tuple[object, ...]) -> tuple[bool, float]:
        scores = [own[point].score for own in by_point]
        known = [gain(score.value) for score in scores if score is not None]
        return point in picks, sum(known) if len(known) == len(scores) else float("-inf")

    best = max(common, key=mean, default=None)
    return [] if best is None else [own[best] for own in by_point]


def _point(setting: Setting) -> tuple[object, ...]:
    names = ("mode", "rank", "layers", "amp", "unfreeze", "options")
    return tuple(getattr(setting, name) for name in names)


def _best(group: Group, choices: Sequence[_Choice]) -> _Choice | None:
    scored = [choice for choice in choices if choice.score is not None]
    gain = group.scoring.gain
    return max(scored, key=lambda c: gain(c.score.value if c.score else 0.0), default=None)


def _heading(group: Group, chosen: Sequence[_Choice]) -> str:
    best = _best(group, chosen)
    if best is None or best.score is None:
        return f"Encoders: costs of {len(chosen)}"
    scored = f"{group.scoring.label} {text.score(group, best.score.value)}"
    alike = [choice.name for choice in chosen if _is_distinct(best, choice) is False]
    unlike = f"; not distinguishable from {', '.join(alike)}" if alike else ""
    return (
        f"Encoders: {best.name} has the highest score of {len(chosen)}, {scored} with "
        f"{best.setting.label}{unlike}"
    )


def _is_distinct(best: _Choice, choice: _Choice) -> bool | None:
    """Whether an interval shows that another encoder scores less; None where there is none."""
    pair = _pair(best, choice)
    if pair is None or isinstance(pair, str):
        return None
    ends = pair.interval(_LEVEL).ends()
    return None if ends is None else ends[0] > 0 or ends[1] < 0


def _pair(best: _Choice | None, choice: _Choice) -> ScorePair | str | None:
    """The difference of an encoder's score from the best one's, paired by seed and example, or why
    they can't be compared; None for the best itself, or without one."""
    if best is None or choice is best:
        return None
    return score_pair(best.setting, choice.setting)


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


def _table(group: Group, choices: Sequence[_Choice], caption: str) -> Table:
    best = _best(group, choices)
    form, form_gap = partial(text.score, group), partial(text.score_gap, group)
    heads = [
        Head("encoder", "encoder"), Head("setting", "setting"),
        *([
            Head("score", text.y_label(group), "with its 95% interval", True),
            Head("gap", "to the best", "difference, paired by seed and dev example", True),
        ] if group.has_quality else []),
        Head("memory", text.x_label(group, "memory"), "", True),
        Head("time", text.x_label(group, "time"), "", True),
        Head("examples", "ms for 1,000 examples", "training examples", True),
        Head("total", "params", "of encoder, adapters and head", True),
        Head("trained", "trained", "parameters that train", True),
        Head("size", "file", "what is shipped with the base model", True),
        Head("tokens", "ms for 1,000 tokens", "of the encoder's own tokenizer", True),
    ]  # fmt: skip

    def gap_text(choice: _Choice) -> str:
        pair = _pair(best, choice)
        if pair is None or isinstance(pair, str):
            return DASH
        gap = pair.interval(_LEVEL)
        ends = text.span(gap, form_gap)
        return form_gap(gap.value) + (f" ({ends})" if ends else "")

    def score_text(score: Interval | None) -> str:
        ends = "" if score is None else text.span(score, form)
        return DASH if score is None else form(score.value) + (f" ({ends})" if ends else "")

    def cost(choice: _Choice, need: Need) -> str:
        value = cost_of(choice.group, choice.setting, need)
        return DASH if value is None else form_cost(need, value)

    def row(choice: _Choice) -> list[str]:
        setting = choice.setting
        score, speed = setting.estimate("dev_score"), setting.estimate("examples_per_s")
        tokens, time = setting.estimate("ms_per_1k_tokens"), setting.estimate(group.time_column)
        memory = setting.estimate(group.memory_column)
        examples = None if speed is None or not speed.value else 1e6 / speed.value
        total = setting.estimate("params_total")
        star = "" if choice.is_recommended or "*" not in caption else " *"
        return [
            choice.name, f"{setting.label}{star}",
            *([score_text(score), gap_text(choice)] if group.has_quality else []),
            DASH if memory is None else text.num(memory.value), DASH if time is None else
            text.num(time.value),
            DASH if examples is None else text.num(examples),
            DASH if total is None else form_cost("parameters", total.value),
            cost(choice, "parameters"), cost(choice, "size"),
            DASH if tokens is None else text.num(tokens.value),
        ]  # fmt: skip

    marks = ["baseline" if choice is best else "" for choice in choices]
    return Table(heads, [row(choice) for choice in choices], caption, marks)
