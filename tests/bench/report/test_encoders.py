"""The report's section on encoders, and the advice among all of them."""

from pathlib import Path

import pytest

from bench.analysis.groups import encoders_of, groups
from bench.report.encoders import encoders_section
from bench.report.render import render, report
from tests.bench.analysis.test_encoders import LARGE, made, rows_of

SAME = {"model": "same", "model_digest": "5a" * 6}


@pytest.fixture(scope="module")
def section():
    every = made(rows_of(), rows_of(**LARGE, times=3, max_length=96), rows_of(**SAME, times=2))
    (made_section,) = encoders_section(encoders_of(every))
    return made_section


def table(section, number: int = 0) -> dict[str, dict[str, str]]:
    """A table's fields by encoder and heading."""
    one = section.tables[number]
    return {
        row[0]: dict(zip((head.key for head in one.heads), row, strict=True)) for row in one.rows
    }


def test_each_encoder_has_its_recommended_setting_and_its_difference_from_the_best(section):
    rows = table(section)
    assert rows.keys() == {"minilm", "large", "same"}
    assert section.heading == (
        f"Encoders: large has the highest score of 3, accuracy {rows['large']['score'][:5]} with "
        "full, fp32"
    )
    assert rows["large"]["gap"] == "–"
    assert rows["minilm"]["gap"].startswith("−0.097 (−0.109 to ")
    assert all(row["setting"] == "full, fp32" for row in rows.values())
    assert len(section.tables) == 1, "all are at one setting, so no second table is needed"


def test_encoders_of_like_scores_are_named_in_the_heading():
    (made_section,) = encoders_section(encoders_of(made(rows_of(), rows_of(**SAME))))
    names = ["minilm", "same"]
    first, second = names if "minilm has" in made_section.heading else reversed(names)
    assert made_section.heading.startswith(f"Encoders: {first} has the highest score of 2, ")
    assert made_section.heading.endswith(f"; not distinguishable from {second}")
    assert any("chosen on the same dev examples" in line for line in made_section.said)


def test_costs_are_by_units_that_tokenizers_share(section):
    rows = table(section)
    ratio = float(rows["large"]["time"]) / float(rows["minilm"]["time"])
    assert ratio == pytest.approx(3, rel=0.02)
    ratio = float(rows["large"]["memory"].replace(",", "")) / float(
        rows["minilm"]["memory"].replace(",", "")
    )
    assert ratio == pytest.approx(3, rel=0.02)
    assert {row["trained"] for row in rows.values()} == {"22.7M"}
    assert {row["size"] for row in rows.values()} == {"90.9 MB"}
    assert any("Tokens differ between tokenizers" in line for line in section.said)


def test_sentences_name_what_is_shown_and_which_encoder_a_limit_leaves(section):
    said = "\n".join(section.said)
    assert "minilm with full, fp32 scores −0.097 against large (95% interval " in said
    assert "a significant difference), at 0.33× the memory and 0.33× the time." in said
    assert "Intervals are not corrected for the number of encoders." in said
    memory = next(line for line in section.said if "limit on memory" in line)
    assert memory.index(" on minilm") < memory.index(" on large")
    assert "The encoders differ in engine: minbert for minilm, same; transformers for large" in said
    assert "The encoders differ in max_length: 128 for minilm, same; 96 for large." in said


def test_encoders_at_other_settings_have_a_table_at_the_same_one():
    rows = [row for row in rows_of(**SAME) if row.mode != "full"]
    (made_section,) = encoders_section(encoders_of(made(rows_of(), rows)))
    first, second = (table(made_section, number) for number in (0, 1))
    assert first["minilm"]["setting"] != first["same"]["setting"]
    assert len({row["setting"] for row in second.values()}) == 1


def test_random_encoders_have_costs_alone():
    rows = [row for one in ({}, LARGE) for row in rows_of(**one, init="random")]
    bare = [row | dict.fromkeys(("dev_score", "dev_ci_low", "dev_ci_high")) for row in rows]
    (made_section,) = encoders_section(encoders_of(groups(bare)))
    assert made_section.heading == "Encoders: costs of 2"
    assert not made_section.drawings
    assert table(made_section).keys() == {"minilm", "large"}


def test_one_encoder_has_no_section():
    assert encoders_section(encoders_of(made(rows_of()))) == []


def test_the_report_answers_for_all_encoders_and_begins_with_the_recommended_one():
    rows = [*rows_of(), *rows_of(**LARGE, times=3)]
    content = report(rows, (), ["runs.csv"])
    assert content["title"].startswith("Fine-tuning ")
    assert {"minilm", "large"} <= set(content["title"].replace(",", "").split())
    assert "large with full, fp32" in content["advice"].heading
    assert "full fine-tuning of large in fp32" in content["advice"].heading
    assert content["lead"][0].endswith("The sections after the one on encoders are about large.")
    assert content["sections"][0].anchor == "encoders"
    assert {point["label"].split()[0] for point in content["explorer"]["settings"]} == {
        "minilm", "large",
    }  # fmt: skip
    assert "encoder" in content["explorer"]["axes"]
    (other,) = content["others"]
    assert other.said[0].startswith("Another encoder than the first group's, compared above")
    command = content["advice"].commands[0]
    assert "--model large,minilm" in command or "--model minilm,large" in command


def test_a_report_of_several_encoders_is_written(tmp_path: Path):
    render([*rows_of(), *rows_of(**LARGE)], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "## Encoders: " in text
    assert "](figures/encoders-memory.svg)" in text
    assert (tmp_path / "figures" / "encoders-memory.svg").exists()
    assert 'id="encoders"' in (tmp_path / "index.html").read_text()
