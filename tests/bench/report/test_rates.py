"""The report's section on learning rates: the tries that it shows, and the chosen rates."""

import random
from dataclasses import replace

import pytest

from bench.analysis.groups import groups
from bench.plan.learning_rates import candidate
from bench.plan.rows import Row
from bench.report.rates import candidates, rates_section
from bench.report.render import report
from tests.bench.synthetic_rows import cell, failed_row, planned_row, result_row

LORA = cell("lora", 1, "attn-only", "off")
FULL = cell("full", None, None, "off")
NOISE = random.Random(0)  # noqa: S311


def tries(one, *failed: int) -> list[Row]:
    """Five candidates of a cell; those of the exponents named ended in a timeout."""
    rows = []
    for exponent in (-2, -1, 0, 1, 2):
        tried = candidate(one, exponent, f"part of {one.data_digest}")
        timeout = failed_row(tried, "timeout", "still training after 9 s")
        rows.append(timeout if exponent in failed else result_row(tried, NOISE))
    return rows


def searched(one, **rates) -> Row:
    return result_row(replace(one, learning_rate_source="search", **rates), NOISE)


@pytest.mark.parametrize("other", [
    {"task": "tweets", "data_digest": "d2"}, {"max_train": 50, "data_digest": "d3"},
    {"max_dev": 50, "data_digest": "d4"}, {"epochs": 7},
])  # fmt: skip
def test_tries_for_other_cells_are_separate(other):
    rows = [*tries(LORA), *tries(replace(LORA, **other), 0, 1), searched(LORA)]
    [group] = groups(rows)
    frame = candidates(group, rows)
    assert frame["here"].sum() == 5
    [section] = rates_section(group, rows)
    assert section.heading == "Learning rates: 1 search, each at its own best"
    assert section.said[1].endswith("not in this group: 3 ok, 2 timeout.")


def test_chosen_is_the_rate_that_the_cells_have_whatever_scored_best_since():
    rows = [*tries(LORA), searched(LORA, learning_rate=3.16e-4, learning_rate_head=3.16e-4)]
    rows[0] |= {"dev_score": 0.99}
    [group] = groups(rows)
    frame = candidates(group, rows)
    assert list(frame[frame["chosen"]]["rate"]) == [3.16e-4]


def test_a_search_that_failed_for_one_mode_says_so():
    rows = [*tries(LORA), *tries(FULL, -2, -1, 0, 1, 2), searched(LORA)]
    [group] = groups(rows)
    [section] = rates_section(group, rows)
    assert section.heading == "Learning rates: 2 searches, 1 with a rate that is used"
    assert "(5 timeout, 5 ok)" in section.said[0]
    assert "No cell here has a rate of these searches: full." in section.said[0]
    assert any("still training after 9 s" in field for field in section.tables[0].rows[0])


def test_the_tries_of_a_stopped_search_are_counted_by_status():
    rows = tries(LORA, 2)
    waiting = planned_row(candidate(FULL, 0, "part"))
    facts = report(rows, [*rows, waiting], ["runs.csv"])
    assert facts["lead"] == [
        "There are only tries of a search for learning rates, and no cell at its rates."
    ]
    assert "not run" not in facts["failures_heading"]
    [section] = facts["sections"]
    assert "6 tries of searches" in section.said[0]
    assert "1 not run, 4 ok, 1 timeout" in section.said[0]


def test_tries_that_are_planned_are_no_cells_of_a_group():
    rows = [*tries(LORA), searched(LORA)]
    [group] = groups(rows, [planned_row(candidate(FULL, 0, "part"))])
    assert len(group.rows) == 1


def away(rows: list[Row], **more) -> list[Row]:
    """Rows as measured on another machine."""
    return [row | {"conditions_id": "there", "machine": "EPYC, 64 cores"} | more for row in rows]


def test_tries_of_another_machine_count_where_there_are_none_here():
    rows = [*away(tries(LORA)), searched(LORA)]
    [section] = rates_section(groups(rows)[0], rows)
    assert section.heading == "Learning rates: 1 search, each at its own best"
    assert "by 5 short runs (5 ok)" in section.said[0]
    assert "Among them are 5 tries from other machines." in section.said[0]


def test_a_try_here_counts_before_that_of_another_machine_if_it_has_a_score():
    rows = [*tries(LORA, 0, 1), *away(tries(LORA)), searched(LORA)]
    [section] = rates_section(groups(rows)[0], rows)
    assert "by 7 short runs (5 ok, 2 timeout)" in section.said[0]
    assert "Among them are 2 tries from other machines." in section.said[0]
    assert "3 tries of searches for cells that are not in this group: 3 ok." in section.said[1]


@pytest.mark.parametrize("more", [{"torch_version": "9"}, {"device": "cuda:0"}])
def test_tries_of_other_software_are_not_for_the_cells_here(more):
    rows = [*away(tries(LORA), **more), searched(LORA)]
    [section] = rates_section(groups(rows)[0], rows)
    assert section.heading == "Learning rates: a search whose rates no cell here has"
