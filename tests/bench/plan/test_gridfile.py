"""Grid files: what they may say, and one line on what they may not."""

import os
import tomllib
from pathlib import Path

import pytest

from bench.common.errors import InputError
from bench.launch import checks
from bench.plan import gridfile
from bench.plan.cell import ABOUT
from bench.plan.gridfile import _one_line
from minbert.data.batches import BATCHINGS
from minbert.kernels.reference import KERNELS
from minbert.model.heads import HEADS
from minbert.training.losses import MSE, REGRESSION
from minbert.training.optimizer import OPTIMIZERS
from minbert.training.schedules import SCHEDULES

GOOD = """
about = "two cells"
[settings]
epochs = 2
learning_rates = {full = 2e-5}
[[cells]]
mode = ["full"]
amp = ["off", "on"]
"""


def test_names_that_planning_has_without_torch_are_those_of_minbert():
    for name, known in (
        ("head", HEADS), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES),
        ("regression_loss", REGRESSION), ("kernels", KERNELS), ("batching", BATCHINGS),
    ):  # fmt: skip
        assert ABOUT[name].values == tuple(known), name
    assert checks.MSE == MSE


def test_a_copied_and_changed_grid_loads(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    grid = gridfile.load(str(path))
    assert (grid.name, grid.settings.epochs) == ("mine", 2)
    rates = grid.settings.learning_rates
    assert (rates.full, rates.adapter) == (2e-5, 2e-3)
    assert [axes.amp for axes in grid.cells] == [["off", "on"]]


def test_named_grids_load():
    for name in gridfile.names():
        assert gridfile.load(name).name == name
    with pytest.raises(InputError, match="full, paper, paper-final, quick, smoke"):
        gridfile.load("huge")


REFUSED = tomllib.loads(Path(__file__).with_name("refused.toml").read_text("utf-8"))["refused"]


@pytest.mark.parametrize("one", REFUSED, ids=lambda one: one["line"])
def test_a_typo_is_one_line_that_says_where(one):
    with pytest.raises(InputError) as caught:
        gridfile.parse(one["grid"], "mine.toml", "mine")
    message = str(caught.value)
    assert message.startswith("mine.toml: ")
    assert one["line"] in message
    assert "\n" not in message


def test_a_reason_is_one_line_of_at_most_300_characters_that_can_be_seen():
    assert _one_line("a\n  b\tc\x1b[1m") == r"a b c\x1b[1m"
    assert _one_line("é" * 301) == "é" * 300


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        gridfile.load(str(tmp_path / "none.toml"))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        gridfile.load(str(binary))
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(InputError, match="pipe"):
        gridfile.load(str(tmp_path / "pipe.toml"))
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (2 << 20))
    with pytest.raises(InputError, match="larger than 1 MiB"):
        gridfile.load(str(large))


VARIED = """
[settings]
batch_size = 32
dropout = 0.2
[[cells]]
mode = ["full"]
[[cells]]
mode = ["full"]
settings = { head = "conv", task_rates = { sst = 2.0 } }
[[cells]]
mode = ["head"]
"""


def test_a_table_of_cells_can_have_settings_of_its_own():
    grid = gridfile.with_settings(gridfile.parse(VARIED, "mine.toml", "mine"), {"epochs": 7})
    plain, own, same = (grid.settings_of(axes) for axes in grid.cells)
    assert plain == same == grid.settings
    assert (own.head, own.task_rates.sst, own.task_rates.quora) == ("conv", 2.0, 1.0)
    assert (own.batch_size, own.dropout, own.epochs) == (32, 0.2, 7)
    assert grid.variants == [plain, own]


def test_what_cells_can_vary_changes_neither_data_nor_model():
    assert not {"model", "init", "task", "seeds", "max_train"} & gridfile.Varied.model_fields.keys()
    assert gridfile.Varied.model_fields.keys() < gridfile.Settings.model_fields.keys()
