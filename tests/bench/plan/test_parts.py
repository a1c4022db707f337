"""Settings and scores by part: as text, as one score with its interval, in cells and in rows."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from bench.common.errors import InputError
from bench.plan import gridfile
from bench.plan.cell import MULTITASK
from bench.plan.columns import (
    BY_NAME,
    CORRELATED,
    PART_SCORES,
    VALUES,
    format_parts,
    most_encoders,
    parse_parts,
    parse_value,
    part_scores,
    row_of,
)
from bench.plan.job import Job
from bench.plan.metrics import OVERALL
from bench.plan.planning import Resolved, expand
from bench.results.overall import overall, overall_interval
from bench.results.protocol import parse_result
from bench.results.row import measured_row, score_interval
from bench.stats.intervals import fisher, wilson
from minbert.data.batches import MIXINGS
from minbert.data.tasks import TASKS
from minbert.data.tasks.base import DECLARED
from minbert.data.tasks.cs224n import PARTS
from tests.bench.synthetic_rows import HERE, new_row
from tests.bench.tiny_cells import job_of

ROOT = Path(__file__).parents[3]
SIZES = {"sst": 1101, "quora": 4000, "sts": 863}
SCORES = {"sst": 0.5, "quora": 0.8, "sts": 0.7}


def cells_of(parts, grid="paper-final"):
    resolved = Resolved("minilm", "m", "mean", "d", "bf16", "grid", "sts" in parts, parts)
    return expand(gridfile.load(grid), resolved)


def test_names_are_those_of_the_task():
    assert set(PART_SCORES) == set(PARTS) == set(TASKS[MULTITASK].parts)
    assert TASKS[MULTITASK].metric == OVERALL
    for part in PARTS:
        assert most_encoders([part, "sst"]) == len(DECLARED["cs224n"][part]["texts"])
    assert {part for part in PARTS if TASKS[part].kind == "regression"} == set(CORRELATED)
    assert VALUES["task_order"] == tuple(MIXINGS)


# As text


def test_settings_by_part_have_one_order_and_come_back():
    values = {"sts": 3.0, "sst": 4.0, "quora": 1e-5}
    assert format_parts(values) == "quora=1e-05 sst=4 sts=3"
    assert parse_parts(format_parts(values)) == values
    for text in ("", "sst=x", "sst=nan", "sst=-1", "qqp=1", "sst=1 sst=2", "sst=1  sts=2"):
        with pytest.raises(ValueError):  # noqa: PT011  float's own message, too
            parse_parts(text)


# The score


def test_overall_is_the_mean_over_the_parts_that_are_there():
    assert overall(SCORES) == pytest.approx((0.5 + 0.8 + 0.85) / 3)
    assert overall({"sts": -1.0}) == 0.0
    assert overall({"sst": 0.4}) == 0.4
    assert overall({"sst": 0.4, "sts": None}) is None
    assert overall({}) is None


def test_the_interval_is_that_of_one_part_or_of_the_sum_of_variances():
    low, high = wilson(550, 1100)
    assert overall_interval({"sst": 0.5}, {"sst": 1100}).ends() == pytest.approx((low, high))
    low, high = fisher(0.7, 863)
    one = overall_interval({"sts": 0.7}, SIZES)
    assert one.value == pytest.approx(0.85)
    assert one.ends() == pytest.approx(((1 + low) / 2, (1 + high) / 2))
    several = overall_interval(SCORES, SIZES)
    by_variance = [0.5 * 0.5 / 1101, 0.8 * 0.2 / 4000, (1 - 0.7**2) ** 2 / 863 / 4]
    assert several.value == pytest.approx(overall(SCORES))
    half = 1.96 * sum(by_variance) ** 0.5 / 3
    assert (several.high - several.low) / 2 == pytest.approx(half, rel=0.01)
    for score in (0.0, 1.0):
        end = overall_interval({"sst": score, "quora": score, "sts": 2 * score - 1}, SIZES)
        assert 0 <= end.low <= end.value + 1e-9
        assert end.value - 1e-9 <= end.high <= 1


# Cells


def test_settings_are_of_the_parts_that_are_there():
    (cell, *_) = cells_of(("sst", "quora"))
    assert cell.task_rates == "quora=5 sst=4"
    assert cell.regression_loss is None
    for parts in (("sst",), ("quora", "sts")):
        assert cells_of(parts)[0].encoders == 1, "a second encoder would serve nothing"
    for other in cells_of((), "smoke"):
        found = (other.encoders, other.task_order, other.task_rates, other.task_decays)
        assert found == (None,) * 4, "of another task"


def test_cells_that_ran_before_there_were_parts_keep_their_ids():
    with (ROOT / "docs" / "prediction.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        known = {n: parse_value(n, text) for n, text in row.items() if n in BY_NAME}
        assert row_of(known).cell.cell_id == row["cell_id"]


def test_a_job_with_other_settings_by_part_is_refused():
    job = job_of(cells_of(PARTS)[0], Path("/a/b"))
    assert Job.from_json(job.to_json()) == job
    for change, expected in (
        ({"task_rates": "sst=x"}, "as task_rates"),
        ({"encoders": None}, "don't go with task"),
        ({"task": "sst"}, "don't go with task"),
    ):
        with pytest.raises(InputError, match=expected):
            Job.from_json(replace(job, cell=replace(job.cell, **change)).to_json())


# Rows


def test_a_row_has_the_interval_of_its_parts_and_what_the_majority_gives(tmp_path):
    columns = {"dev_metric": OVERALL, "dev_score": overall(SCORES)}
    columns |= {PART_SCORES[part]: score for part, score in SCORES.items()}

    def of_majority(majority):
        return measured_row(
            cells_of(PARTS)[0], HERE, columns=columns,
            status="ok", flags=[], message="", folder=tmp_path, dev_examples=SIZES,
            majority_score=majority,
        )  # fmt: skip

    row = of_majority(0.5)
    assert (row["dev_ci_low"], row["dev_ci_high"]) == overall_interval(SCORES, SIZES).ends()
    assert row["majority_score"] == 0.5
    assert row["flags"] is None
    assert of_majority(0.72)["flags"] == "not_learned"
    assert part_scores(row) == SCORES
    lacking = new_row(dev_metric=OVERALL, dev_score=0.5, dev_sentiment=0.5, dev_similarity=0.9)
    for parts, ends in (({"sst": 100}, wilson(50, 100)), ({"movies": 100}, (None, None))):
        assert tuple(score_interval(lacking, parts, Path()).values()) == ends, "of the task's parts"


def test_a_score_that_none_can_be_makes_no_result():
    for name, value in (("dev_sentiment", -0.1), ("dev_similarity", -1.1), ("dev_score", -0.1)):
        columns = f'{{"dev_metric": "overall", "{name}": {value}}}'
        with pytest.raises(ValueError, match=f"its {name} is"):
            parse_result(f'{{"status": "ok", "columns": {columns}}}')
