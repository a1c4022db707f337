"""runs.csv's columns are those of the design, and fields survive their text."""

from dataclasses import fields

import pytest

from bench.plan.columns import BY_NAME, COLUMNS, NAMES
from bench.plan.rows import Row
from tests.bench.column_checks import CHECKS, problem_of
from tests.bench.synthetic_rows import new_row


def test_a_column_knows_where_it_applies():
    for name, row, applies in (
        ("rank", {"mode": "lora"}, True), ("rank", {"mode": "full"}, False),
        ("learning_rate", {"mode": "head"}, False),
        ("learning_rate_base", {"mode": "lora", "layers": "attn"}, True),
        ("learning_rate_base", {"mode": "lora", "layers": "attn-only"}, False),
        ("peak_cuda_allocated_mib", {"device": "cpu"}, False),
        ("peak_cuda_allocated_mib", {"device": "cuda:0"}, True),
        ("dev_score", {"init": "random"}, False), ("unfreeze", {"mode": "head"}, False),
        ("regression_loss", {"dev_metric": "accuracy"}, False),
        ("dev_accuracy", {"init": "pretrained", "dev_metric": "pearson"}, False),
        ("encoders", {"task": "multitask"}, True), ("encoders", {"task": "sst"}, False),
        ("dev_similarity", {"task": "multitask", "init": "random"}, False),
        ("majority_score", {"init": "pretrained", "dev_metric": "overall"}, True),
    ):  # fmt: skip
        assert BY_NAME[name].applies(row) is applies, (name, row)


def test_names_are_unique_and_explained_and_a_row_takes_no_others():
    assert len(set(NAMES)) == len(NAMES)
    assert all(column.meaning for column in COLUMNS)
    assert {*NAMES} == {item.name for item in fields(Row)} | {"scale"}
    with pytest.raises(ValueError, match="colour"):
        new_row(colour="red")
    with pytest.raises(KeyError):
        new_row()["colour"]
    assert new_row(mode="lora")["mode"] == "lora"


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_a_column_is_held_by_a_test_that_looks_at_it(column):
    assert problem_of(column.name, CHECKS.get(column.name, "")) is None


def test_a_check_that_holds_nothing_is_a_problem():
    here = "tests/bench/plan/test_columns.py"
    for check, message in (
        (here, "name the test that holds it"),
        (f"{here}::test_names", "there is no test"),
        (f"{here}::test_a_column_is_held_by_a_test_that_looks_at_it", "does not look at it"),
    ):
        assert message in problem_of("rank", check)
