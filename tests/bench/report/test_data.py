"""The report's section on data."""

import numpy as np
import pytest

from bench.analysis.groups import groups
from bench.examples.checks import check
from bench.plan.columns import NAMES
from bench.report.__main__ import main
from bench.report.data import data_section
from bench.report.render import report
from bench.results.facts import facts_of, read_facts, update_facts
from bench.results.rowfile import encode, record
from minbert.data.tasks import Examples, Task, TaskData
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import as_results, synthetic_rows

ROWS = synthetic_rows(5)
DIGEST = str(ROWS[0].data_digest)
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
        Task("tags", ("new", "old")), Examples(("a", "b"), None, tags),
        Examples(("c", "d"), None, tags),
    )  # fmt: skip
    [group] = groups(ROWS)
    every = {
        "two classes and a leak": facts(),
        "many classes": facts_of(many, "", None),
        "several labels, no findings": facts_of(several, "", check(several)),
    }
    check_snapshot("data", {t: data_section(group, {DIGEST: of}) for t, of in every.items()})
    assert every["several labels, no findings"].majority is None
    assert data_section(group, {}) == data_section(group, {"another": facts()}) == []


def test_another_groups_data_are_in_its_own_section():
    other = {"data_digest": "ef" * 6, "task": "other"}
    others = [row | other | {"cell_id": f"{row.cell_id}x"} for row in ROWS]
    both = {DIGEST: facts(), "ef" * 6: facts()}
    found = report(as_results([*ROWS, *others], facts=both))
    anchors = [s.anchor for other in found["others"] for s in other["sections"]]
    assert [anchor for anchor in anchors if "data" in anchor] == ["group2-data"]


def test_the_command_reads_the_facts_beside_the_rows(tmp_path):
    runs = tmp_path / "runs.csv"
    runs.write_bytes(record(NAMES) + b"".join(map(encode, ROWS)))
    update_facts(runs, DIGEST, lambda _: facts())
    assert read_facts(runs) == {DIGEST: facts()}
    with pytest.raises(SystemExit, match="0"):
        main.main(["--runs", str(runs), "--reports", str(tmp_path / "r")], standalone_mode=True)
    page = (tmp_path / "r" / "index.html").read_text("utf-8")
    assert 'id="data"' in page
    assert 'id="data-classes-alt"' in page
    assert "<b>blue" not in page
    assert "Data: 4 training and 3 dev examples" in page
