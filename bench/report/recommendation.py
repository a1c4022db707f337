"""The recommendation in words, alternatives by need, and commands that settle what is open."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, floor, log10
from types import MappingProxyType
from typing import Any, Final, get_args

from bench.analysis.costs import NEEDS, Need
from bench.analysis.groups import Group
from bench.analysis.racing import Raced
from bench.analysis.recommendation import MOST, Candidates, Recommendation
from bench.analysis.setting import Setting, point
from bench.analysis.verdicts import COSTS, OBJECTIVES, compare
from bench.plan.learning_rates import Origin, origin_of
from bench.plan.metrics import ROW_METRICS
from bench.plan.rows import Row
from bench.report.commands import confirm_command, export_command, narrowed, train_command
from bench.report.pages import phrase, sentences
from bench.report.tables import DASH, Table, table
from bench.report.text import LABELS, num, score, score_gap
from bench.results.exports import INT8, MERGED, ONNX, Figures, latest_figures
from bench.results.facts import NO_FACTS, KnownFacts
from bench.stats.best import FEWEST_SEEDS, ROUNDS, excluded_rate, has_collapsed

CONFIRMED: Final = 29  # trainings of which none collapsed that exclude a rate of collapses of 10%
_MOST_NAMED: Final = 4  # more settings than these are counted and not named
_MOST_SEEDS: Final = 30  # more seeds than these are not suggested
_USES: Final = {f"use_{form}": form for form in (MERGED, ONNX, INT8)}
"""The forms of exported models by their columns."""


@dataclass(frozen=True)
class Advice:
    recommended: Recommendation
    heading: str  # the answer in a sentence
    sentences: Sequence[str]  # what it gains and loses, how sure that is, and what is missing
    table: Table | None  # the alternatives by need
    commands: Mapping[str, str]  # command lines that supply what is missing, with their purposes
    exports: Mapping[str, Figures]  # by `cell_id`, what exported models cost to use


def advice(
    recommended: Recommendation,
    facts: KnownFacts = NO_FACTS,
    exports: Mapping[str, Figures] = MappingProxyType({}),
    sources: Sequence[str] = (),
) -> Advice:
    """A group's recommendation in words: with facts by `data_digest`, for commands; what exported
    models cost to use, by `cell_id`; and names of the files that the rows are from."""
    known, pick = recommended.candidates, recommended.pick
    one_file = len(sources) <= 1
    purpose = partial(phrase, "recommendation", "purpose")
    commands = {narrowed(known.group, facts, **selection): purpose(selection)
                for selection in _selections(recommended)}  # fmt: skip
    is_open = bool({"race open", "race undecided"} & {*recommended.obstacles})
    undecided = recommended.raced if is_open else None
    if undecided is not None and undecided.so_far is not None:
        best = undecided.settings[undecided.so_far].rows[0]
        alike = (one for one in known.group.settings if point(one.rows[0]) == point(best))
        trained = [row for one in alike for row in one.ok if row.race is None]
        if len(trained) < FEWEST_SEEDS:
            trains = train_command(known.group, best, FEWEST_SEEDS, facts)
            commands[trains] = purpose({"best": True, "seeds": FEWEST_SEEDS})
        if one_file:
            seed = _exportable_seed(trained, known.group)
            cell = replace(best.cell, race=None, fold=None, folds=None, seed=seed).name
            exports_it = export_command(recommended, sources, cell)
            commands[exports_it] = purpose({"export": "best so far"})
    if recommended.decided and one_file and pick is not None:
        if known.trainings(pick) < CONFIRMED:
            confirms = confirm_command(recommended, CONFIRMED, facts)
            commands[confirms] = purpose({"confirm": CONFIRMED})
        commands[export_command(recommended, sources)] = purpose({"export": "recommended model"})
    label = brief = ""
    if pick is not None:
        label = known.settings[pick].label
        brief = in_brief(known, pick, recommended.cross_fitted_score, recommended.raced)
    heading = phrase("recommendation", "heading", recommended.decided, label, brief, undecided)
    return Advice(
        recommended, heading,
        _sentences("advice", recommended, one_file),
        None if pick is None else _table(recommended, pick, exports),
        commands, exports,
    )  # fmt: skip


def _exportable_seed(rows: Sequence[Row], group: Group) -> int:
    """The lowest seed of a setting's trainings that did not collapse, which `bench.export` would
    refuse; 0 without any."""
    gain = group.scoring.gain
    rows = [row for row in rows if row.dev_score is not None]
    scored = [(r.seed, gain(r.dev_score or 0.0), r.dev_ci_half) for r in rows]
    every, margin = [score for _, score, _ in scored], group.margin
    sound = (n for n, score, half in scored if not has_collapsed(score, every, margin, half))
    return min(sound, default=0)


def form_cost(need: Need, value: float) -> str:
    if need == "time":
        return f"{value:.0f} s" if value < 100 else f"{value / 60:.1f} min"
    if need == "parameters":
        return f"{value / 1e6:.3g}M" if value >= 1e6 else f"{value / 1e3:.3g}k"
    return f"{num(value)} {'MiB' if need == 'memory' else 'MB'}"


def in_brief(
    known: Candidates, i: int, measured: float | None = None, raced: Raced | None = None
) -> str:
    """What a setting costs against full fine-tuning in the same precision, or cost in the rounds of
    a race, its score, the mean over seeds unless another one was measured, and what training this
    is after."""
    group, setting = known.group, known.settings[i]
    value = known.value(i, "score") if measured is None else measured
    full = group.full(setting.amp)
    saved = ratios(group, setting, full) if full and setting is not full else ""
    if full is None and raced and raced.race.shown is not None:
        full = raced.group.full(setting.amp)
        saved = ratios(raced.group, raced.settings[raced.race.shown], full) if full else ""
    costs = [form_cost(n, cost) for n in NEEDS[:2] if (cost := known.value(i, n)) == cost]
    return phrase("recommendation", "in_brief", group, setting, value, full, saved, costs)


def ratios(group: Group, setting: Setting, other: Setting, spans: bool = False) -> str:
    """The costs of a setting against another one's, such as `0.9× the memory`; empty if unknown.
    With `spans` they have their 95% intervals, or why there are none."""
    gaps = {cost: gap for cost in COSTS if (gap := compare(group, cost, setting, other))}
    is_single = min(len(setting.ok), len(other.ok)) < 2
    return phrase("recommendation", "ratios", gaps, spans, is_single)


def _sentences(template: str, recommended: Recommendation, one_file: bool = False) -> list[str]:
    """Sentences of a template: `advice`, or `obstacles` for why nothing is recommended."""
    group = recommended.candidates.group
    return sentences(
        template, r=recommended, known=recommended.candidates, group=group, one_file=one_file,
        not_run=_not_run(recommended), origins=_origins(recommended), can_tune=_can_tune(group),
        seeds_needed=_seeds_needed(recommended), ended=_ended(group), misses=_misses(recommended),
        collapses=_collapses(recommended), size=group.scoring.size, own_score=_score, cost=_cost,
        form_cost=form_cost, ratios=ratios, against_full=against_full, against=_against,
        rounded_up=_rounded_up, excluded_rate=excluded_rate, withdrawn=withdrawn,
        fewest=FEWEST_SEEDS, rounds=ROUNDS, confirmed=CONFIRMED, row_metrics=ROW_METRICS,
        most=int(MOST), most_named=_MOST_NAMED, most_seeds_named=_MOST_SEEDS,
    )  # fmt: skip


def obstacles(recommended: Recommendation) -> str:
    """Why nothing is recommended; empty if something is."""
    return " ".join(_sentences("obstacles", recommended))


def _not_run(recommended: Recommendation) -> dict[str, str]:
    """The precisions, by AMP, in which full fine-tuning is missing to judge the pick's costs."""
    pick, raced = recommended.setting, recommended.raced
    every = {"off": "fp32", **({pick.amp: pick.precision} if pick else {})}
    places = [recommended.candidates.group, *([raced.group] if raced else [])]
    return {a: name for a, name in every.items() if not any(place.full(a) for place in places)}


def _origins(recommended: Recommendation) -> dict[Origin, int]:
    """The number of settings by how their learning rates came about."""
    settings = recommended.candidates.settings
    known = Counter[Origin](origin_of(settings[i].rows[0]) for i in recommended.among)
    return {origin: known[origin] for origin in get_args(Origin)}


def _can_tune(group: Group) -> bool:
    """Whether the group's grid takes `--lr auto`: in one without rates as an axis."""
    return not any(setting.tells_rate for setting in group.settings)


def _rounded_up(difference: float) -> float:
    """An upper bound of a difference of scores, rounded up to two digits."""
    step = 10.0 ** (floor(log10(difference)) - 1) if difference > 0 else 1.0
    return float(f"{ceil(difference / step - 1e-9) * step:.2g}")


def _score(known: Candidates, i: int) -> str:
    return score(known.group, known.group.scoring.gain(float(known.scores[i])))


def against_full(known: Candidates, i: int) -> str:
    """The difference of a setting's score from that of full fine-tuning, in the same precision
    where that was run, in a sentence; empty for that itself, or where it has no score."""
    group, setting = known.group, known.settings[i]
    base = group.full(setting.amp) or group.baseline
    return _against(known, i, base, phrase("recommendation", "full_name", base)) if base else ""


def _against(known: Candidates, i: int, base: Setting, name: str) -> str:
    """The difference of a setting's score from that of another one, likewise."""
    group, setting = known.group, known.settings[i]
    gap = compare(group, "score", setting, base) if setting is not base else None
    if gap is None:
        return ""
    of_base = _score(known, known.settings.index(base))
    form = partial(score_gap, group)
    return phrase("recommendation", "against", group, name, of_base, gap, form)


def _selections(recommended: Recommendation) -> list[dict[str, Any]]:
    """The options of narrowed commands that supply what is missing."""
    known, every = recommended.candidates, list[dict[str, Any]]()
    group = known.group
    if recommended.raced is not None:
        return [{}] if "race open" in recommended.obstacles and recommended.is_usual else []
    if "no score" in recommended.obstacles:
        every += _for_a_score(group)
    every += [{}] * len({"one seed", "no common seed", "few seeds"} & {*recommended.obstacles})
    has_diverged = any(row.status == "invalid" for row in group.rows)
    if has_diverged and known.settings and not recommended.decided:  # done, if not run again
        every = [{**selection, "rerun": "invalid"} for selection in every or [{}]]
    if "no head" in recommended.obstacles:
        every.append({"select": "mode=head"})
    elif "not learned" in recommended.obstacles and not known.widened:
        given = {name: group.shared(name) for name in ("epochs", "max_steps")}
        every.append({name: 2 * int(value) for name, value in given.items() if value})
    every += [{"seeds": seeds} for seeds in _seeds_needed(recommended) if seeds]
    if known.settings and (not_run := _not_run(recommended)):
        every.append({"select": f"mode=full amp={','.join(not_run)}"})
    if known.settings and not known.kept and not group.scoring.of_entities:
        every.append({"rerun": "ok"})
    if {"one seed", "no common seed", "few seeds"} & {*recommended.obstacles}:
        seeds = max(FEWEST_SEEDS, 1 + max(row.seed for row in group.rows))
        every = [{"seeds": seeds, **selection} for selection in every]
    if recommended.pick is not None and _can_tune(group):
        untuned = _origins(recommended)["tuned"] < len(recommended.among)
        every += [{"lr": "auto"}] if untuned else []
    return every


def _seeds_needed(recommended: Recommendation) -> tuple[int | None, int | None]:
    """The number of seeds that would decide, if it is one to suggest; or else one that narrows the
    bounds: twice as many where collapsed trainings widen them, or the largest number of a setting,
    where others have fewer."""
    known, need, why = recommended.candidates, recommended.resolution, {*recommended.obstacles}
    if known.widened and {"not learned", "precision"} & why:
        return None, 2 * known.group.usual_seeds
    if need is None or need.factor is None or "precision" not in why:
        return None, None
    if need.seeds is not None and need.seeds <= _MOST_SEEDS:
        return need.seeds, None
    seeds = [len(sample.scores) for sample in known.samples]
    return None, max(seeds) if min(seeds) < max(seeds) else None


def withdrawn(known: Candidates, i: int) -> str:
    """Which trainings of a setting collapsed, so that it is not recommended; empty if none did."""
    if not known.collapsed(i):
        return ""
    group, label = known.group, known.settings[i].label
    facts = label, known.trainings(i), _by_seed(known, i), _score(known, i)
    margin = max(known.margin, group.margin)
    return phrase("recommendation", "withdrawn", group, *facts, margin)


def _by_seed(known: Candidates, i: int) -> dict[int, float | None]:
    """The scores of a setting's collapsed trainings by seed; None of one that diverged."""
    gain, scores = known.group.scoring.gain, known.samples[i].scores
    return {n: gain(scores[n]) if n in scores else None for n in known.collapsed(i)}


def _collapses(recommended: Recommendation) -> list[str]:
    """The settings with collapsed trainings but the withdrawn one, the pick first."""
    known = recommended.candidates
    if known.group.is_race:  # whose rounds have different examples
        return []
    order = sorted(range(len(known.settings)), key=lambda i: i != recommended.pick)
    shown = partial(phrase, "recommendation", "by_seed", known.group)
    every = [f"{known.settings[i].label} ({shown(_by_seed(known, i))})" for i in order
             if i != recommended.withdrawn and known.collapsed(i)]  # fmt: skip
    others = [s for s in known.group.settings if s not in known.settings]
    diverged = [s for s in others if any(row.status == "invalid" for row in s.rows)]
    return [*every, *(f"{setting.label} (no score: diverged)" for setting in diverged)]


def _for_a_score(group: Group) -> list[dict[str, Any]]:
    """The options of narrowed commands that give a group its first score."""
    if not group.ok:
        return [{"rerun": status} for status, _ in _ended(group)] or [{}]
    if group.shared("init") != "pretrained":
        return [{"init": "pretrained"}]
    return [{"rerun": "ok"} if group.metric not in ROW_METRICS else {}]


def _ended(group: Group) -> list[tuple[str, int]]:
    return Counter(row.status for row in group.rows if row.status).most_common()


def _misses(recommended: Recommendation) -> dict[str, float]:
    """The values of the nearest setting that miss a limit."""
    known, i = recommended.candidates, recommended.nearest
    return {
        limit.name: value
        for limit in recommended.limits
        if i is not None and limit.shortfall(value := known.value(i, limit.name)) > 0
    }


def _table(recommended: Recommendation, pick: int, exports: Mapping[str, Figures]) -> Table:
    """The pick, the alternatives by need and full fine-tuning in fp32, a row for each setting."""
    known = recommended.candidates
    group, needs = known.group, dict[int, list[str]]()
    needs[pick] = ["recommended" if recommended.decided else "best so far"]
    for need, i in recommended.alternatives.items():
        if need != "parameters" or recommended.prefer == "parameters":
            needs.setdefault(i, []).append(LABELS["alternatives"][need])
    chosen = len(needs)
    for full in dict.fromkeys((group.full(known.settings[pick].amp), group.baseline)):
        if full in known.settings:
            name = phrase("recommendation", "full_name", full)
            needs.setdefault(known.settings.index(full), []).append(name)
    rows = [
        {
            "need": ", ".join(names), "setting": known.settings[i].label,
            **{need: _cost(known, need, i) for need in NEEDS}, "score": _score(known, i),
            "loss": _at_most(recommended, i),
            **_exported(group, _figures(known.settings[i], exports)),
        }
        for i, names in needs.items()
    ]  # fmt: skip
    used = {key for row in rows for key, value in row.items() if value is not None}
    rows = [{key: value for key, value in row.items() if key in used} for row in rows]
    facts = recommended.decided, bool(recommended.limits), len(needs) > chosen
    caption = phrase("recommendation", "needs", *facts)
    marks = ["baseline" if known.settings[i] is group.baseline else "" for i in needs]
    return table("advice", rows, caption, marks, {"metric": group.scoring.label})


def _figures(setting: Setting, exports: Mapping[str, Figures]) -> Figures | None:
    """What the exported model of a setting costs to use, whichever seed it has."""
    return latest_figures(exports, [str(row.cell_id) for row in setting.ok])


def _exported(group: Group, figures: Figures | None) -> dict[str, str | None]:
    """By column, what the forms of an exported model cost to use, and the dev score after
    quantisation, where it is by the group's metric."""
    fields: dict[str, str | None] = dict.fromkeys((*_USES, "score_int8"))
    if figures is None:
        return fields
    for column, name in _USES.items():
        form = figures.form(name)
        if form and form.one_ms is not None and form.size_mb is not None:
            fields[column] = f"{num(form.one_ms)} ms, {num(form.size_mb)} MB"
        if form and name == INT8 and form.score is not None and figures.metric == group.metric:
            fields["score_int8"] = score(group, form.score)
    return fields


def _cost(known: Candidates, need: Need, i: int) -> str:
    value = float(known.costs[need][i])
    return form_cost(need, value) if value == value else DASH


def _at_most(recommended: Recommendation, i: int) -> str:
    """The bound of a setting against the best within the limits."""
    known, loss = recommended.candidates, recommended.loss(i)
    if loss == float("inf") or not known.comparison.shows_seeds or len(recommended.among) < 2:
        return DASH
    return score(known.group, _rounded_up(loss))


def as_json(answer: Advice) -> dict[str, Any]:
    recommended = answer.recommended
    known = recommended.candidates
    setting = partial(_setting, known, exports=answer.exports)
    pick, base = recommended.setting, known.group.baseline
    full = known.group.full(pick.amp) if pick else None
    return {
        "decided": recommended.decided,
        "obstacles": list(recommended.obstacles),
        "recommended": setting(recommended.pick) if recommended.decided else None,
        "cross_fitted_score": recommended.cross_fitted_score,
        "best": setting(recommended.reference),
        "baseline": setting(known.settings.index(base)) if base in known.settings else None,
        "alternatives": {n: setting(i) for n, i in recommended.alternatives.items()},
        "could_be_within_margin": [known.settings[i].label for i in recommended.could_be],
        "settings": len(recommended.among),
        "prefer": recommended.prefer,
        "where": " ".join(limit.text for limit in recommended.limits),
        "margin": known.margin,
        "metric": known.group.metric,
        "nearest": setting(recommended.nearest),
        "withdrawn": setting(recommended.withdrawn),
        "learning_rates": _origins(recommended),
        "against_full_in_same_precision": _gaps(known.group, pick, full),
        "amp_itself": _gaps(known.group, full, base),
        "race": None if recommended.raced is None else _race(recommended.raced),
        "heading": answer.heading,
        "sentences": list(answer.sentences),
        "commands": list(answer.commands),
    }


def _race(raced: Raced) -> dict[str, Any]:
    """How far a race came, and what became of its settings, the cheapest first."""
    return {
        "rounds": len(raced.race.rounds),
        "trainings": raced.trainings,
        "over": raced.race.is_over,
        "settings": [
            {
                "label": setting.label,
                "left_after_round": raced.race.left.get(i),
                "gap": raced.gap(i),
            }
            for i, setting in enumerate(raced.settings)
        ],
    }


def _gaps(group: Group, a: Setting | None, b: Setting | None) -> dict[str, Any] | None:
    """Ratios of the costs of two settings, and the difference of their scores, with the ends of
    their intervals; None where they are one, or one was not run."""
    if a is None or b is None or a is b:
        return None
    gaps = {name: compare(group, name, a, b) for name in OBJECTIVES}
    return {name: gap and [gap.value, gap.low, gap.high] for name, gap in gaps.items()}


def _setting(
    known: Candidates, i: int | None, exports: Mapping[str, Figures]
) -> dict[str, Any] | None:
    if i is None:
        return None
    setting, first = known.settings[i], known.settings[i].rows[0]
    figures = _figures(setting, exports)
    trainings, collapsed = known.trainings(i), known.collapsed(i)
    costs = {n: None if (v := float(known.costs[n][i])) != v else v for n in NEEDS}
    return {
        "label": setting.label, "model": first.model,
        **{name: getattr(setting, name) for name in ("mode", "rank", "layers", "amp")},
        "frozen_dtype": setting.frozen,
        "cells": sorted({str(row.cell_id) for row in setting.ok}),
        "score": known.value(i, "score"), "seeds": len(known.samples[i].scores),
        "learning_rates": origin_of(first),
        **{name: first[name] for name in ("epochs", "max_steps")},
        "trainings": trainings, "collapsed_seeds": collapsed,
        "excluded_collapse_rate": None if collapsed else excluded_rate(trainings),
        "memory_mib": costs["memory"], "time_s": costs["time"], "size_mb": costs["size"],
        "parameters": costs["parameters"],
        "exported": figures and figures.model_dump(mode="json"),
    }  # fmt: skip


def lines(answer: Advice) -> list[str]:
    """The recommendation as lines for a terminal."""
    return sentences("answer", answer=answer, dash=DASH)


def subject(group: Group) -> str:
    """What a group is of: model and task."""
    names = [group.shared(column) or "not recorded" for column in ("model", "task")]
    models = dict.fromkeys(setting.encoder or str(names[0]) for setting in group.settings)
    return f"{', '.join(models)} on {names[1]}"
