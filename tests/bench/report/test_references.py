"""Reference points in a report, and its section on data."""

import numpy as np

from bench.analysis.groups import groups
from bench.examples.checks import check
from bench.report.data import data_section
from bench.report.references import reference_lines, reference_points, reference_tables
from bench.report.render import render, report
from bench.results.facts import DataFacts, Reference, facts_of
from minbert.data.tasks import Examples, Task, TaskData
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import as_results, synthetic_rows

DATA = "3e9ab01c77d2"
ENCODER = {"model_digest": "7c1d0f9a44be", "pooling": "mean", "max_length": 128}


def facts_with(metric="accuracy", *, frozen=(0.41, 0.38, 0.44)):
    """Three references, and two of another encoder and of fewer examples."""

    def one(name, score, train=2000, **encoder):
        return Reference(
            name=name, about=f"how {name}", train=train, scores={metric: score}, **encoder
        )

    references = (
        one("majority", (0.28, 0.25, 0.31)), one("tf-idf", (0.39, 0.36, 0.42)),
        one("frozen", frozen, **ENCODER), one("tf-idf", (0.1, 0.0, 0.2), train=64),
        one("frozen", (0.9, 0.8, 1), **ENCODER | {"model_digest": "another"}),
    )  # fmt: skip
    problem = "single_label" if metric == "accuracy" else "regression"
    return {DATA: DataFacts(
        task="movies", problem=problem, train=2000, dev=1061, references=references
    )}  # fmt: skip


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
    assert '<p class="warning">Warning: the best setting' in page


ROWS = synthetic_rows(5)
COLOURS = TaskData(
    Task("colours", ("red", "<b>blue</b>")),
    Examples(("sky", "blood", "sea", "rose"), None, np.array([1, 0, 1, 0])),
    Examples(("sea", "fire", "ice"), None, np.array([1, 0, 1])),
)
LENGTHS = np.array([3, 3, 3, 30]), np.array([3, 3, 3])


def facts(data=COLOURS):
    return facts_of(data, "colours.csv", check(data, LENGTHS, 32))


def test_the_section_says_what_the_data_are_and_what_was_found():
    labels = np.repeat(np.arange(100), np.arange(1, 101))
    many = TaskData(
        Task("many", tuple(f"class {number}" for number in range(100))),
        Examples(tuple(map(str, range(len(labels)))), None, labels),
        Examples(("a",), None, np.array([0])),
    )
    tags = np.array([[1, 0], [1, 1]], dtype=np.int8)
    several = TaskData(
        Task("tags", ("new", "old"), problem_name="multi_label"), Examples(("a", "b"), None, tags),
        Examples(("c", "d"), None, tags),
    )  # fmt: skip
    [group] = groups(ROWS)
    check_snapshot("data", {
        title: data_section(group, {DATA: of}) for title, of in {
            "two classes and a leak": facts(),
            "many classes": facts_of(many, "", None),
            "several labels, no findings": facts_of(several, "", check(several)),
        }.items()
    })  # fmt: skip
    assert data_section(group, {}) == data_section(group, {"another": facts()}) == []
    other = {"data_digest": "ef" * 6, "task": "other"}
    others = [row | other | {"cell_id": f"{row.cell_id}x"} for row in ROWS]
    both = {DATA: facts(), "ef" * 6: facts()}
    found = report(as_results([*ROWS, *others], facts=both))
    anchors = [s.anchor for other in found["others"] for s in other["sections"]]
    assert [anchor for anchor in anchors if "data" in anchor] == ["group2-data"]
