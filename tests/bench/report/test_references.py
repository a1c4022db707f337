"""Reference points in a report."""

from pathlib import Path
from typing import Any

import pytest

from bench.analysis.groups import groups
from bench.report.references import reference_lines, reference_points, reference_tables
from bench.report.render import render, report
from bench.results.facts import DataFacts, Reference
from tests.bench.synthetic_rows import synthetic_rows

DATA = "3e9ab01c77d2"
ENCODER = {"model_digest": "7c1d0f9a44be", "pooling": "mean", "max_length": 128}


def facts_with(metric: str = "accuracy", *, frozen: Any = (0.41, 0.38, 0.44)) -> dict[str, Any]:
    scores = {"majority": (0.28, 0.25, 0.31), "tf-idf": (0.39, 0.36, 0.42), "frozen": frozen}
    other = {**ENCODER, "model_digest": "another"}
    references = [
        *(
            Reference(
                name=name, about=f"how {name}", train=2000, scores={metric: score},
                **(ENCODER if name == "frozen" else {}),
            )
            for name, score in scores.items()
        ),
        Reference(name="frozen", about="", train=2000, scores={metric: (0.9, 0.8, 1)}, **other),
        Reference(name="tf-idf", about="", train=64, scores={metric: (0.1, 0.0, 0.2)}),
    ]  # fmt: skip
    problem = "single_label" if metric == "accuracy" else "regression"
    facts = DataFacts(
        task="movies", problem=problem, train=2000, dev=1061, references=tuple(references)
    )
    return {DATA: facts}


def lines(facts: dict[str, Any], **settings: Any) -> list[str]:
    [group] = groups(synthetic_rows(68, **settings))
    return reference_lines(group, reference_points(group, facts))


def test_the_first_lines_have_the_scores_of_this_encoder_and_no_warning() -> None:
    assert lines(facts_with()) == [
        "Reference points, by accuracy on the same dev examples: majority class 0.280, TF-IDF with "
        "a linear model 0.390, the frozen encoder with a linear model 0.410."
    ]


@pytest.mark.parametrize(
    ("score", "verdict"),
    [
        ((0.54, 0.51, 0.57), "is not shown to be better than"),
        ((0.6, 0.57, 0.63), "scores worse than"),
    ],
)
def test_a_reference_that_the_best_setting_may_not_beat_is_a_warning(
    score: Any, verdict: str
) -> None:
    [_, warning] = lines(facts_with(frozen=score))
    assert warning.startswith(
        f"Warning: the best setting, dora rank 1 on all-lin, fp32 (0.550), {verdict} the frozen "
        "encoder with a linear model (difference "
    )
    assert ", 95% interval −0." in warning


def test_without_an_interval_the_numbers_decide() -> None:
    assert len(lines(facts_with(frozen=(0.54, None, None)))) == 1
    [_, warning] = lines(facts_with(frozen=(0.56, None, None)))
    assert warning.endswith("(difference −0.010).")


def test_a_warning_needs_no_setting_that_learned() -> None:
    [group] = groups([row | {"flags": "not_learned"} for row in synthetic_rows(68)])
    points = reference_points(group, facts_with(frozen=(0.6, 0.57, 0.63)))
    assert len(reference_lines(group, points)) == 2


def test_what_is_not_defined_or_not_there_is_left_out() -> None:
    text = lines(facts_with("pearson", frozen=None), task="movies-rating")
    assert text[0].endswith("the mean of the training labels 0.280, TF-IDF with a linear model "
                            "0.390.")  # fmt: skip
    assert lines({}) == []
    assert lines(facts_with(), init="random") == []
    assert "the frozen encoder" not in lines(facts_with(), max_length=64)[0]
    assert lines(facts_with(), max_steps=2, batch_size=32) == [
        "Reference points, by accuracy on the same dev examples: majority class 0.280, TF-IDF with "
        "a linear model 0.100."
    ]


def test_the_lead_says_how_many_examples_the_steps_see() -> None:
    content = report(synthetic_rows(68, max_steps=8, batch_size=16), [], [], facts=facts_with())
    assert "Trained on 128 of 2,000 examples, in 8 steps of 16 examples. " in content["lead"][1]


def test_a_table_has_the_best_settings_lead() -> None:
    [group] = groups(synthetic_rows(68))
    [table] = reference_tables(group, reference_points(group, facts_with(frozen=None)))
    majority, _, frozen = table.rows
    assert majority[:4] == ["majority class", "0.280", "0.250 to 0.310", "+0.270"]
    assert majority[-1] == "how majority"
    assert frozen[1:5] == ["–"] * 4


def test_figures_have_a_line_for_each_that_is_near(tmp_path: Path) -> None:
    facts = facts_with()
    near = report(synthetic_rows(68), [], [], facts=facts)["sections"][0].drawings
    assert all("Dashed: TF-IDF (0.390), frozen encoder (0.410)." in drawing.alt for drawing in near)
    assert "Too far away to be drawn: majority class 0.280." in near[0].caption
    render(synthetic_rows(68), tmp_path, facts=facts)
    svg = (tmp_path / "figures" / "tradeoff-memory.svg").read_text()
    assert ">TF-IDF</text>" in svg
    assert "majority" not in svg
    for page in ("index.html", "report.md"):
        text = (tmp_path / page).read_text()
        assert "majority class 0.280, TF-IDF with a linear model 0.390" in text
    assert "how frozen" in (tmp_path / "index.html").read_text()


def test_references_that_beat_every_setting_are_in_the_figures(tmp_path: Path) -> None:
    facts = facts_with(frozen=(0.99, 0.98, 1.0))
    [near, _] = report(synthetic_rows(68), [], [], facts=facts)["sections"][0].drawings
    assert "↑ frozen encoder 0.990" in near.svg
    render(synthetic_rows(68), tmp_path, facts=facts)
    page = (tmp_path / "index.html").read_text()
    assert '<p class="warning">Warning: the best setting' in page
