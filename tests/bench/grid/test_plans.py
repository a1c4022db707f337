"""Plans for nodes of several kinds."""

from dataclasses import replace

from bench.grid.plans import Kinds
from tests.bench.synthetic_rows import planned_row
from tests.experiments.faults.setups import setup

SETUP = setup("fake")
FIRST = SETUP.target("a")
OTHER = replace(FIRST, conditions=replace(FIRST.conditions, machine="other"))
CELL, *_ = SETUP.cells


def row(on, status, attempt=1):
    values = {**on.conditions.columns(), "status": status, "attempt": attempt}
    return planned_row(CELL) | values


def planned(*rows, **options):
    [item] = Kinds(SETUP.grid, lambda: [FIRST, OTHER]).plan([CELL], rows, **options)
    return item.conditions_id, item.action, item.attempt


def test_a_result_on_any_kind_counts():
    first, other = FIRST.conditions.conditions_id, OTHER.conditions.conditions_id
    assert planned() == (first, "run", 1)
    assert planned(row(FIRST, "crashed"), row(OTHER, "ok")) == (other, "done", 2)
    assert planned(row(FIRST, "interrupted"), row(OTHER, "crashed")) == (other, "kept", 2)


def test_no_attempt_has_the_number_of_one_on_another_kind():
    """It may run on either, and two rows of one number would be taken for one."""
    first, other = FIRST.conditions.conditions_id, OTHER.conditions.conditions_id
    rows = row(OTHER, "interrupted"), row(OTHER, "interrupted", 2)
    assert planned(*rows) == (first, "run", 3)
    assert planned(row(OTHER, "crashed"), rerun="crashed") == (other, "run", 2)
