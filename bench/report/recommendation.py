"""The recommendation in words: a heading, sentences, alternatives by need, and the commands that
would settle what is open."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, floor, log10
from types import MappingProxyType
from typing import Any, Final, Literal

from bench.analysis.costs import NEEDS, Need
from bench.analysis.groups import Group
from bench.analysis.recommendation import Candidates, Recommendation, Resolution
from bench.analysis.setting import Setting
from bench.analysis.verdicts import compare
from bench.plan.metrics import ROW_METRICS
from bench.report.commands import export_command, narrowed
from bench.report.tables import DASH, Head, Table
from bench.report.text import count, num, score, score_gap, span, times
from bench.results.exports import INT8, MERGED, ONNX, Figures, latest_figures
from bench.results.facts import DataFacts
from bench.stats.best import FEWEST_SEEDS

BASE: Final = "full fine-tuning in fp32"
_POINT: Final = 0.01
_MOST_NAMED: Final = 4
"""More settings than these are counted and not named."""
_MOST_SEEDS: Final = 30
"""More seeds than these are not suggested."""
_FORMS: Final = {MERGED: "merged", ONNX: "ONNX", INT8: "ONNX int8"}
"""The forms of exported models that have a column."""
_NAMES: Final = {"memory": "least memory", "time": "least time", "size": "smallest file",
                 "parameters": "fewest parameters", "score": "best score"}  # fmt: skip


@dataclass(frozen=True)
class Advice:
    """The recommendation of a group in words.

    Attributes:
        heading: the answer in a sentence.
        sentences: what it gains and loses, how sure that is, and what is missing.
        table: the alternatives by need.
        commands: command lines that supply what is missing.
        exports: by `cell_id`, what exported models cost to use.
    """

    recommended: Recommendation
    heading: str
    sentences: Sequence[str]
    table: Table | None
    commands: Sequence[str]
    exports: Mapping[str, Figures]


def advice(
    recommended: Recommendation,
    facts: Mapping[str, DataFacts] = MappingProxyType({}),
    exports: Mapping[str, Figures] = MappingProxyType({}),
    sources: Sequence[str] = (),
) -> Advice:
    """A group's recommendation in words.

    Args:
        facts: by `data_digest`, for commands.
        exports: by `cell_id`, what exported models cost to use.
        sources: names of the files that the rows are from.
    """
    group = recommended.candidates.group
    sentences, selections = _missing(recommended)
    pick, table = recommended.pick, None
    if pick is not None:
        sentences = [*_sureness(recommended, pick), *sentences]
        table = _table(recommended, pick, exports)
    lines = [narrowed(group, facts, **selection) for selection in selections]
    if recommended.decided and len(sources) <= 1:  # an export is from one file
        sentences = [
            *sentences,
            "python -m bench.export writes its model as a folder that plain libraries load.",
        ]
        lines.append(export_command(recommended, sources))
    return Advice(
        recommended,
        _heading(recommended),
        sentences,
        table,
        list(dict.fromkeys(lines)),
        exports,
    )


def base_name(group: Group) -> str:
    """The baseline in words: of several encoders that one's full fine-tuning that scores best."""
    encoder = group.baseline.encoder if group.baseline else ""
    return f"full fine-tuning of {encoder} in fp32" if encoder else BASE


def form_cost(need: Need, value: float) -> str:
    """A cost with its unit."""
    if need == "time":
        return f"{value:.0f} s" if value < 100 else f"{value / 60:.1f} min"
    if need == "parameters":
        return f"{value / 1e6:.3g}M" if value >= 1e6 else f"{value / 1e3:.3g}k"
    return f"{num(value)} {'MiB' if need == 'memory' else 'MB'}"


def margin_text(known: Candidates) -> str:
    """The margin with its unit, such as `2 points of accuracy`."""
    return known.group.scoring.size(known.margin)


def _heading(recommended: Recommendation) -> str:
    known, pick = recommended.candidates, recommended.pick
    if pick is None:
        return "Nothing to recommend yet"
    label, brief = known.settings[pick].label, in_brief(known, pick, recommended.cross_fitted_score)
    if recommended.decided:
        return f"Use {label}: {brief}"
    return f"Not decided; the best by score so far is {label}: {brief}"


def in_brief(known: Candidates, i: int, measured: float | None = None) -> str:
    """What a setting costs against full fine-tuning in fp32, and its score.

    Args:
        measured: the score, if it is not the mean over seeds.
    """
    group, setting = known.group, known.settings[i]
    value = known.value(i, "score") if measured is None else measured
    scored = f"{group.scoring.label} {score(group, value)}"
    if setting is group.baseline:
        return f"it is {base_name(group)}, {scored}"
    gaps = {cost: compare(group, cost, setting, group.baseline) for cost in ("memory", "time")
            if group.baseline}  # fmt: skip
    parts = [f"{times(gap.value)}× the {cost}" for cost, gap in gaps.items() if gap]
    if not parts:
        costs = {need: known.costs[need][i] for need in ("memory", "time")}
        parts = [form_cost(n, v) for n, v in costs.items() if v == v]  # type: ignore[arg-type]
        return ", ".join([*parts, scored])
    return f"{' and '.join(parts)} of {base_name(group)}, {scored}"


def _sureness(recommended: Recommendation, pick: int) -> list[str]:
    """How the pick compares with the best and with full fine-tuning, and how sure that is.

    One seed can't say how sure anything is.
    """
    known = recommended.candidates
    group, total, out = known.group, len(recommended.among), []
    seeds = len(known.samples[pick].scores)
    if not known.comparison.shows_seeds:
        return []
    if total == 1:
        return ["It is the only setting that meets the limits, and is compared with none."]
    if pick in recommended.shown:
        best, name = recommended.reference, ""
        if best is not None and best != pick:
            name = f", of which {known.settings[best].label} scores best ({_score(known, best)})"
        over = count(seeds, "seed")
        over += f" and {known.examples:,} dev examples" if known.examples else ""
        out.append(
            f"With 95% confidence it is at most {_bound(known, recommended.loss(pick))} worse than "
            f"the best of {_those(recommended)}{name}; the margin is {margin_text(known)}. It ran "
            f"with {over}."
        )
    if against := against_full(known, pick):
        out.append(against)
    fitted = recommended.cross_fitted_score
    if fitted is not None and score(group, fitted) != _score(known, pick):
        out.append(
            f"Its {group.scoring.label} of {score(group, fitted)} is cross-fitted: each tenth of "
            f"the dev examples scores what the others choose. On all of them it is "
            f"{_score(known, pick)}."
        )
    return [*out, _excluded(recommended)]


def _those(recommended: Recommendation) -> str:
    within = " that meet the limits" if recommended.limits else ""
    return f"the {count(len(recommended.among), 'setting')}{within}"


def _excluded(recommended: Recommendation) -> str:
    """How many settings are shown to be worse than another by more than the margin."""
    known, total, left = recommended.candidates, len(recommended.among), recommended.could_be
    out = total - len(left)
    if not out:
        every = "both" if total == 2 else f"all {total}"
        return f"None is shown to be worse by more than the margin: {every} could be within it."
    names = "; ".join(known.settings[i].label for i in left) if len(left) <= _MOST_NAMED else ""
    return (
        f"{out} of {total} {'is' if out == 1 else 'are'} shown to be worse by more than the "
        f"margin; the other {len(left)} could be within it{f': {names}' if names else ''}."
    )


def _bound(known: Candidates, difference: float) -> str:
    """An upper bound of a difference of scores, rounded up to two digits, with its unit."""
    step = 10.0 ** (floor(log10(difference)) - 1) if difference > 0 else 1.0
    return known.group.scoring.size(float(f"{ceil(difference / step - 1e-9) * step:.2g}"))


def _score(known: Candidates, i: int) -> str:
    return score(known.group, known.group.scoring.gain(float(known.scores[i])))


def against_full(known: Candidates, i: int) -> str:
    """The difference of a setting's score from that of full fine-tuning in fp32, in a sentence;
    empty for that itself, or where it has no score."""
    group, setting = known.group, known.settings[i]
    base = group.baseline
    gap = compare(group, "score", setting, base) if base and setting is not base else None
    if base is None or gap is None:
        return ""
    form = partial(score_gap, group)
    interval = f" (95% interval {span(gap, form)})" if gap.ends() else ""
    of_base = _score(known, known.settings.index(base))
    return (
        f"Against {base_name(group)} ({of_base}) its {group.scoring.label} differs by "
        f"{form(gap.value)}{interval}."
    )


def _missing(recommended: Recommendation) -> tuple[list[str], list[dict[str, Any]]]:
    """What is missing for a decision or a comparison, and the narrowed commands that supply it."""
    known = recommended.candidates
    group = known.group
    sentences, selections = obstacle_of(recommended)
    if group.baseline is None and known.settings:
        sentences.append(f"What it saves against {BASE} is not known: that was not run, or not ok.")
        selections.append({"select": "mode=full amp=off"})
    if known.settings and not known.kept:
        missing = sum(not sample.values for sample in known.samples)
        sentences.append(
            f"The predictions of {count(missing, 'setting')} {'is' if missing == 1 else 'are'} not "
            "kept, so scores are compared by their own intervals, as if on different examples; "
            "cells that run again keep them."
        )
        selections.append({"rerun": "ok"})
    if (finest := recommended.finest) and group.scoring.in_points and finest[0] > _POINT:
        sentences.append(
            f"On {known.examples:,} dev examples no number of seeds shows a difference of 1 point "
            f"between typical settings: the smallest is about {100 * finest[0]:.2g} points, and 1 "
            f"point takes at least {_rounded(finest[1]):,} dev examples."
        )
    if {"one seed", "no common seed", "few seeds"} & {*recommended.obstacles}:
        seeds = max(FEWEST_SEEDS, 1 + max(row.seed for row in group.rows))
        selections = [{"seeds": seeds, **selection} for selection in selections]
    return sentences, selections


def obstacle_of(recommended: Recommendation) -> tuple[list[str], list[dict[str, Any]]]:
    """Why nothing is recommended, and the narrowed commands that supply what is missing."""
    known, obstacles = recommended.candidates, recommended.obstacles
    sentences: list[str] = []
    selections: list[dict[str, Any]] = []
    if "no score" in obstacles:
        return _no_score(known.group)
    if "one seed" in obstacles:
        sentences.append("One seed can't show how much of a score is luck.")
        selections.append({})
    if "no common seed" in obstacles:
        sentences.append("Some settings have no seed in common, so their scores are not compared.")
        selections.append({})
    if "no head" in obstacles:
        sentences.append(
            "The head alone was not run, so nothing shows that training the encoder helps."
        )
        selections.append({"select": "mode=head"})
    elif "not learned" in obstacles:
        sentences.append(_not_learned(known.settings[int(known.scores.argmax())]))
        steps, epochs = known.group.shared("max_steps"), known.group.shared("epochs")
        longer = "epochs" if steps is None else "max_steps"
        selections.append({longer: 2 * int((epochs if steps is None else steps) or 1)})
    if recommended.nearest is not None:
        sentences.append(_nearest(recommended, recommended.nearest))
    lacking = known.cheapest(recommended.few_seeds, recommended.prefer)
    if "few seeds" in obstacles and lacking is not None:
        setting = known.settings[lacking]
        sentences.append(
            f"By its bounds {setting.label} is within the margin of the best, but it has only "
            f"{count(len(setting.scores), 'seed')}; a recommended setting has at least "
            f"{FEWEST_SEEDS}."
        )
        selections.append({})
    if "precision" in obstacles and recommended.resolution is not None:
        return _precision(recommended, recommended.resolution)
    return sentences, selections


def _no_score(group: Group) -> tuple[list[str], list[dict[str, Any]]]:
    if not group.ok:
        ended = Counter(row.status for row in group.rows if row.status)
        sentences = ", ".join(f"{number} {status}" for status, number in ended.most_common())
        again = [{"rerun": status} for status, _ in ended.most_common()] or [{}]
        return [f"No cell ended ok{f': {sentences}' if sentences else ''}."], again
    if group.shared("init") != "pretrained":
        text = "The weights are random, so there are costs but no scores."
        return [text], [{"init": "pretrained"}]
    all_folds = "" if group.folds is None else f" of all {group.folds} folds"
    if group.metric not in ROW_METRICS:
        text = f"No setting has a score by {group.scoring.label}: cells that run again have one."
        return [text], [{"rerun": "ok"}]
    return [f"No setting has a dev score{all_folds} yet."], [{}]


def _not_learned(best: Setting) -> str:
    if best.mode == "head":
        return (
            "The head alone scores best, so nothing shows that training the encoder helps; longer "
            "training may."
        )
    rival = "the head alone" if best.learned else "the majority class"
    return (
        f"The best setting, {best.label}, is not shown to score better than {rival}, so nothing "
        "shows what the others lose; longer training or more data may."
    )


def _nearest(recommended: Recommendation, i: int) -> str:
    known, group = recommended.candidates, recommended.candidates.group
    limits = " ".join(limit.text for limit in recommended.limits)
    values = dict.fromkeys(
        f"{limit.name} {_of_limit(group, limit.name, known.value(i, limit.name))}"
        for limit in recommended.limits
        if limit.shortfall(known.value(i, limit.name)) > 0
    )
    near = f"The nearest is {known.settings[i].label}, with {' and '.join(values)}."
    return f"No setting meets {limits}. {near}"


def _of_limit(group: Group, name: Need | Literal["score"], value: float) -> str:
    if value != value:
        return "not measured"
    return score(group, value) if name == "score" else form_cost(name, value)


def _precision(
    recommended: Recommendation, resolution: Resolution
) -> tuple[list[str], list[dict[str, Any]]]:
    """Which part of the uncertainty keeps the rule from a decision, and what would remove it."""
    known = recommended.candidates
    best = resolution.closest == recommended.reference
    name = "the best by score itself" if best else known.settings[resolution.closest].label
    sentences = [
        f"No setting is shown to be within {margin_text(known)} of the best. The nearest to it is "
        f"{name}, which is at most {_bound(known, resolution.margin)} worse."
    ]
    if resolution.bottleneck == "margin" or resolution.factor is None:
        sentences.append(
            "The bottleneck is the margin: the measured difference is about as large, and more "
            "seeds or dev examples would not change that."
        )
        return sentences, []
    parts = {"seeds": "the number of seeds", "examples": "the number of dev examples"}
    ways, selections = [], []
    if resolution.seeds is not None and resolution.seeds <= _MOST_SEEDS:
        ways.append(f"{resolution.seeds} seeds")
        selections.append({"seeds": resolution.seeds})
    more = f"about {resolution.factor:.2g} times as many dev examples"
    if known.examples:
        more = f"about {_rounded(resolution.factor * known.examples):,} dev examples"
    sentences.append(
        f"The bottleneck is {parts[resolution.bottleneck]}: with {' or with '.join([*ways, more])} "
        "it would be shown four times out of five, if its measured difference is the true one."
    )
    fewest, most = (end(len(s.scores) for s in known.samples) for end in (min, max))
    if fewest < most and not selections:
        sentences.append(
            f"Some settings have fewer than {most} seeds; more would narrow the bounds."
        )
        selections.append({"seeds": most})
    return sentences, selections


def _rounded(number: float) -> int:
    """A number with two digits."""
    return int(float(f"{number:.2g}"))


def _table(recommended: Recommendation, pick: int, exports: Mapping[str, Figures]) -> Table:
    """The pick, the alternatives by need and full fine-tuning in fp32, a row for each setting."""
    known = recommended.candidates
    group, needs = known.group, dict[int, list[str]]()
    needs[pick] = ["recommended" if recommended.decided else "best so far"]
    for need, i in recommended.alternatives.items():
        if need != "parameters" or recommended.prefer == "parameters":
            needs.setdefault(i, []).append(_NAMES[need])
    if group.baseline in known.settings:
        needs.setdefault(known.settings.index(group.baseline), []).append(base_name(group))
    heads = [
        Head("need", ""), Head("setting", "setting"), Head("memory", "memory", "", True),
        Head("time", "time", "", True), Head("size", "file", "", True),
        Head("parameters", "trainable", "", True),
        Head("score", f"dev {group.scoring.label}", "", True),
        Head("loss", "worse by at most", "than the best, by a simultaneous 95% bound", True),
    ]  # fmt: skip
    more_heads, more_fields = _export_columns(known, [*needs], exports)
    rows = [
        [", ".join(names), known.settings[i].label, *(_cost(known, need, i) for need in NEEDS),
         _score(known, i), _at_most(recommended, i), *more]
        for (i, names), more in zip(needs.items(), more_fields, strict=True)
    ]  # fmt: skip
    caption = "By need, of the settings that are shown to be within the margin of the best."
    if not recommended.decided:
        caption = "By need, of the settings that could be within the margin of the best."
    marks = ["baseline" if known.settings[i] is group.baseline else "" for i in needs]
    return Table([*heads, *more_heads], rows, caption, marks)


def _export_columns(
    known: Candidates, settings: Sequence[int], exports: Mapping[str, Figures]
) -> tuple[list[Head], list[list[str]]]:
    """What the exported models of some settings cost to use: headings, and for each setting the
    fields. Columns without any field are left out."""
    group = known.group
    figures = [_figures(known.settings[i], exports) for i in settings]
    about = "exported: median latency of one text, and size of the model's files"
    heads = [Head(f"use_{name}", text, about) for name, text in _FORMS.items()]
    heads.append(Head("score_int8", f"{group.scoring.label} in int8", "after quantisation", True))
    fields = [
        [*(_use(one, name) for name in _FORMS), _score_in_int8(group, one)] for one in figures
    ]
    shown = [i for i in range(len(heads)) if any(row[i] != DASH for row in fields)]
    return [heads[i] for i in shown], [[row[i] for i in shown] for row in fields]


def _figures(setting: Setting, exports: Mapping[str, Figures]) -> Figures | None:
    """What the exported model of a setting costs to use, whichever seed it has."""
    return latest_figures(exports, [str(row.cell_id) for row in setting.ok])


def _use(figures: Figures | None, name: str) -> str:
    form = figures.form(name) if figures else None
    if form is None or form.one_ms is None or form.size_mb is None:
        return DASH
    return f"{num(form.one_ms)} ms, {num(form.size_mb)} MB"


def _score_in_int8(group: Group, figures: Figures | None) -> str:
    """The dev score after quantisation, where it is by the group's metric."""
    form = figures.form(INT8) if figures else None
    if figures is None or form is None or form.score is None or figures.metric != group.metric:
        return DASH
    return score(group, form.score)


def _cost(known: Candidates, need: Need, i: int) -> str:
    value = float(known.costs[need][i])
    return form_cost(need, value) if value == value else DASH


def _at_most(recommended: Recommendation, i: int) -> str:
    """The bound of a setting against the best within the limits."""
    known, loss = recommended.candidates, recommended.loss(i)
    known_loss = known.comparison.shows_seeds and loss < float("inf")
    return score(known.group, loss) if known_loss and len(recommended.among) > 1 else DASH


def as_json(answer: Advice) -> dict[str, Any]:
    """The recommendation as data."""
    recommended = answer.recommended
    known = recommended.candidates

    def setting(i: int | None) -> dict[str, Any] | None:
        return _setting(known, i, answer.exports)

    base: Setting | None = known.group.baseline
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
        "heading": answer.heading,
        "sentences": list(answer.sentences),
        "commands": list(answer.commands),
    }


def _setting(
    known: Candidates, i: int | None, exports: Mapping[str, Figures]
) -> dict[str, Any] | None:
    if i is None:
        return None
    setting = known.settings[i]
    figures = _figures(setting, exports)
    costs = {n: None if (v := float(known.costs[n][i])) != v else v for n in NEEDS}
    return {
        "label": setting.label,
        "model": setting.rows[0].model,
        **{name: getattr(setting, name) for name in ("mode", "rank", "layers", "amp")},
        "frozen_dtype": setting.frozen,
        "cells": sorted({str(row.cell_id) for row in setting.ok}),
        "score": known.value(i, "score"),
        "seeds": len(known.samples[i].scores),
        "memory_mib": costs["memory"], "time_s": costs["time"], "size_mb": costs["size"],
        "parameters": costs["parameters"],
        "exported": figures and figures.model_dump(mode="json"),
    }  # fmt: skip


def lines(answer: Advice) -> list[str]:
    """The recommendation as lines for a terminal."""
    every = [f"{answer.heading}.", *answer.sentences]
    if (table := answer.table) is not None:
        use = [_in_words(table.heads[8:], row[8:]) for row in table.rows]
        if use[0]:
            every.append(f"Exported{use[0]}.")
        if len(table.rows) > 1:
            every.append(table.caption)
            every += [
                f"{row[0]}: {row[1]} ({row[2]}, {row[3]}, file {row[4]}, {row[6]}{more})"
                for row, more in zip(table.rows[1:], use[1:], strict=True)
            ]
    return [*every, *(f"  {command}" for command in answer.commands)]


def _in_words(heads: Sequence[Head], fields: Sequence[str]) -> str:
    """What an exported model costs to use, from its fields of the table, as ends of a sentence."""
    shown = zip(heads, fields, strict=True)
    return "".join(f", {head.text} {field}" for head, field in shown if field != DASH)


def subject(group: Group) -> str:
    """What a group is of: model and task."""
    models = dict.fromkeys(s.encoder or str(group.shared("model")) for s in group.settings)
    return f"{', '.join(models)} on {group.shared('task')}"
