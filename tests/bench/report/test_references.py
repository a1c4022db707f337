"""Reference points in a report."""

from bench.analysis.groups import groups
from bench.report.references import reference_lines, reference_points, reference_tables
from bench.report.render import render, report
from bench.results.facts import DataFacts, Reference
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import as_results, synthetic_rows

DATA = "3e9ab01c77d2"
ENCODER = {"model_digest": "7c1d0f9a44be", "pooling": "mean", "max_length": 128}


def facts_with(metric="accuracy", *, frozen=(0.41, 0.38, 0.44)):
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


def lines(facts, **settings):
    [group] = groups(synthetic_rows(68, **settings))
    return reference_lines(group, reference_points(group, facts))


def test_lines_have_the_scores_of_this_encoder_and_warn_where_none_is_beaten():
    [unlearned] = groups([row | {"flags": "not_learned"} for row in synthetic_rows(68)])
    points = reference_points(unlearned, facts_with(frozen=(0.6, 0.57, 0.63)))
    [group] = groups(synthetic_rows(68))
    check_snapshot("references", {
        "all are beaten": lines(facts_with()),
        "one may not be": lines(facts_with(frozen=(0.54, 0.51, 0.57))),
        "one is better": lines(facts_with(frozen=(0.6, 0.57, 0.63))),
        "nothing learned": reference_lines(unlearned, points),
        "no interval, worse": lines(facts_with(frozen=(0.54, None, None))),
        "no interval, better": lines(facts_with(frozen=(0.56, None, None))),
        "a regression, and one is not defined": lines(
            facts_with("pearson", frozen=None), task="movies-rating"),
        "without facts": lines({}),
        "random weights": lines(facts_with(), init="random"),
        "another encoder": lines(facts_with(), max_length=64),
        "few training examples": lines(facts_with(), max_steps=2, batch_size=32),
        "as a table": reference_tables(group, reference_points(group, facts_with(frozen=None))),
    })  # fmt: skip


def test_figures_have_a_line_for_each_that_is_near(tmp_path, drawn):
    """And an arrow to what is better than every setting."""
    few = as_results(synthetic_rows(4, max_steps=8, batch_size=16), facts=facts_with())
    assert "Trained on 128 of 2,000 examples, in 8 steps of 16" in report(few)["lead"][1]
    rows = synthetic_rows(12)
    [near, _] = report(as_results(rows, facts=facts_with()))["sections"][0].drawings
    assert near.alt.endswith("Dashed: TF-IDF (0.390), frozen encoder (0.410).")
    assert "Too far away to be drawn: majority class 0.280." in near.caption
    assert ">TF-IDF</text>" in near.svg
    assert "majority" not in near.svg
    render(as_results(rows, facts=facts_with(frozen=(0.99, 0.98, 1.0))), tmp_path)
    assert "↑ frozen encoder 0.990" in (tmp_path / "figures" / "tradeoff-memory.svg").read_text()
    page, short = ((tmp_path / name).read_text() for name in ("index.html", "report.md"))
    for text in (page, short):
        assert "majority class 0.280, TF-IDF with a linear model 0.390" in text
    assert "how frozen" in page
    assert '<p class="warning">Warning: the best setting' in page
