"""Grid files and flags of every wrong kind."""

import json
import time
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.common.errors import InputError
from bench.grid.inputs import override
from bench.plan import gridfile
from bench.plan.models import find_model
from bench.plan.planning import Resolved, expand
from tests.hostile import NUMBERS, TEXTS, answer, changed, check_line, damaged, examples, nested

VALUES: dict[str, Any] = {
    "about": "two cells",
    "settings": {
        "model": "minilm", "init": "pretrained", "task": "movies", "seeds": 1, "epochs": 2,
        "max_steps": 3, "max_length": 128, "batch_size": 8, "weight_decay": 0.01, "warmup": 0.1,
        "learning_rates": {"full": 2e-5, "adapter": 1e-3}, "dropout": 0.1, "alpha": 16.0,
    },
    "cells": [
        {"mode": ["full"], "amp": ["off", "on"]},
        {"mode": ["lora"], "rank": [1, 8], "layers": ["attn"]},
    ],
}  # fmt: skip
RESOLVED = Resolved("minilm", "m", "mean", "d", "bf16", "grid")

VALUES_OF_TOML = st.recursive(
    st.booleans()
    | st.sampled_from([number for number in NUMBERS if number != 10**400])
    | st.sampled_from([text for text in TEXTS if "\ud800" not in text])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.-_é", max_size=4), inner)
    ),
    max_leaves=4,
)


def toml(value):
    """TOML for a value, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def document(values):
    return "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in values.items())


def parsed(text):
    return answer(lambda: gridfile.parse(text, "mine.toml", "mine"), InputError, "mine.toml: ")


def check_grid(grid):
    """Fail unless a grid can be made into cells in a moment."""
    cells = expand(grid, RESOLVED)
    assert 0 < len(cells) <= 100_000
    assert all(cell.epochs >= 1 and 0 <= cell.dropout < 1 for cell in cells)
    assert all((cell.rank is None) == (cell.layers is None) for cell in cells)


def test_the_writer_of_these_tests_writes_toml():
    grid = gridfile.parse(document(VALUES), "mine.toml", "mine")
    assert grid.settings.learning_rates.full == 2e-5
    assert len(expand(grid, RESOLVED)) == 4


@examples(100)
@given(values=changed(VALUES, VALUES_OF_TOML))
def test_a_changed_grid_is_refused_or_makes_cells(values):
    if isinstance(values, dict):
        grid = parsed(document(values))
        if grid is not None:
            check_grid(grid)


@examples(100)
@given(content=damaged(document(VALUES).encode()))
def test_a_damaged_grid_is_refused_or_makes_cells(tmp_path, content):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    grid = answer(lambda: gridfile.load(str(path)), InputError, path)
    if grid is not None:
        check_grid(grid)


def test_a_setting_of_any_other_kind_is_refused():
    valid = [("model", "''"), ("task", "''"), ("learning_rates", "{}")]
    values = ["9" * 5000, "-1", "nan", "inf", "[]", "{}", "''", "07:32:00"]
    for key, value in product((*VALUES["settings"], "max_train", "pooling", "nonsense"), values):
        text = f"[settings]\n{key} = {value}\n[[cells]]\nmode = ['full']\n"
        assert (key, value) in valid or parsed(text) is None, (key, value)


@pytest.mark.parametrize(
    "text",
    [
        "a." * 200_000 + "b = 1",
        "[" + "a . " * 200_000 + "b]",
        "x = {" + "'a'.\"b\"." * 50_000 + "c = 1}",
        "x = " + nested(100_000),
        "x = " + "{a = " * 50_000,
        "'" * 10**6,
        "[[cells]]\nmode = [" + "'full'," * 101_000 + "]",
        "[[cells]]\nmode=['lora']\nrank=[" + "1," * 4000 + "]\nlayers=[" + "'attn'," * 4000 + "]",
        "[settings]\nseeds = 10000\n[[cells]]\nmode=['full']\namp=[" + "'off'," * 11 + "]",
        "[[cells]]\nmode=['full']\n" * 10_000 + "x = 1",
    ],
    ids=lambda text: text[:20],
)
def test_a_file_made_to_keep_its_reader_busy_is_refused_soon(text):
    begun = time.process_time()
    assert parsed(text) is None
    assert time.process_time() - begun < 15


def test_a_flag_has_the_limits_of_its_setting():
    grid = gridfile.load("smoke")
    with pytest.raises(InputError) as caught:
        override(grid, {"max_train": 10**10, "model": None})
    check_line(str(caught.value), "--max-train")
    assert override(grid, {"max_train": 2}).settings.max_train == 2
    assert override(grid, {"max_train": None}) == grid


def test_a_model_that_can_not_be_is_refused():
    for name in ("x" * 5000, "a\0b", "../x", "/etc/passwd", "a/../b", "~root"):
        with pytest.raises(InputError):
            find_model(name, "pretrained", "auto")
