"""The report's sections on metrics, classes and calibration."""

import numpy as np
import pytest

from bench.analysis.groups import groups
from bench.report.pages import html_environment
from bench.report.quality import calibration_error, quality_sections
from bench.report.render import report
from bench.results.facts import DataFacts
from bench.results.outcomes import Outcome
from bench.results.predictions import outcome_of, values_from
from bench.results.rescoring import rescored
from bench.results.scores import numbers, score_of
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import as_results, cell, result_row

N = 400
CELLS = (("full", None, None, "off"), ("lora", 8, "attn-only", "off"), ("head", None, None, "off"))
STRENGTH = {"full": 1.5, "lora": 3.0, "head": 0.8}


def outcome_for(row, kind, number):
    """Predictions for the same examples, better in some modes; class 1 is often taken for 0."""
    rng = np.random.default_rng(row.seed + 10 * ord(row.mode[0]))
    strength, fixed = STRENGTH[row.mode], np.random.default_rng(9)
    if kind == "regression":
        targets = fixed.normal(size=N)
        logits = (strength * targets + rng.normal(size=N)) / (1 + strength)
        return outcome_of(logits[:, None].astype(np.float32), targets * 50 + 300, (300.0, 50.0))
    if kind == "multi_label":
        labels = (fixed.random((N, number)) < 0.4).astype(np.int8)
        logits = strength * (labels - 0.5) + rng.normal(size=(N, number))
        return outcome_of(logits.astype(np.float32), labels, None)
    labels = np.arange(N) % number
    logits = rng.normal(size=(N, number)) + strength * np.eye(number)[labels]
    logits[labels == 1, 0] += 1.5 if number < 10 else 6.0
    return outcome_of(logits.astype(np.float32), labels, None)


def run(kind="single_label", number=4):
    """Rows of three settings over two seeds, and their predictions."""

    def predictions_of(rows, *, logits=False):
        one = outcome_for(rows[0], kind, number)
        return {"": one if logits else Outcome(one.predicted, one.labels, one.examples)}

    rows = []
    default = {"single_label": "accuracy", "multi_label": "micro_f1", "regression": "pearson"}[kind]
    for seed in (0, 1):
        for axes in CELLS:
            row = result_row(cell(*axes, seed=seed, task="mine"))
            score = score_of(default, [numbers(default, outcome_for(row, kind, number))])
            rows.append(row | {
                "dev_metric": default, "dev_score": score.value, "dev_ci_low": score.low,
                "dev_ci_high": score.high,
            })  # fmt: skip
    return rows, predictions_of


def quality_of(kind="single_label", number=4, predictions_of=None, names=()):
    """The sections on such data, or on other predictions for them."""
    rows, usual = run(kind, number)
    used = predictions_of or usual
    facts = DataFacts(task="mine", problem=kind, train=N, dev=N, classes=names) if names else None
    [group] = groups(rows, (), values_from(used))
    return quality_sections(group, used, facts)


def test_sections_follow_from_predictions():
    predictions_of = run()[1]

    def bits(rows, logits=False):
        one = predictions_of(rows)[""]
        return {"": Outcome(one.predicted == one.labels, None, "")}

    guesses = {"": Outcome(np.zeros(N, dtype=np.int64), np.arange(N) % 4, "same")}
    check_snapshot("quality", {
        "classes with names": quality_of(names=("refund", "<b>late</b>", "praise", "other")),
        "numbers, which have no classes and no confidence": quality_of("regression"),
        "labels, which are not taken for each other": quality_of("multi_label"),
        "sixty classes": quality_of(number=60),
        "all settings predict the same": quality_of(
            predictions_of=lambda rows, **more: predictions_of(
                [row | {"mode": "full"} for row in rows], **more)),
        "without logits": quality_of(predictions_of=lambda rows, **_: predictions_of(rows)),
        "always the first class": quality_of(predictions_of=lambda *_, **__: guesses),
        "whether each example is right": quality_of(predictions_of=bits),
    })  # fmt: skip


def test_names_of_classes_are_text(recwarn, drawn):
    """Also those that the font lacks by which texts are measured, without a warning."""
    _, section, _ = quality_of(names=("订单", "<b>late</b>", "α", "🙂"))
    assert "订单" in section.drawings[0].svg
    assert not [one for one in recwarn if "Glyph" in str(one.message)]
    page = html_environment().from_string(
        "{% from '_parts.html.jinja' import table with context %}{{ table(t) }}"
    )
    assert "<b>late" not in page.render(t=section.tables[0], where="")


def test_the_calibration_error_is_that_of_its_definition():
    sure = np.array([0.2, 0.9, 0.95, 0.95, 1.0])
    right = np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    bins = [([0.2], 0.0), ([0.9], 1.0), ([0.95, 0.95, 1.0], 2 / 3)]
    expected = sum(len(p) * abs(np.mean(p) - share) for p, share in bins) / 5
    assert calibration_error(sure, right) == pytest.approx(expected)
    assert calibration_error(np.full(4, 0.5), np.array([0, 1, 0, 1.0])) == 0.0


def test_a_chosen_metric_decides_everywhere():
    rows, predictions_of = run("regression")
    content = report(
        as_results(rescored(rows, "rmse", predictions_of, {}), predictions_of=predictions_of)
    )
    assert "scored by RMSE on dev" in content["lead"][0]
    assert content["lead"][1].startswith("RMSE is the root of the mean squared error, in the unit")
    assert "RMSE" in content["advice"].heading
    [tradeoff] = [part for part in content["sections"] if part.anchor == "tradeoff"]
    assert tradeoff.drawings[0].caption.startswith("Down and to the left is better")
    assert any(line.endswith("--metric rmse") for line in content["commands"])
