"""The report's sections on reference points, data, encoders, and why adapters cost what they do."""

import numpy as np

from bench.analysis.groups import encoders_of, groups
from bench.examples.checks import check
from bench.report.data import data_section
from bench.report.encoders import encoders_section
from bench.report.references import reference_lines, reference_points, reference_tables
from bench.report.render import render, report
from bench.report.why import why_section
from bench.results.facts import NO_FACTS, DataFacts, Reference, facts_of
from minbert.data.tasks import Examples, Task, TaskData
from tests.bench.analysis.test_encoders import LARGE, made, rows_of
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import as_results, cell, result_row, synthetic_rows

DATA = "3e9ab01c77d2"
ENCODER = {"model_digest": "7c1d0f9a44be", "pooling": "mean", "max_length": 128}
OLDER = dict.fromkeys(("forward_ms", "backward_ms", "optimizer_ms"))
SAME = {"model": "same", "model_digest": "5a" * 6}


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
    found = report(as_results([*ROWS, *others], facts={DATA: facts(), "ef" * 6: facts()}))
    anchors = [s.anchor for other in found["others"] for s in other["sections"]]
    assert [anchor for anchor in anchors if "data" in anchor] == ["group2-data"]


def test_the_section_follows_from_the_rows():
    three = made(rows_of(), rows_of(**LARGE, times=3, max_length=96), rows_of(**SAME, times=2))
    others = [row for row in rows_of(**SAME) if row.mode != "full"]
    rows = [row for one in ({}, LARGE) for row in rows_of(**one, init="random")]
    bare = [row | dict.fromkeys(("dev_score", "dev_ci_low", "dev_ci_high")) for row in rows]
    check_snapshot("encoders", {
        title: encoders_section(encoders_of(every)) for title, every in {
            "three, of which one is better and costs more": three,
            "two of like scores": made(rows_of(), rows_of(**SAME)),
            "two at other settings": made(rows_of(), others),
            "random weights have costs alone": groups(bare),
        }.items()
    })  # fmt: skip
    assert encoders_section(encoders_of(made(rows_of()))) == [], "one alone"


def test_the_report_answers_for_all_encoders_and_begins_with_the_recommended_one(tmp_path):
    results = as_results([*rows_of(), *rows_of(**LARGE, times=3)], ["runs.csv"])
    content = report(results)
    assert {"minilm", "large"} <= set(content["title"].replace(",", "").split())
    assert "large with full, fp32" in content["advice"].heading
    assert content["lead"][0].endswith("The sections after the one on encoders are about large.")
    assert content["sections"][0].anchor == "encoders"
    assert {point["label"].split()[0] for point in content["explorer"]["settings"]} == {
        "minilm", "large",
    }  # fmt: skip
    assert "encoder" in content["explorer"]["axes"]
    (other,) = content["others"]
    assert other["lines"][0].startswith("Another encoder than the first group's, compared above")
    command = next(iter(content["advice"].commands))
    assert "--model large,minilm" in command or "--model minilm,large" in command
    assert 'id="encoders"' in render(results, tmp_path).read_text()
    assert "](figures/encoders-memory.svg)" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "figures" / "encoders-memory.svg").exists()


def measured(axes, peak, owned, time, step):
    weights, optimizer, gradients, activations = owned
    forward, backward, of_optimizer = step
    return result_row(cell(*axes, "off")) | {
        "peak_rss_mib": peak, "peak_anon_mib": peak - 100, "imports_anon_mib": 150.0,
        "weights_mib": weights, "optimizer_mib": optimizer, "gradients_mib": gradients,
        "activations_mib": activations, "ms_per_1k_tokens": time, "step_ms_median": 2 * time,
        "forward_ms": forward, "backward_ms": backward, "optimizer_ms": of_optimizer,
        "ms_per_1k_tokens_ci_low": 0.99 * time, "ms_per_1k_tokens_ci_high": 1.01 * time,
    }  # fmt: skip


FULL = measured(("full", None, None), 1200.0, (86.0, 172.0, 86.0, 400.0), 200.0, (60, 130, 10))
SLOW = measured(
    ("lora", 8, "all-lin"), 1300.0, (87.0, 150.0, 80.0, 390.0), 250.0, (99.0, 150.0, 1.0)
)


def measured_rows(*, activations=400.0, backward=30.0):
    """Full fine-tuning, the head alone, LoRA and DoRA, of which LoRA has these parts."""
    owned, step = (87.0, 2.0, 1.0, activations), (99.0, backward, 1.0)
    return [
        FULL,
        measured(("head", None, None), 500.0, (86.0, 0.0, 0.0, 0.0), 50.0, (49.0, 0.0, 1.0)),
        measured(("lora", 8, "all-lin-only"), 900.0, owned, 100.0 + backward, step),
        measured(("dora", 8, "all-lin-only"), 950.0, owned, 140.0, (99.0, 40.0, 1.0)),
    ]


def test_sentences_table_and_picture_follow_from_the_rows():
    on_gpu = [
        row | {"device": "cuda:0", "peak_cuda_allocated_mib": float(row["peak_rss_mib"] or 0) - 300}
        for row in measured_rows()
    ]
    large = {"imports_anon_mib": 700.0, "peak_anon_mib": 1100.0, "peak_rss_mib": 1700.0}
    full, *others = measured_rows()
    check_snapshot("why", {
        title: why_section(groups(rows)[0], None, NO_FACTS) for title, rows in {
            "adapters that keep activations": measured_rows(),
            "adapters that keep few and save no time": measured_rows(activations=100, backward=140),
            "four fifths of activations are most": [*measured_rows(activations=320.0), SLOW],
            "the largest part is saved by nothing": [row | large for row in measured_rows()],
            "parts exceed the peak": [FULL | {"activations_mib": 700.0}],
            "one older row lacks the parts of a step": [full | OLDER, *others],
            "all do": [row | OLDER for row in measured_rows()],
            "on a GPU": on_gpu,
        }.items()
    })  # fmt: skip
    assert why_section(groups(synthetic_rows(68))[0], None, NO_FACTS) == [], "without any parts"
