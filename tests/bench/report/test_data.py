"""The report's section on data."""

from pathlib import Path

import numpy as np
import pytest

from bench.examples.checks import check
from bench.plan.columns import NAMES
from bench.report.__main__ import main
from bench.report.render import render, report
from bench.results.facts import DataFacts, facts_of, read_facts, update_facts
from bench.results.rowfile import encode, record
from minbert.data.tasks import Examples, Task, TaskData
from tests.bench.synthetic_rows import synthetic_rows

ROWS = synthetic_rows(68)
DIGEST = str(ROWS[0].data_digest)
COLOURS = TaskData(
    Task("colours", ("red", "<b>blue</b>")),
    Examples(("sky", "blood", "sea", "rose"), None, np.array([1, 0, 1, 0])),
    Examples(("sea", "fire", "ice"), None, np.array([1, 0, 1])),
)
LENGTHS = np.array([3, 3, 3, 30]), np.array([3, 3, 3])


def facts(data: TaskData = COLOURS) -> DataFacts:
    return facts_of(data, "colours.csv", check(data, LENGTHS, 32))


def test_the_section_says_what_the_data_are_and_what_was_found() -> None:
    (section,) = [s for s in report(ROWS, [], [], facts={DIGEST: facts()})["sections"]
                  if s.anchor == "data"]  # fmt: skip
    assert section.heading == "Data: 4 training and 3 dev examples, 1 finding"
    assert section.said == [
        "Source: colours.csv. Task movies, single label, 2 classes with 50.0% to 50.0% of the "
        "training examples.",
        "Always predicting the most frequent training class, red, scores an accuracy of 0.333 on "
        "dev.",
        "Warning: dev has 1 of class 'red'; with fewer than 15 of a class, intervals of macro F1 "
        "are too narrow (docs/measuring.md#small-samples); likewise of other metrics by class.",
        "Dev texts in training: 1 in train and 1 in dev; --drop-leaks leaves them out.",
        "max_length 32 cuts nothing of training; --max-length auto takes it.",
    ]
    (drawing,) = section.drawings
    assert "red: 50.0% of train, 33.3% of dev" in drawing.alt


def test_without_facts_on_these_examples_there_is_no_section() -> None:
    for data in ({}, {"another": facts()}):
        assert "data" not in [s.anchor for s in report(ROWS, [], [], facts=data)["sections"]]


def test_another_groups_data_are_in_its_own_section() -> None:
    others = [row | {"data_digest": "ef" * 6, "task": "other"} for row in ROWS[:5]]
    both = {DIGEST: facts(), "ef" * 6: facts()}
    found = report([*ROWS, *others], [], [], facts=both)
    anchors = [s.anchor for other in found["others"] for s in other.sections]
    assert [anchor for anchor in anchors if "data" in anchor] == ["group2-data"]


def test_names_are_escaped_and_the_figure_is_there(tmp_path: Path) -> None:
    render(ROWS, tmp_path, facts={DIGEST: facts()})
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<b>blue" not in page
    assert 'id="data-classes-alt"' in page
    assert "Data: 4 training and 3 dev examples" in page


def test_the_command_reads_the_facts_beside_the_rows(tmp_path: Path) -> None:
    runs = tmp_path / "runs.csv"
    runs.write_bytes(record(NAMES) + b"".join(map(encode, ROWS)))
    update_facts(runs, DIGEST, lambda _: facts())
    assert read_facts(runs) == {DIGEST: facts()}
    with pytest.raises(SystemExit, match="0"):
        main.main(["--runs", str(runs), "--reports", str(tmp_path / "r")], standalone_mode=True)
    assert 'id="data"' in (tmp_path / "r" / "index.html").read_text("utf-8")


def test_many_classes_are_drawn_by_their_frequency() -> None:
    names = tuple(f"class {number}" for number in range(100))
    labels = np.repeat(np.arange(100), np.arange(1, 101))
    texts = tuple(f"{number}" for number in range(len(labels)))
    many = TaskData(
        Task("many", names), Examples(texts, None, labels),
        Examples(("a",), None, np.array([0])),
    )  # fmt: skip
    (section,) = [
        s for s in report(ROWS, [], [], facts={DIGEST: facts_of(many, "", None)})["sections"]
        if s.anchor == "data"
    ]  # fmt: skip
    assert section.said[0].startswith("Task movies, single label, 100 classes with 0.0% to 2.0% of")
    (drawing,) = section.drawings
    assert "The 24 most frequent of 100 classes." in drawing.caption
    assert "class 99:" in drawing.alt
    assert "class 9:" not in drawing.alt


def test_several_labels_and_a_data_set_without_findings() -> None:
    labels = np.array([[1, 0], [1, 1]], dtype=np.int8)
    several = TaskData(
        Task("tags", ("new", "old")), Examples(("a", "b"), None, labels),
        Examples(("c", "d"), None, labels),
    )  # fmt: skip
    found = facts_of(several, "", check(several))
    assert found.problem == "multi_label"
    assert found.class_counts == {"new": (2, 2), "old": (1, 1)}
    assert found.majority is None
    (section,) = [s for s in report(ROWS, [], [], facts={DIGEST: found})["sections"]
                  if s.anchor == "data"]  # fmt: skip
    assert "Warning: dev has 1 of class 'old'" in section.said[1]
    assert "Checks found nothing" in section.said[2]
