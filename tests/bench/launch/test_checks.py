"""What is said of data and settings before the first cell runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.common.errors import InputError
from bench.launch.checks import (
    amp_notes,
    check_amp,
    check_loss,
    idle_notes,
    label_notes,
    unfreezing_notes,
)
from bench.machine.devices import Device
from bench.machine.gpu_trial import GpuInfo
from bench.plan import gridfile
from bench.plan.cell import Cell
from bench.plan.gridfile import Settings, TaskRates
from bench.worker.setup import standard
from minbert.data.tasks import TASKS, Data, load_data
from tests.bench.synthetic_rows import cell
from tests.cs224n import relabel, write_folder


def data_of(folder: Path, task: str = "multitask", **labels: str) -> Data:
    """Made-up examples, of which some files have one label alone: `sts_dev="3.8"`."""
    for name, label in labels.items():
        part, side = name.split("_")
        write_folder(folder)
        relabel(folder / TASKS[part].files[side == "dev"], label)
    return load_data(task, folder if labels else write_folder(folder))


def full(**settings: Any) -> Cell:
    return cell("full", None, None, "off", **settings)


# Labels


def test_of_labels_that_differ_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert label_notes(data_of(tmp_path)) == []


@pytest.mark.parametrize(
    ("name", "label", "start"),
    [
        ("sst_train", "3", "sst: all 24 training labels are 3 (positive), so there is nothing to"),
        ("sst_dev", "0", "sst: all 12 dev labels are 0 (very negative), so its accuracy is of one"),
        ("quora_train", "1", "quora: all 24 training labels are 1 (duplicate), so there is no"),
        ("quora_dev", "0", "quora: all 12 dev labels are 0 (different), so its accuracy is of one"),
        ("sts_train", "3.8", "sts: all 24 training labels are 3.8, so there is nothing to learn"),
        ("sts_dev", "3.8", "sts: all 12 dev labels are 3.8, which have no correlation, so there"),
    ],
)
@pytest.mark.parametrize("alone", [False, True])
def test_labels_that_are_all_the_same_are_told(
    tmp_path: Path, name: str, label: str, start: str, alone: bool
) -> None:
    task = name.partition("_")[0] if alone else "multitask"
    (line,) = label_notes(data_of(tmp_path, task, **{name: label}))
    assert line.startswith(start)


def test_one_example_is_no_correlation(tmp_path: Path) -> None:
    (line,) = label_notes(load_data("sts", write_folder(tmp_path), max_dev=1))
    assert line.startswith("sts: all 1 dev labels are ")


# 1 − r as a loss


PEARSON = Settings(regression_loss="pearson")


def learning(*sizes: int, loss: str | None = "pearson") -> list[Cell]:
    """Cells with some batch sizes that learn numbers, or with loss None classes alone."""
    return [full(batch_size=size, regression_loss=loss) for size in sizes]


def test_a_loss_of_numbers_goes_with_numbers(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    check_loss([Settings()], learning(1, loss="mse"), data)
    check_loss([PEARSON], learning(2), data)
    with pytest.raises(InputError, match="regression_loss pearson: task sst has classes; leave it"):
        check_loss([PEARSON], learning(64, loss=None), load_data("sst", tmp_path))


@pytest.mark.parametrize("task", ["sts", "multitask"])
def test_a_batch_of_one_has_no_correlation(tmp_path: Path, task: str) -> None:
    with pytest.raises(InputError, match="a batch of 1 example has no correlation; take batches"):
        check_loss([PEARSON], learning(64, 1), data_of(tmp_path, task))


def test_of_several_losses_each_is_held_to_its_own_cells(tmp_path: Path) -> None:
    data, several = data_of(tmp_path), [Settings(), PEARSON]
    check_loss(several, [*learning(1, loss="mse"), *learning(64)], data)
    with pytest.raises(InputError, match="a batch of 1 example"):
        check_loss(several, [*learning(64, loss="mse"), *learning(1)], data)


def test_of_parts_of_classes_a_batch_of_one_is_a_batch(tmp_path: Path) -> None:
    write_folder(tmp_path, ("sst", "quora"))
    check_loss([PEARSON], learning(1, loss=None), load_data("multitask", tmp_path))


@pytest.mark.parametrize("task", ["sts", "multitask"])
def test_training_labels_that_are_all_the_same_have_no_correlation(
    tmp_path: Path, task: str
) -> None:
    data = data_of(tmp_path, task, sts_train="3.8")
    check_loss([Settings()], learning(64, loss="mse"), data)
    message = (
        "regression_loss pearson: sts: all 24 training labels are 3.8, which have no correlation"
    )
    with pytest.raises(InputError, match=message):
        check_loss([PEARSON], learning(64), data)


def test_one_class_hinders_no_correlation_of_another_part(tmp_path: Path) -> None:
    check_loss([PEARSON], learning(64), data_of(tmp_path, sst_train="3"))


@pytest.mark.parametrize("count", [1, 3, 7, 24])
@pytest.mark.parametrize("value", [0.1, 0.7, 3.8])
def test_equal_targets_are_0(count: int, value: float) -> None:
    """The standard deviation of 0.1 three times over is 1e-17, and nothing to divide by."""
    assert standard(np.full(count, value)) == (value, 1.0)


def test_others_have_their_mean_and_deviation() -> None:
    labels = np.array([1.0, 2.0, 6.0])
    assert standard(labels) == (labels.mean(), labels.std())


# Settings without effect


def test_settings_of_parts_are_told_where_there_are_none(tmp_path: Path) -> None:
    data = data_of(tmp_path, "sst")
    assert idle_notes([Settings()], [], data) == []
    settings = Settings(encoders=2, task_rates=TaskRates(sst=4.0))
    assert idle_notes([Settings(), settings, settings], [], data) == [
        "without effect on task sst: encoders, task_rates"
    ]
    final = gridfile.load("paper-final").variants
    assert idle_notes(final, [], data_of(tmp_path)) == []


def test_a_second_encoder_or_a_loss_that_no_part_needs_is_told(tmp_path: Path) -> None:
    pairs = load_data("multitask", write_folder(tmp_path / "pairs", ("quora", "sts")))
    (line,) = idle_notes([Settings(encoders=2)], [], pairs)
    assert line == "encoders 2: there is one, as of quora, sts"
    classes = load_data("multitask", write_folder(tmp_path / "classes", ("sst", "quora")))
    (line,) = idle_notes([Settings(encoders=2, regression_loss="pearson")], [], classes)
    assert line == "regression_loss pearson: no part of the data has it"


# AMP


A100 = Device("cuda:0", GpuInfo("NVIDIA A100", "580", (8, 0), "GPU-0"))
T4 = Device("cuda:0", GpuInfo("Tesla T4", "580", (7, 5), "GPU-1"))


@pytest.mark.parametrize(
    ("device", "amp", "message"),
    [
        (Device(), "fp16", "amp fp16 needs a GPU; on the CPU take bf16 or on"),
        (Device(), "bf16", None),
        (T4, "bf16", None),
        (replace(T4, failures={"bf16": "not supported"}), "fp16", None),
        (
            replace(T4, failures={"bf16": "not supported"}),
            "bf16",
            "Tesla T4 can't compute",
        ),
    ],
)
def test_amp_that_a_device_has_not_is_refused(
    device: Device, amp: str, message: str | None
) -> None:
    cells = [cell("full", None, None, "off"), cell("full", None, None, amp)]
    grid = gridfile.load("smoke")
    if message is None:
        check_amp(cells, grid, device)
        return
    with pytest.raises(InputError, match=f"grid smoke: {message}"):
        check_amp(cells, grid, device)


@pytest.mark.parametrize(
    ("device", "amp", "notes"),
    [(T4, "bf16", 1), (T4, "fp16", 0), (T4, "off", 0), (A100, "bf16", 0), (Device(), "bf16", 0)],
)
def test_bf16_that_is_emulated_is_told(device: Device, amp: str, notes: int) -> None:
    lines = amp_notes([cell("full", None, None, amp)], device)
    assert len(lines) == notes
    assert all("Tesla T4 has no bf16 units" in note for note in lines)


# Unfreezing


@pytest.mark.parametrize(
    ("epochs", "max_steps", "ends"),
    [
        (1, None, "epoch 1: 0"), (2, None, "epoch 2: 3"), (4, None, "epoch 4: 9"),
        (5, None, None), (7, None, None),
        # 24 examples in batches of 8: 3 steps an epoch
        (7, 3, "epoch 1: 0"), (7, 4, "epoch 2: 3"), (7, 12, "epoch 4: 9"), (7, 13, None),
        (2, 100, "epoch 2: 3"),
    ],
)  # fmt: skip
def test_training_that_ends_before_all_layers_train_is_told(
    tmp_path: Path, epochs: int, max_steps: int | None, ends: str | None
) -> None:
    data = data_of(tmp_path, "sst")
    settings = {"epochs": epochs, "max_steps": max_steps, "batch_size": 8}
    notes = unfreezing_notes([full(unfreeze="iterative", **settings)], data, 12)
    assert unfreezing_notes([full(**settings)], data, 12) == []
    note = f"unfreezing ends in epoch 5, and training in {ends} of 12 layers train, and no "
    note += "embeddings"
    assert notes == ([] if ends is None else [note])


@pytest.mark.parametrize(
    ("layers", "epochs", "trained"),
    [(6, 2, 2), (6, 3, 3), (6, 4, 4), (2, 2, 0), (2, 3, 1), (2, 4, 2), (1, 4, 1)],
)
def test_the_layers_told_are_those_that_train(
    tmp_path: Path, layers: int, epochs: int, trained: int
) -> None:
    """Where the number of layers is not a multiple of 4: of the six of minilm 2, 3 and 4."""
    cells = [full(unfreeze="iterative", epochs=epochs)]
    (line,) = unfreezing_notes(cells, data_of(tmp_path, "sst"), layers)
    assert f"training in epoch {epochs}: {trained} of {layers} layers train" in line


def test_steps_are_those_of_all_parts_without_what_is_held_out(tmp_path: Path) -> None:
    """Of 24 examples of each part 12 are trained on, in two batches of 8: 6 steps an epoch."""
    of = full(unfreeze="iterative", epochs=7, batch_size=8, held_out=0.5, max_steps=24)
    (line,) = unfreezing_notes([of], data_of(tmp_path), 6)
    assert "training in epoch 4: 4 of 6 layers" in line


def test_of_several_cells_the_one_that_ends_first_is_told(tmp_path: Path) -> None:
    sizes = [full(unfreeze="iterative", epochs=7, max_steps=6, batch_size=n) for n in (1, 8)]
    (line,) = unfreezing_notes(sizes, data_of(tmp_path, "sst"), 6)
    assert "training in epoch 1: 0 of 6 layers" in line
