"""The report of settings that differ in how frozen weights are held."""

import pytest

from bench.analysis.groups import groups
from bench.report import cells, tables
from bench.report.changes import changes_sections, frozen_changes
from bench.report.render import render
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import as_results, synthetic_rows


def rows(*, flags=None):
    """A full grid; adapters under AMP ran with frozen weights in fp32 and in bf16."""
    made = []
    for row in synthetic_rows(68 * 2, failures=False):
        if row["mode"] == "full" or row["amp"] == "off":
            made.append(row | {"flags": flags})
            continue
        made.append(row | {"frozen_dtype": "fp32", "flags": flags})
        other = {"frozen_dtype": "bf16", "cell_id": f"{row['cell_id']}b", "flags": flags}
        costs = {name: float(row[name] or 0) * 0.5 for name in ("peak_rss_mib", "ms_per_1k_tokens")}
        if row["mode"] != "head":
            made.append(row | other | costs | {"dev_score": float(row["dev_score"] or 0) + 0.1})
    return made


def test_each_is_compared_with_the_usual_type():
    [group] = groups(rows())
    changes = frozen_changes(group)
    assert len(changes) == 32
    for change in changes:
        assert (change.setting.frozen, change.against.frozen) == ("bf16", "fp32")
        gaps = [change.gaps[name].value for name in ("memory", "time", "score")]
        assert gaps == pytest.approx([0.5, 0.5, 0.1])
    others = [
        row | {"conditions_id": "other", "head": head, "finished_at": "2025-01-01"}
        for head in ("linear", "conv")
        for row in synthetic_rows(4, head=head)
    ]
    check_snapshot("frozen", {
        "two types": changes_sections([group]),
        "nothing learned, so costs alone": changes_sections(groups(rows(flags="not_learned"))),
        "the hub is another group": changes_sections(groups([*rows(), *others])),
        "a single type": changes_sections(groups(synthetic_rows(68))),
    })  # fmt: skip


def test_lines_and_dots_are_of_the_usual_way_and_say_so(tmp_path):
    grouped = groups(rows())
    name, first = cells.names(grouped[0].rows), grouped[0].rows
    assert len({name(row) for row in first}) == len(first)
    assert "frozen" in [head.text for head in cells.cells_table(grouped).heads]
    frame = tables.frame(grouped[0])
    assert frame["usual"].sum() == 68
    assert frame["best"].all()
    html = render(as_results(rows()), tmp_path).read_text("utf-8")
    assert "frozen dtype bf16 instead of fp32" in html
    assert "Only frozen weights held in fp32 are drawn." in html
    assert "Frozen weights are held in bf16 or in fp32." in html
    assert "Frozen weights are held in bf16 or in fp32." in (tmp_path / "report.md").read_text()
    rank = next(line for line in html.splitlines() if "by rank on attn-only" in line)
    assert "lora bf16 from 0.5" in rank, "and not to 0.6, as those in bf16"
    assert " to 0.6" not in rank
