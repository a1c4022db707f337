"""The report's sections on the quality of predictions, all from kept predictions: every metric of
the settings that score best, and of the best one its classes and its calibration."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.analysis.verdicts import best_by_score
from bench.plan.metrics import METRICS, metric_of, metrics_for
from bench.plan.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bench.report import text
from bench.report.calibration import calibration_section
from bench.report.classes import Names, classes_section
from bench.report.pages import sentences
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table
from bench.results.facts import DataFacts
from bench.results.outcomes import Outcome
from bench.results.predictions import PredictionsOf
from bench.results.scores import numbers, score_of
from bench.stats.intervals import Interval

_MOST_SETTINGS: Final = 20
"""Settings in the table of all metrics."""


def quality_sections(
    group: Group, predictions_of: PredictionsOf, facts: DataFacts | None
) -> list[Section]:
    """The sections on metrics, classes and calibration, without those whose predictions are not
    kept.

    Args:
        facts: on the group's data, for the names of classes.
    """
    best = best_by_score(group) if group.has_quality else None
    if best is None:
        return []
    outcomes = _outcomes(best, predictions_of)
    if not outcomes:
        return []
    names = Names(group, facts)
    sections = [_metrics(group, predictions_of, outcomes[0])]
    if not outcomes[0].has_numbers:
        sections += [classes_section(best, outcomes, names), calibration_section(outcomes)]
    return [section for section in sections if section is not None]


def _outcomes(setting: Setting, predictions_of: PredictionsOf) -> list[Outcome]:
    """The predictions of a setting's first run of each seed, those with labels; none for a task of
    several parts."""
    parts = [predictions_of(runs[0], logits=True) for runs in setting.runs.values()]
    found = [one[""] for one in parts if one and "" in one]
    return [one for one in found if one.labels is not None]


def problem_of_outcome(outcome: Outcome) -> str:
    """The problem that predictions are of."""
    if outcome.has_numbers:
        return REGRESSION
    return SINGLE_LABEL if outcome.has_classes else MULTI_LABEL


def _metrics(group: Group, predictions_of: PredictionsOf, example: Outcome) -> Section | None:
    """All metrics of the settings that score best; None where there is only the group's own."""
    names = metrics_for(problem_of_outcome(example))
    scored = [(s, score) for s in group.settings if (score := s.estimate("dev_score"))]
    scored.sort(key=lambda pair: -group.scoring.gain(pair[1].value))
    settings = [setting for setting, _ in scored[:_MOST_SETTINGS]]
    values = {setting.label: _by_metric(setting, names, predictions_of) for setting in settings}
    known = [name for name in names if any(name in of for of in values.values())]
    if len(known) < 2:
        return None
    won, tied = Counter[str](), set[str]()
    for name in known:
        scores = {s: metric_of(name).gain(of[name].value) for s, of in values.items() if name in of}
        best = [setting for setting, gain in scores.items() if gain == max(scores.values())]
        won.update(best)
        tied.update(best if len(best) > 1 else ())
    [(label, number)] = won.most_common(1)
    heading, *lines = sentences(
        "metrics", best=label, is_tied=label in tied, wins=number, settings=len(values),
        known=known, missing=[METRICS[name] for name in names if name not in known],
    )  # fmt: skip
    heads = [Head("setting", "setting")]
    heads += [Head(name, metric_of(name).label, metric_of(name).about, True) for name in known]
    rows = [
        [setting, *(_with_ends(name, of[name]) if name in of else DASH for name in known)]
        for setting, of in values.items()
    ]
    shown = "" if len(scored) <= len(rows) else f" The {len(rows)} best of {len(scored):,}."
    caption = f"Each with its 95% interval over seeds and dev examples.{shown}"
    return Section("metrics", "Metrics", heading, lines, (), [Table(heads, rows, caption)])


def _by_metric(
    setting: Setting, names: Sequence[str], predictions_of: PredictionsOf
) -> dict[str, Interval]:
    """A setting's score by each metric that can be computed for all of its seeds."""
    outcomes = _outcomes(setting, predictions_of)
    scores: dict[str, Interval] = {}
    if len(outcomes) < len(setting.scores) or len({len(o.predicted) for o in outcomes}) != 1:
        return scores
    for name in names:
        with suppress(ValueError):
            scores[name] = score_of(name, [numbers(name, outcome) for outcome in outcomes])
    return scores


def _with_ends(name: str, score: Interval) -> str:
    form = partial(text.by_metric, name)
    return f"{form(score.value)} ({text.span(score, form)})"
