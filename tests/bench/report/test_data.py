"""The report's section on data."""

import numpy as np

from bench.analysis.groups import groups
from bench.examples.checks import check
from bench.report.data import data_section
from bench.report.render import report
from bench.results.facts import facts_of
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
        Task("tags", ("new", "old"), problem_name="multi_label"), Examples(("a", "b"), None, tags),
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
    other = {"data_digest": "ef" * 6, "task": "other"}
    others = [row | other | {"cell_id": f"{row.cell_id}x"} for row in ROWS]
    both = {DIGEST: facts(), "ef" * 6: facts()}
    found = report(as_results([*ROWS, *others], facts=both))
    anchors = [s.anchor for other in found["others"] for s in other["sections"]]
    assert [anchor for anchor in anchors if "data" in anchor] == ["group2-data"]
