"""Grid files: what they may say, and one line on what they may not, whatever a file holds; settings
by part; and the columns of runs.csv, each of which a test holds."""

import json
import os
import re
import time
import tomllib
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.common.errors import InputError
from bench.grid.inputs import override
from bench.launch import checks
from bench.plan import columns, gridfile
from bench.plan.cell import ABOUT, MULTITASK
from bench.plan.columns import PART_SCORES, format_parts, parse_parts
from bench.plan.metrics import OVERALL
from bench.plan.models import find_model
from bench.plan.planning import Resolved, expand
from bench.plan.rows import Row
from bench.results.overall import overall, overall_interval
from bench.results.protocol import parse_result
from bench.results.row import measured_row, score_interval
from bench.stats.intervals import fisher, wilson
from minbert.data.batches import BATCHINGS, MIXINGS
from minbert.data.tasks import TASKS
from minbert.data.tasks.base import DECLARED
from minbert.data.tasks.cs224n import PARTS
from minbert.kernels.reference import KERNELS
from minbert.model.heads import HEADS
from minbert.training.losses import MSE, REGRESSION
from minbert.training.optimizer import OPTIMIZERS
from minbert.training.schedules import SCHEDULES
from tests import hostile
from tests.bench.column_checks import CHECKS, problem_of
from tests.bench.synthetic_rows import HERE, new_row

RESOLVED = Resolved("minilm", "m", "mean", "d", "bf16", "grid")
VALUES: dict[str, Any] = {
    "about": "two cells",
    "settings": {
        "model": "minilm", "task": "movies", "seeds": 1, "epochs": 2,
        "max_steps": 3, "max_length": 128, "batch_size": 8, "weight_decay": 0.01, "warmup": 0.1,
        "learning_rates": {"full": 2e-5}, "dropout": 0.1, "alpha": 16.0,
    },
    "cells": [
        {"mode": ["full"], "amp": ["off", "on"]},
        {"mode": ["lora"], "rank": [1, 8], "layers": ["attn"]},
    ],
}  # fmt: skip


def toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def document(values):
    return "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in values.items())


def test_names_that_planning_has_without_torch_are_those_of_minbert():
    for name, known in (
        ("head", HEADS), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES),
        ("regression_loss", REGRESSION), ("kernels", KERNELS), ("batching", BATCHINGS),
    ):  # fmt: skip
        assert ABOUT[name].values == tuple(known), name
    assert checks.MSE == MSE
    assert set(PART_SCORES) == set(PARTS) == set(TASKS[MULTITASK].parts)
    assert TASKS[MULTITASK].metric == OVERALL
    for part in PARTS:
        assert columns.most_encoders([part, "sst"]) == len(DECLARED["cs224n"][part]["texts"])
    correlated = {part for part in PARTS if TASKS[part].kind == "regression"}
    assert correlated == set(columns.CORRELATED)
    assert columns.VALUES["task_order"] == tuple(MIXINGS)


def test_files_and_named_grids_load_unless_unreadable_or_beyond_the_limits_of_settings(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(document(VALUES))
    grid = gridfile.load(str(path))
    assert (grid.name, grid.settings.epochs) == ("mine", 2)
    rates = grid.settings.learning_rates
    assert (rates.full, rates.adapter) == (2e-5, 2e-3)
    assert grid.cells[0].amp == ["off", "on"]
    assert len(expand(grid, RESOLVED)) == 4
    for name in gridfile.names():
        assert gridfile.load(name).name == name
    with pytest.raises(InputError, match="full, paper, paper-final, quick, smoke"):
        gridfile.load("huge")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large.toml").write_bytes(b"#" * (2 << 20))
    os.mkfifo(tmp_path / "pipe.toml")
    for name, reason in (("none", "can't be read"), ("binary", "not UTF-8"), ("pipe", "pipe"),
                         ("large", "larger than 1 MiB")):  # fmt: skip
        with pytest.raises(InputError, match=reason):
            gridfile.load(str(tmp_path / f"{name}.toml"))
    assert gridfile._one_line("a\n  b\tc\x1b[1m") == r"a b c\x1b[1m"
    assert gridfile._one_line("é" * 301) == "é" * 300
    grid = gridfile.load("smoke")
    with pytest.raises(InputError, match=r"^--max-train[^\n]*$"):
        override(grid, {"max_train": 10**10, "model": None})
    assert override(grid, {"max_train": 2}).settings.max_train == 2
    assert override(grid, {"max_train": None}) == grid
    for name in ("x" * 5000, "a\0b", "../x", "/etc/passwd", "a/../b", "~root"):
        with pytest.raises(InputError):
            find_model(name, "pretrained", "auto")


REFUSED = tomllib.loads(Path(__file__).with_name("refused.toml").read_text("utf-8"))["refused"]


@pytest.mark.parametrize("one", REFUSED, ids=lambda one: one["line"])
def test_a_typo_is_one_line_that_says_where(one):
    message = rf"^mine\.toml: [^\n]*{re.escape(one['line'])}[^\n]*$"
    with pytest.raises(InputError, match=message):
        gridfile.parse(one["grid"], "mine.toml", "mine")


TOML = st.recursive(
    st.booleans()
    | st.sampled_from([number for number in hostile.NUMBERS if number != 10**400])
    | st.sampled_from([text for text in hostile.TEXTS if "\ud800" not in text])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text("ab.-_é", max_size=4), of),
    max_leaves=4,
)
CHANGED = hostile.changed(VALUES, TOML).filter(lambda values: isinstance(values, dict))


@hostile.examples(200)
@given(
    content=CHANGED.map(lambda values: document(values).encode())
    | hostile.damaged(document(VALUES).encode())
)
def test_a_changed_or_damaged_grid_is_refused_or_makes_cells_in_a_moment(tmp_path, content):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    grid = hostile.answer(lambda: gridfile.load(str(path)), InputError, path)
    if grid is not None:
        cells = expand(grid, RESOLVED)
        assert 0 < len(cells) <= 100_000
        assert all(cell.epochs >= 1 and 0 <= cell.dropout < 1 for cell in cells)
        assert all((cell.rank is None) == (cell.layers is None) for cell in cells)


@pytest.mark.parametrize("text", [
    "a." * 200_000 + "b = 1", "[" + "a . " * 200_000 + "b]", "'" * 10**6,
    "x = {" + "'a'.\"b\"." * 50_000 + "c = 1}",
    "x = " + hostile.nested(100_000), "x = " + "{a = " * 50_000,
    "[[cells]]\nmode = [" + "'full'," * 101_000 + "]",
    "[[cells]]\nmode=['lora']\nrank=[" + "1," * 4000 + "]\nlayers=[" + "'attn'," * 4000 + "]",
    "[settings]\nseeds = 1000\nfolds = 101\n[[cells]]\nmode=['full']\n",
    "[[cells]]\nmode=['full']\n" * 10_000 + "x = 1",
], ids=lambda text: text[:20])  # fmt: skip
def test_a_file_made_to_keep_its_reader_busy_is_refused_soon(text):
    begun = time.process_time()
    read = partial(gridfile.parse, text, "x.toml", "x")
    assert hostile.answer(read, InputError, "x.toml: ") is None
    assert time.process_time() - begun < 15


SIZES = {"sst": 1101, "quora": 4000, "sts": 863}
SCORES = {"sst": 0.5, "quora": 0.8, "sts": 0.7}


def cells_of(parts, grid="paper-final"):
    resolved = replace(RESOLVED, regression="sts" in parts, parts=parts)
    return expand(gridfile.load(grid), resolved)


def test_settings_and_the_overall_score_are_of_the_parts_that_are_there():
    values = {"sts": 3.0, "sst": 4.0, "quora": 1e-5}
    assert format_parts(values) == "quora=1e-05 sst=4 sts=3"
    assert parse_parts(format_parts(values)) == values
    for text in ("", "sst=x", "sst=nan", "sst=-1", "qqp=1", "sst=1 sst=2", "sst=1  sts=2"):
        with pytest.raises(ValueError):  # noqa: PT011  float's own message, too
            parse_parts(text)
    (cell, *_) = cells_of(("sst", "quora"))
    assert cell.task_rates == "quora=5 sst=4"
    assert cell.regression_loss is None
    for parts in (("sst",), ("quora", "sts")):
        assert cells_of(parts)[0].encoders == 1, "a second encoder would serve nothing"
    for other in cells_of((), "smoke"):
        found = (other.encoders, other.task_order, other.task_rates, other.task_decays)
        assert found == (None,) * 4, "of another task"

    assert overall(SCORES) == pytest.approx((0.5 + 0.8 + 0.85) / 3)
    assert overall({"sts": -1.0}) == 0.0
    assert overall({"sst": 0.4}) == 0.4
    assert overall({"sst": 0.4, "sts": None}) is None
    assert overall({}) is None
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


def test_a_row_has_the_interval_of_its_parts_and_what_the_majority_gives(tmp_path):
    own = {"dev_metric": OVERALL, "dev_score": overall(SCORES)}
    own |= {PART_SCORES[part]: score for part, score in SCORES.items()}

    def of_majority(majority):
        return measured_row(
            cells_of(PARTS)[0], HERE, columns=own,
            status="ok", flags=[], message="", folder=tmp_path, dev_examples=SIZES,
            majority_score=majority,
        )  # fmt: skip

    row = of_majority(0.5)
    assert (row["dev_ci_low"], row["dev_ci_high"]) == overall_interval(SCORES, SIZES).ends()
    assert row["majority_score"] == 0.5
    assert row["flags"] is None
    assert of_majority(0.72)["flags"] == "not_learned"
    assert columns.part_scores(row) == SCORES
    lacking = new_row(dev_metric=OVERALL, dev_score=0.5, dev_sentiment=0.5, dev_similarity=0.9)
    for parts, ends in (({"sst": 100}, wilson(50, 100)), ({"movies": 100}, (None, None))):
        assert tuple(score_interval(lacking, parts, Path()).values()) == ends, "of the task's parts"
    for name, value in (("dev_sentiment", -0.1), ("dev_similarity", -1.1), ("dev_score", -0.1)):
        result = {"status": "ok", "columns": {"dev_metric": "overall", name: value}}
        with pytest.raises(ValueError, match=f"its {name} is"):
            parse_result(json.dumps(result))


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
        assert columns.BY_NAME[name].applies(row) is applies, (name, row)


def test_names_are_unique_and_explained_and_a_row_takes_no_others():
    assert len(set(columns.NAMES)) == len(columns.NAMES)
    assert all(column.meaning for column in columns.COLUMNS)
    assert {*columns.NAMES} == {item.name for item in fields(Row)} | {"scale"}
    with pytest.raises(ValueError, match="colour"):
        new_row(colour="red")
    with pytest.raises(KeyError):
        new_row()["colour"]
    assert new_row(mode="lora")["mode"] == "lora"


@pytest.mark.parametrize("column", columns.COLUMNS, ids=lambda column: column.name)
def test_a_column_is_held_by_a_test_that_looks_at_it(column):
    assert problem_of(column.name, CHECKS.get(column.name, "")) is None


def test_a_check_that_holds_nothing_is_a_problem():
    here = "tests/bench/plan/test_gridfile.py"
    for check, message in (
        (here, "name the test that holds it"),
        (f"{here}::test_names", "there is no test"),
        (f"{here}::test_a_column_is_held_by_a_test_that_looks_at_it", "does not look at it"),
    ):
        assert message in problem_of("rank", check)
