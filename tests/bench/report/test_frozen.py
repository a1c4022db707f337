"""The report of settings that differ in how frozen weights are held."""

from pathlib import Path

import pytest

from bench.analysis.groups import groups
from bench.plan.rows import Row
from bench.report import cells, figures, tables
from bench.report.changes import changes_sections, frozen_changes
from bench.report.render import render
from tests.bench.synthetic_rows import as_results, synthetic_rows


def rows(*, flags: str | None = None) -> list[Row]:
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


def test_each_is_compared_with_the_usual_type() -> None:
    [group] = groups(rows())
    changes = frozen_changes(group)
    assert len(changes) == 32
    for change in changes:
        assert (change.setting.frozen, change.against.frozen) == ("bf16", "fp32")
        assert change.gaps["memory"].value == pytest.approx(0.5)
        assert change.gaps["time"].value == pytest.approx(0.5)
        assert change.gaps["score"].value == pytest.approx(0.1)
    [section] = changes_sections([group])
    assert section.lines[1] == (
        "frozen dtype bf16 instead of fp32: 32 comparisons; 0.50× the memory, significantly less "
        "in 32 and more in 0; 0.50× the time, significantly less in 32 and more in 0; the score is "
        "significantly better in 32 and worse in 0."
    )
    first = section.tables[0].rows[0]
    assert first[:2] == [
        "frozen dtype bf16 instead of fp32", "lora rank 1 on attn-only, bf16, frozen weights bf16",
    ]  # fmt: skip
    assert first[3:] == ["+0.100", "+0.100 to +0.100", *["0.50", "0.50 to 0.50"] * 2]


def test_what_learned_nothing_has_costs_and_no_difference_of_scores() -> None:
    [group] = groups(rows(flags="not_learned"))
    [section] = changes_sections([group])
    assert section.tables[0].rows[0][3:5] == ["–", "–"]
    assert "score" not in section.lines[1]


def test_with_a_single_type_there_is_no_section() -> None:
    [group] = groups(synthetic_rows(68))
    assert changes_sections([group]) == []


def test_lines_and_dots_are_of_the_usual_way_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "to_svg", lambda figure, stem: f'<svg id="{stem}"></svg>')
    frame = tables.frame(groups(rows())[0])
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


def test_names_of_cells_are_distinct() -> None:
    grouped = groups(rows())
    table = cells.cells_table(grouped)
    assert "frozen" in [head.text for head in table.heads]
    name = cells.names(grouped[0].rows)
    assert len({name(row) for row in grouped[0].rows}) == len(grouped[0].rows)


def test_a_hub_that_is_another_group_has_a_section_of_its_own() -> None:
    others = [
        row | {"conditions_id": "other", "head": head, "finished_at": "2025-01-01"}
        for head in ("linear", "conv")
        for row in synthetic_rows(4, head=head)
    ]
    own, around = changes_sections(groups([*rows(), *others]))
    assert (own.anchor, around.anchor) == ("changes", "changes-2")
    assert {line[0] for line in own.tables[0].rows} == {"frozen dtype bf16 instead of fp32"}
    assert not any("frozen" in line[0] for line in around.tables[0].rows)
