"""The report on several rates, batch sizes and options, and its section on settings."""

import random
from dataclasses import replace

from adapters.methods import MODES
from bench.analysis.groups import group_key, groups, hub, hub_first
from bench.plan.learning_rates import candidate
from bench.report import cells, tables
from bench.report.changes import changes, changes_sections
from bench.report.figures import COLOURS, LINES, MARKERS
from bench.report.render import render, report
from bench.report.rounds import candidates, rates_section
from bench.report.tradeoff import sections
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import (
    as_results,
    cell,
    failed_row,
    planned_row,
    result_row,
    synthetic_rows,
)

SIGNED = [{*of} for of in (COLOURS, MARKERS, LINES)]
"""The modes that have their own signs, before a report adds those of other names."""
RATES = (1e-5, 5e-5, 1e-4)
LORA = cell("lora", 1, "attn-only", "off", learning_rate=1e-3, learning_rate_head=1e-3)
FULL = cell("full", None, None, "off", learning_rate=1e-4)
KINDS = (
    ("full", None, None), ("lora", 1, "attn-only"), ("lora", 8, "attn-only"),
    ("dora", 1, "all-lin"), ("dora", 8, "all-lin"),
)  # fmt: skip


def with_rate(one, rate, **other):
    names = ("learning_rate", "learning_rate_base", "learning_rate_head")
    rates = {name: rate for name in names if getattr(one, name) is not None}
    return replace(one, learning_rate_source="grid", **rates | other)


def scored(one, rate, score, **other):
    row = result_row(with_rate(one, rate, **other))
    low, high = score - 0.03, score + 0.03
    return row | {"dev_score": score, "dev_ci_low": low, "dev_ci_high": high}


def grid_rows(best):
    """Every kind at every rate, where one rate of each mode and rank scores best."""
    return [
        scored(cell(*kind, "off"), rate, 0.4 + 0.1 * (rate == best.get(kind[:2], 1e-4)))
        for kind in KINDS
        for rate in RATES
    ]


def test_options_of_a_method_and_layers_by_name_are_in_labels_kinds_and_figures():
    lora = cell("lora", 8, "all-lin-only", "off")
    ones = [
        lora, replace(lora, use_rslora="on"),
        replace(lora, init_lora_weights="pissa", lora_dropout=0.1),
        replace(lora, layers="query+value"), replace(lora, lora_plus_ratio=4.0),
        cell("bitfit", None, None, "off"), cell("full", None, None, "off", layer_decay=0.9),
        replace(cell("bitfit", None, None, "off"), mode="peft", adapter="loha 1a2b3c4d"),
    ]  # fmt: skip
    [group] = groups([scored(one, 1e-4, 0.5) for one in ones])
    check_snapshot("options", {"labels": [setting.label for setting in group.settings]})
    frame = tables.frame(group)
    assert frame["kind"].nunique() == frame["label"].nunique() == len(ones)
    assert frame["best"].all(), "another option is no other rate of the same setting"
    ranked = [cell("lora", rank, one.layers, "off") for rank in (4, 8) for one in (ones[3], lora)]
    [group] = groups([scored(one, 1e-4, 0.5) for one in ranked])
    stems = [drawing.stem for section in sections(group) for drawing in section.drawings]
    assert [stem for stem in stems if "rank" in stem] == ["rank-all-lin-only", "rank-query+value"]
    assert [{*MODES}] * 3 == SIGNED


def test_sections_on_rank_and_rate_follow_from_the_best_rates_one_of_a_tie():
    every = {
        "the highest is best": grid_rows({}),
        "the highest or the lowest": grid_rows({("lora", 8): 1e-5, ("dora", 1): 5e-5}),
        "the middle": grid_rows({kind[:2]: 5e-5 for kind in KINDS}),
        "one rate": [scored(cell(*kind, "off"), 1e-4, 0.5) for kind in KINDS],
    }
    one = cell("lora", 1, "attn-only", "off")
    several = [(rate, size) for size in (64, 128) for rate in RATES]
    failed = [failed_row(cell("full", None, None, "off"), "oom", "out of memory")]
    failed += [
        failed_row(with_rate(one, rate, batch_size=n), "timeout", "late") for rate, n in several
    ]
    check_snapshot("axes", {
        **{title: [s for s in sections(groups(rows)[0]) if s.anchor in ("rank", "rate")]
           for title, rows in every.items()},
        "failed cells of several rates and batch sizes": cells.failures_table(failed),
        **{title: [head.text for head in cells.cells_table(groups(rows)).heads]
           for title, rows in (
               ("columns of a cell", [scored(one, 1e-4, 0.5)]),
               ("columns of several rates and batch sizes",
                [scored(one, rate, 0.5, batch_size=n) for rate, n in several]),
           )},
    })  # fmt: skip
    rows = [scored(cell("lora", 1, "attn-only", "off"), rate, 0.5) for rate in RATES]
    rows += [failed_row(with_rate(cell("full", None, None, "off"), 1e-4), "timeout", "too slow")]
    frame = tables.frame(groups(rows)[0])
    assert list(frame[frame["best"]]["line"]) == ["lora r1"]


def tries(one, *failed):
    """Five candidates of a cell; those of the exponents named ended in a timeout."""
    rows, noise = [], random.Random(0)  # noqa: S311
    for exponent in (-2, -1, 0, 1, 2):
        tried = candidate(one, exponent, f"part of {one.data_digest}")
        timeout = failed_row(tried, "timeout", "still training after 9 s")
        rows.append(timeout if exponent in failed else result_row(tried, noise))
    return rows


def searched(one, **rates):
    return result_row(replace(one, learning_rate_source="search", **rates))


def away(rows, **more):
    """Rows as measured on another machine."""
    return [row | {"conditions_id": "there", "machine": "EPYC, 64 cores"} | more for row in rows]


def test_the_section_tells_the_tries_for_the_cells_here_from_others():
    found = searched(LORA)
    given = searched(LORA, learning_rate=3.16e-4, learning_rate_head=3.16e-4)
    best = [tries(LORA)[0] | {"dev_score": 0.99}, *tries(LORA)[1:]]
    others = {
        f"tries for cells with other {name}": [
            *tries(LORA), *tries(replace(LORA, **other), 0, 1), found]
        for name, other in {
            "data": {"task": "tweets", "data_digest": "d2"},
            "training examples": {"max_train": 50, "data_digest": "d3"},
            "dev examples": {"max_dev": 50, "data_digest": "d4"}, "epochs": {"epochs": 7},
        }.items()
    }  # fmt: skip
    every = others | {
        "the rate of the cells is chosen, whatever scores best since": [*best, given],
        "the highest rate is chosen": [
            *tries(LORA), searched(LORA, learning_rate=1e-2, learning_rate_head=1e-2)],
        "the search failed for full": [*tries(LORA), *tries(FULL, -2, -1, 0, 1, 2), found],
        "of another machine alone": [*away(tries(LORA)), found],
        "of another machine, where those here failed": [
            *tries(LORA, 0, 1), *away(tries(LORA)), found],
        "of other software": [*away(tries(LORA), torch_version="9"), found],
        "of another device": [*away(tries(LORA), device="cuda:0"), found],
    }  # fmt: skip
    check_snapshot("rates", {t: rates_section(groups(r)[0], r) for t, r in every.items()})
    frame = candidates(groups([*best, given])[0], [*best, given], ())
    assert list(frame[frame["chosen"]]["rate"]) == [3.16e-4]


def test_the_tries_of_a_stopped_search_are_counted_and_no_cells_of_a_group():
    rows = tries(LORA, 2)
    waiting = planned_row(candidate(FULL, 0, "part"))
    facts = report(as_results(rows, ["runs.csv"]), [*rows, waiting])
    names = ("lead", "failures_heading", "sections")
    check_snapshot("rates-stopped", {name: facts[name] for name in names})
    [group] = groups([*tries(LORA), searched(LORA)], [waiting])
    assert len(group.rows) == 1


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


def test_groups_of_other_data_models_machines_or_two_settings_are_not_compared():
    for other in (
        {"head": "conv", "optimizer": "adamax"}, {"model": "mine", "model_digest": "ab" * 6},
        {"max_train": 500, "data_digest": "cd" * 6}, {"init": "random"}, {"held_out": 0.1},
    ):  # fmt: skip
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
