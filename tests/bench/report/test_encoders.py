"""The report's section on encoders, and the advice among all of them."""

from bench.analysis.groups import encoders_of, groups
from bench.report.encoders import encoders_section
from bench.report.render import render, report
from tests.bench.analysis.test_encoders import LARGE, made, rows_of
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import as_results

SAME = {"model": "same", "model_digest": "5a" * 6}


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
