"""The report's section on learning rates: the tries that it shows, and the chosen rates."""

import random
from dataclasses import replace

from bench.analysis.groups import groups
from bench.plan.learning_rates import candidate
from bench.report.rates import candidates, rates_section
from bench.report.render import report
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import as_results, cell, failed_row, planned_row, result_row

LORA = cell("lora", 1, "attn-only", "off", learning_rate=1e-3, learning_rate_head=1e-3)
FULL = cell("full", None, None, "off", learning_rate=1e-4)


def tries(one, *failed):
    """Five candidates of a cell; those of the exponents named ended in a timeout."""
    rows, noise = [], random.Random(0)  # noqa: S311
    for exponent in (-2, -1, 0, 1, 2):
        tried = candidate(one, exponent, f"part of {one.data_digest}")
        timeout = failed_row(tried, "timeout", "still training after 9 s")
        rows.append(timeout if exponent in failed else result_row(tried, noise))
    return rows


def searched(one, **rates):
    of = replace(one, learning_rate_source="search", **rates)
    return result_row(of, random.Random(0))  # noqa: S311


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
    frame = candidates(groups([*best, given])[0], [*best, given])
    assert list(frame[frame["chosen"]]["rate"]) == [3.16e-4]


def test_the_tries_of_a_stopped_search_are_counted_and_no_cells_of_a_group():
    rows = tries(LORA, 2)
    waiting = planned_row(candidate(FULL, 0, "part"))
    facts = report(as_results(rows, ["runs.csv"]), [*rows, waiting])
    names = ("lead", "failures_heading", "sections")
    check_snapshot("rates-stopped", {name: facts[name] for name in names})
    [group] = groups([*tries(LORA), searched(LORA)], [waiting])
    assert len(group.rows) == 1
