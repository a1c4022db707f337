"""The report's sections on metrics, classes and calibration."""

import re

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


def made(kind, number=4, names=()):
    rows, predictions_of = run(kind, number)
    facts = DataFacts(task="mine", problem=kind, train=N, dev=N, classes=tuple(names))
    return sections_of(rows, predictions_of, facts)


def sections_of(rows, predictions_of, facts=None):
    [group] = groups(rows, (), values_from(predictions_of))
    return {part.anchor: part for part in quality_sections(group, predictions_of, facts)}


def cells(section):
    """The rows of a section's first table by their first field."""
    return {row[0]: list(row[1:]) for row in section.tables[0].rows}


def test_all_metrics_of_each_setting_stand_in_one_table():
    section = made("single_label")["metrics"]
    assert section.heading == "lora rank 8 on attn-only, fp32 is best by 7 of 7 metrics"
    [table] = section.tables
    assert [head.key for head in table.heads][1:] == [
        "accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "mcc", "auroc",
        "average_precision",
    ]  # fmt: skip
    rows, predictions_of = run()
    full = [predictions_of([row], logits=True)[""] for row in rows if row.mode == "full"]
    expected = score_of("auroc", [numbers("auroc", one) for one in full])
    text = cells(section)["full, fp32"][5]
    assert [float(x) for x in re.findall(r"[\d.]+", text)] == pytest.approx(
        [expected.value, expected.low, expected.high], abs=5e-4
    )

    def of_one(rows, *, logits=False):
        return predictions_of([row | {"mode": "full"} for row in rows], logits=logits)

    assert "is best or tied by 7 of 7" in sections_of(rows, of_one)["metrics"].heading
    alone = [row for row in rows if row.mode == "full"]
    assert sections_of(alone, of_one)["metrics"].heading == "full, fp32 by 7 metrics"


def test_sections_of_numbers_and_of_several_labels():
    found = made("regression")
    assert list(found) == ["metrics"], "numbers have no classes and no confidence"
    assert found["metrics"].heading.endswith("is best by 4 of 4 metrics")
    errors = [float(fields[3].split()[0]) for fields in cells(found["metrics"]).values()]
    assert errors[0] == min(errors), "of an error less is better"
    found = made("multi_label")
    assert list(found) == ["metrics", "classes", "calibration"]
    assert not found["classes"].drawings, "labels are not taken for each other"
    assert found["classes"].heading.startswith("Labels: with lora")
    assert found["calibration"].heading.startswith("Calibration: probabilities are off by")


def test_classes_have_their_names_and_figures():
    names = ["refund", "<b>late</b>", "praise", "other"]
    section = made("single_label", names=names)["classes"]
    table = cells(section)
    assert list(table) == names
    rows, predictions_of = run()
    best = [predictions_of([row])[""] for row in rows if row.mode == "lora"]
    hits = sum(int(((one.predicted == 1) & (one.labels == 1)).sum()) for one in best)
    guesses = sum(int((one.predicted == 1).sum()) for one in best)
    support, predicted, precision, recall, f1 = table["<b>late</b>"]
    assert (support, float(predicted)) == ("100", pytest.approx(guesses / 2, abs=0.06))
    assert float(precision) == pytest.approx(hits / guesses, abs=5e-4)
    assert float(recall) == pytest.approx(hits / 200, abs=5e-4)
    assert float(f1) == pytest.approx(2 * hits / (guesses + 200), abs=5e-4)
    assert [drawing.stem for drawing in section.drawings] == ["confusion"]
    page = html_environment().from_string(
        "{% from '_parts.html.jinja' import table with context %}{{ table(t) }}"
    )
    assert "<b>late" not in page.render(t=section.tables[0], where="")

    def guesses(rows, *, logits=False):
        return {"": Outcome(np.zeros(N, dtype=np.int64), np.arange(N) % 4, "same")}

    section = sections_of(rows, guesses)["classes"]
    assert section.heading.endswith("F1 is from 0.00 (3 classes) to 0.40 (0)")
    assert cells(section)["1"] == ["100", "0", "–", "0.000", "0.000"]


def test_of_many_classes_the_most_confused_pairs_are_listed():
    section = made("single_label", number=60)["classes"]
    assert not section.drawings
    by_class, pairs = section.tables
    assert len(by_class.rows) == 50
    assert by_class.caption.endswith("The 50 with most examples of 60.")
    assert list(pairs.rows[0][:2]) == ["1", "0"]
    assert len(pairs.rows) == 20


def test_without_logits_or_predictions_there_is_less():
    rows, predictions_of = run()

    def stored(rows, *, logits=False):
        return predictions_of(rows)

    found = sections_of(rows, stored)
    assert list(found) == ["metrics", "classes"]
    assert "Not known: AUROC, average precision, and calibration" in found["metrics"].lines[1]
    assert list(cells(found["classes"])) == ["0", "1", "2", "3"], "names are not known"

    def bits(rows, *, logits=False):
        one = predictions_of(rows)[""]
        return {"": Outcome(one.predicted == one.labels, None, "")}

    assert sections_of(rows, bits) == {}


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


def test_text_that_the_measuring_font_lacks_is_no_warning(recwarn, drawn):
    section = made("single_label", names=["订单", "状态", "α", "🙂"])["classes"]
    assert "订单" in section.drawings[0].svg
    assert not [one for one in recwarn if "Glyph" in str(one.message)]
