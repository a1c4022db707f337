"""The report's sections on the quality of predictions, all from kept predictions: every metric of
the settings that score best, and of the best one its classes and its calibration."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.analysis.verdicts import best_by_score
from bench.plan.metrics import METRICS, WORD_CLASSES, WORDS, metric_of, metrics_for
from bench.report import text
from bench.report.data import most_new
from bench.report.drawing import BLUE, GREY, INK, Drawing, canvas
from bench.report.pages import Section, phrase, sentences
from bench.report.tables import DASH, Head, Table, table
from bench.results.facts import DataFacts
from bench.results.outcomes import Array, Outcome
from bench.results.predictions import PredictionsOf
from bench.results.scores import interval_of, probabilities
from bench.stats.intervals import Floats, Interval
from minbert.data.tasks import TASKS
from minbert.data.words import entity_counts, entity_kinds, recalled

_MOST_SETTINGS: Final = 20  # settings in the table of all metrics
_MOST_CLASSES: Final = 50  # classes in the table
_MOST_DRAWN: Final = 20
"""Classes in the figure of confusions; of more, the most frequent pairs are in a table."""
_LONGEST: Final = 24  # characters of a class's name in a figure
_BINS: Final = 15  # bins of equal width of an expected calibration error, as in Guo et al. (2017)
Names = Callable[[int], str]


def quality_sections(
    group: Group, predictions_of: PredictionsOf, facts: DataFacts | None
) -> list[Section]:
    """The sections on metrics, classes and calibration, without those whose predictions are not
    kept; the facts on the group's data have the names of classes."""
    best = best_by_score(group) if group.has_quality else None
    outcomes = _outcomes(best, predictions_of) if best else []
    if best is None or not outcomes:
        return []
    task = TASKS.get(str(group.shared("task")))
    classes = (facts and facts.classes) or (task.classes if task else ())
    known = (*classes, "not read") if classes else ()  # the last of words without a prediction

    def names(index: int) -> str:
        return text.plain(known[index]) if 0 <= index < len(known) else str(index)

    sections = [_metrics(group, predictions_of, outcomes[0])]
    if outcomes[0].problem == WORD_CLASSES:
        sections.append(_classes(best, [*map(_of_words, outcomes)], names))
    elif outcomes[0].problem == WORDS:
        sections.append(_types(best, outcomes, names, facts))
    elif not outcomes[0].has_numbers:
        sections += [_classes(best, outcomes, names), _calibration(outcomes)]
    return [section for section in sections if section is not None]


def _of_words(outcome: Outcome) -> Outcome:
    """The same with each word as an example."""
    labels: Any = outcome.labels
    return Outcome(outcome.predicted[labels >= 0], labels[labels >= 0], outcome.examples)


def _outcomes(setting: Setting, predictions_of: PredictionsOf) -> list[Outcome]:
    """The predictions of a setting's first run of each seed, those with labels; none for a task of
    several parts."""
    parts = [predictions_of(runs[0], logits=True) for runs in setting.runs.values()]
    return [one[""] for one in parts if one and "" in one and one[""].labels is not None]


def _metrics(group: Group, predictions_of: PredictionsOf, example: Outcome) -> Section | None:
    """All metrics of the settings that score best; None where there is only the group's own."""
    names = metrics_for(example.problem)
    scored = [(s, score) for s in group.settings if (score := s.estimate("dev_score"))]
    scored.sort(key=lambda pair: -group.gain(pair[0]))
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
    forms = {name: partial(text.by_metric, name) for name in known}
    rows = [
        [label, *(text.with_span(of[n], form) if n in of else DASH for n, form in forms.items())]
        for label, of in values.items()
    ]
    caption = phrase("captions", "metrics", len(rows), len(scored))
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
            scores[name] = interval_of(name, outcomes)
    return scores


def _classes(setting: Setting, outcomes: Sequence[Outcome], names: Names) -> Section | None:
    """Precision, recall and F1 of each class, and which are taken for which."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    labels = np.concatenate([one.labels for one in outcomes if one.labels is not None])
    predicted = np.concatenate([one.predicted for one in outcomes])
    if not labels.size:
        return None
    what, noun = ("class", "Classes") if labels.ndim == 1 else ("label", "Labels")
    every = np.union1d(labels, predicted) if labels.ndim == 1 else np.arange(labels.shape[1])
    (precision, recall, f1, true), (*_, predictions) = (
        precision_recall_fscore_support(*pair, labels=every, zero_division=0)
        for pair in ((labels, predicted), (predicted, labels))
    )
    used = np.flatnonzero(true + predictions)
    present = used[true[used] > 0]
    if not len(present):
        return None

    def end(value: float) -> str:
        alike = present[np.round(f1[present], 2) == round(value, 2)]
        several = text.count(len(alike), what, noun.lower())
        return f"{value:.2f} ({names(int(every[alike[0]])) if len(alike) == 1 else several})"

    ends = end(f1[present].min()), end(f1[present].max())
    heading, *lines = sentences("classes", noun=noun, label=setting.label, ends=ends)
    shown = sorted(used, key=lambda index: -true[index])[:_MOST_CLASSES]
    most, seeds = len(used) > len(shown), len(outcomes)
    over = len(outcomes[0].predicted), seeds
    rows = [
        {
            "class": names(int(every[i])), "support": f"{true[i] // seeds:,}",
            "predicted": f"{predictions[i]:,}" if seeds == 1 else text.num(predictions[i] / seeds),
            "precision": precision[i] if predictions[i] else None,
            "recall": recall[i] if true[i] else None, "f1": f1[i],
        }
        for i in (shown if most else sorted(shown))
    ]  # fmt: skip
    caption = phrase("captions", "classes", *over, len(shown), len(used))
    tables = [table("classes", rows, caption, words={"what": what})]
    drawings = []
    if labels.ndim == 1:
        if len(used) <= _MOST_DRAWN:
            shares = confusion_matrix(labels, predicted, labels=every, normalize="true")
            drawings.append(_confusion(shares, [*map(names, map(int, every))], over))
        elif (labels != predicted).any():
            tables.append(_confused(labels, predicted, names))
    return Section("classes", "Classes", heading, lines, drawings, tables)


def _types(
    setting: Setting, outcomes: Sequence[Outcome], names: Names, facts: DataFacts | None
) -> Section | None:
    """Precision, recall and F1 of the entities of each type, which are taken for which, and recall
    of those that training has and of those that are new."""
    labels = np.concatenate([one.labels for one in outcomes if one.labels is not None])
    predicted = np.concatenate([one.predicted for one in outcomes])
    rows, seeds = [], len(outcomes)

    def name_of(kind: int) -> str:
        return names(2 * kind + 1)[2:] if kind >= 0 else "none with these ends"

    for kind in range((int(max(labels.max(), predicted.max())) + 1) // 2):
        hits, guessed, true = map(int, entity_counts(labels, predicted, kind=kind).sum(axis=0))
        if guessed + true:
            rows.append({
                "class": name_of(kind), "support": f"{true // seeds:,}",
                "predicted": text.num(guessed / seeds),
                "precision": hits / guessed if guessed else None,
                "recall": hits / true if true else None, "f1": 2 * hits / (guessed + true),
            })  # fmt: skip
    if not rows:
        return None
    low, high = (choose((row["f1"], row["class"]) for row in rows) for choose in (min, max))
    ends = [f"{f1:.2f} ({name})" for f1, name in (low, high)]
    heading, *lines = sentences("classes", noun="Types of entities", label=setting.label, ends=ends)
    caption = phrase("captions", "classes", len(outcomes[0].predicted), seeds, len(rows), len(rows))
    tables = [table("classes", rows, caption, words={"what": "type"})]
    kinds, guesses = entity_kinds(labels, predicted)
    if (kinds != guesses).any():
        tables.append(_confused(kinds, guesses, name_of))
    right, is_new = recalled(labels, predicted), facts.is_new if facts else np.empty(0, np.bool_)
    is_dev = all(row.fold is None for runs in setting.runs.values() for row in runs[0])
    if is_dev and is_new.size and len(right) == seeds * len(is_new):
        of_seeds = right.reshape(seeds, -1)
        rows = [
            {"entities": name, "support": f"{chosen.sum():,}", "recall": of_seeds[:, chosen].mean()}
            for name, chosen in (("in training", ~is_new), ("new", is_new)) if chosen.any()
        ]  # fmt: skip
        tables += [table("new_entities", rows), *(most_new(facts) if facts else ())]
    return Section("classes", "Types of entities", heading, lines, (), tables)


def _confused(labels: NDArray[np.generic], predicted: NDArray[np.generic], names: Names) -> Table:
    pairs = pd.DataFrame({"true": labels, "predicted": predicted})
    examples = pairs["true"].value_counts()
    wrong = pairs[pairs["true"] != pairs["predicted"]].groupby(["true", "predicted"]).size()
    most = wrong.sort_values(ascending=False, kind="stable")[:_MOST_DRAWN]
    rows = [
        {
            "true": names(pair["true"]), "predicted": names(pair["predicted"]),
            "count": pair["count"], "share": pair["count"] / examples[pair["true"]],
        }
        for pair in most.reset_index(name="count").to_dict("records")
    ]  # fmt: skip
    return table("confused", rows, f"The {len(rows)} most frequent confusions.")


def _confusion(shares: Floats, names: Sequence[str], over: tuple[int, int]) -> Drawing:
    """The confusion matrix: shares of each true class, in percent."""
    number = len(names)
    size = 7.5 if number <= 12 else 6.0
    with canvas(1.6 + 0.24 * max(number, 6)) as (figure, axes):
        for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
            share = shares[row, column]
            cell = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(cell, 1, 1, facecolor=BLUE, alpha=0.75 * share, linewidth=0))
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=size)
        ends = (-0.5, number - 0.5)
        axes.set(xlim=ends, ylim=ends[::-1], xlabel="predicted", ylabel="true")
        axes.grid(visible=False)
        short = [text.shortened(name, _LONGEST) for name in names]
        axes.set_xticks(range(number), short, rotation=90 if number > 6 else 30,
                        ha="center" if number > 6 else "right", fontsize=size + 1)  # fmt: skip
        axes.set_yticks(range(number), short, fontsize=size + 1)
    caption = phrase("captions", "confusion", *over)
    alt = phrase("captions", "confusion_alt", names, shares.diagonal())
    return Drawing.of(figure, "confusion", alt, caption)


def _calibration(outcomes: Sequence[Outcome]) -> Section | None:
    """Predicted probabilities against what happened; None without logits."""
    known = [
        _certainty(one.predicted, one.logits, one.labels)
        for one in outcomes if one.logits is not None and one.labels is not None
    ]  # fmt: skip
    if len(known) < len(outcomes) or not known[0][0].size:
        return None
    errors = [calibration_error(*one) for one in known]
    confidence, right = (np.concatenate(parts) for parts in zip(*known, strict=True))
    heading, *lines = sentences(
        "calibration", several=outcomes[0].predicted.ndim == 2, error=sum(errors) / len(errors),
        confidence=float(confidence.mean()), right=float(right.mean()), bins=_BINS,
        seeds=len(errors),
    )  # fmt: skip
    drawing = _reliability(confidence, right, outcomes)
    return Section("calibration", "Calibration", heading, lines, [drawing])


def _certainty(predicted: Array, logits: Array, labels: Array) -> tuple[Floats, Floats]:
    """Probabilities, and whether what they predict is so: of each example its most probable class,
    or every label."""
    if predicted.ndim == 2:
        sure = 0.5 * (1 + np.tanh(logits.astype(np.float64).ravel() / 2))
        return sure, labels.astype(np.float64).ravel()
    return probabilities(logits).max(axis=1), (predicted == labels).astype(np.float64)


def _bins(sure: Floats, right: Floats) -> tuple[Floats, Floats, Floats]:
    """The number, mean probability and share that is right of each bin that is not empty."""
    places = np.minimum((sure * _BINS).astype(np.int64), _BINS - 1)
    sums = [np.bincount(places, weights, _BINS) for weights in (None, sure, right)]
    number, probability, share = (of[sums[0] > 0].astype(np.float64) for of in sums)
    return number, probability / number, share / number


def calibration_error(sure: Floats, right: Floats) -> float:
    """The expected calibration error of probabilities [N] of what is so or not [N]."""
    number, probability, share = _bins(sure, right)
    return float(number @ np.abs(probability - share) / number.sum())


def _reliability(sure: Floats, right: Floats, outcomes: Sequence[Outcome]) -> Drawing:
    number, probability, share = _bins(sure, right)
    several = outcomes[0].predicted.ndim == 2
    with canvas(3.8) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        axes.plot(probability, share, color=BLUE, linewidth=1.2, zorder=2)
        sizes = 12 + 160 * number / number.sum()
        axes.scatter(probability, share, s=sizes, color=BLUE, edgecolors=INK, linewidths=0.6,
                     zorder=3)  # fmt: skip
        axes.set(
            xlim=(-0.02, 1.02), ylim=(-0.02, 1.02),
            xlabel="predicted probability of the label" if several else "confidence",
            ylabel="share of labels that apply" if several else "accuracy",
        )  # fmt: skip
    caption = phrase("captions", "reliability", len(outcomes[0].predicted), len(outcomes))
    alt = phrase("captions", "reliability_alt", [*zip(probability, share, strict=True)])
    return Drawing.of(figure, "reliability", alt, caption)
