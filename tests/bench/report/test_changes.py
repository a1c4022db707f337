"""The report's section on settings: the groups that it compares, and its sentences and tables."""

import pytest

from bench.analysis.groups import group_key, groups, hub, hub_first
from bench.report import cells, tables
from bench.report.changes import changes, changes_sections
from bench.report.render import render
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import as_results, cell, failed_row, result_row, synthetic_rows


def row(score=0.5, at=0, *, mode="full", **settings):
    """A row with a score that ended at a given second."""
    axes = (1, "attn") if mode == "lora" else (None, None)
    one = cell(mode, *axes, settings.pop("amp", "off"), settings.pop("seed", 0), **settings)
    return result_row(one) | {
        "dev_score": score, "dev_ci_low": score - 0.03, "dev_ci_high": score + 0.03,
        "finished_at": f"2026-11-20T10:00:{at:02}Z",
    }  # fmt: skip


def compared(rows):
    base = hub(groups(rows))
    return [] if base is None else changes(*base)


@pytest.mark.parametrize(
    "other",
    [
        {"head": "conv", "optimizer": "adamax"},
        {"model": "mine", "model_digest": "ab" * 6},
        {"max_train": 500, "data_digest": "cd" * 6},
        {"init": "random"},
        {"held_out": 0.1},
    ],
)
def test_groups_of_other_data_models_machines_or_two_settings_are_not_compared(other):
    assert compared([row(), row(0.6, **other)]) == []
    there = {"conditions_id": "0ddba11", "torch_version": "9.9"}
    assert compared([row(), row(0.6, head="conv") | there]) == []


def test_the_hub_comes_first():
    rows = [row(at=1), row(head="conv", at=2), row(optimizer="radam", at=3)]
    assert groups(rows)[0].shared("optimizer") == "radam", "the newest"
    planned = {group_key(rows[2])}
    assert hub_first(groups(rows), planned)[0].shared("optimizer") == "radam"
    assert hub_first(groups(rows), {*map(group_key, rows)})[0].shared("optimizer") == "adamw"
    first, *others = hub_first(groups(rows), ())
    assert (first.shared("head"), first.shared("optimizer")) == ("linear", "adamw")
    assert [group.shared("optimizer") for group in others] == ["radam", "adamw"]
    rows[2] = row(task="nyt", data_digest="ef" * 6, at=3)
    tasks = [group.shared("task") for group in hub_first(groups(rows), ())]
    assert tasks == ["nyt", "movies", "movies"], "one that is no neighbour keeps its place"
    assert hub_first([], ()) == []
    sizes = [row(batch_size=64, at=1), row(at=2), row(batch_size=128, head="conv", at=3),
             row(batch_size=128, at=4), row(batch_size=16, at=5)]  # fmt: skip
    assert hub_first(groups(sizes), ())[0].shared("batch_size") == 16, "these change no order"
    many = groups(row(batch_size=n) for n in range(1, 70))
    assert hub(many) is None, "so many are not looked through"


def test_the_section_follows_from_the_rows(tmp_path):
    bare = {"dev_score": None, "dev_ci_low": None, "dev_ci_high": None, "dev_metric": None}
    oom = failed_row(cell("full", None, None, "off", head="conv"), "oom", "out of memory")
    rows = [row(), row(0.6, head="conv"), row(0.4, optimizer="adamax"), row(0.5, batch_size=64)]
    rows.append(row(0.5, max_length=64))
    unfrozen = [row(), row(0.45, unfreeze="iterative")]
    random_weights = [row(init="random") | bare, row(init="random", batch_size=64) | bare]
    check_snapshot("changes", {
        "four, of which two differ": changes_sections(groups(rows)),
        "costs alone": changes_sections(groups(random_weights)),
        "with the same axes and rate": changes_sections(groups([
            row(), row(mode="lora"), row(0.6, head="conv"), row(0.7, head="conv", mode="lora"),
            row(0.7, head="conv", amp="bf16"), row(0.7, head="conv", learning_rate=3e-4),
            row(optimizer="radam"),
        ])),
        "unfreezing inside the group": changes_sections(groups([*unfrozen, row(0.6, head="conv")])),
        "unfreezing alone is an axis": changes_sections(groups(unfrozen)),
        "a failed cell is left out": changes_sections(groups([row(), row(batch_size=64), oom])),
        "nothing is changed": changes_sections(groups(rows[:1])),
    })  # fmt: skip
    assert 'id="changes-alt"' in render(as_results(rows), tmp_path).read_text("utf-8")


def rows(*, flags=None):
    """A full grid; adapters under AMP ran with frozen weights in fp32 and in bf16."""
    every = [row | {"flags": flags} for row in synthetic_rows(68 * 2, failures=False)]
    usual = [
        row if row.mode == "full" or row.amp == "off" else row | {"frozen_dtype": "fp32"}
        for row in every
    ]
    return usual + [
        row | {
            "frozen_dtype": "bf16", "cell_id": f"{row.cell_id}b", "dev_score": row.dev_score + 0.1,
            "peak_rss_mib": row.peak_rss_mib / 2, "ms_per_1k_tokens": row.ms_per_1k_tokens / 2,
        }
        for row in every if row.rank and row.amp != "off"
    ]  # fmt: skip


def test_types_of_frozen_weights_are_compared_with_the_usual_one():
    others = [
        row | {"conditions_id": "other", "head": head, "finished_at": "2025-01-01"}
        for head in ("linear", "conv")
        for row in synthetic_rows(4, head=head)
    ]
    check_snapshot("frozen", {
        "two types": changes_sections(groups(rows())),
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
    for text in (html, (tmp_path / "report.md").read_text()):
        assert "Frozen weights are held in bf16 or in fp32." in text
    rank = next(line for line in html.splitlines() if "by rank on attn-only" in line)
    assert "lora bf16 from 0.5" in rank, "and not to 0.6, as those in bf16"
    assert " to 0.6" not in rank
