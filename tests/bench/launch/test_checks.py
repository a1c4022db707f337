"""What is said of data and settings before the first cell runs."""

import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bench.common.errors import InputError
from bench.launch import checks
from bench.machine.devices import Device
from bench.machine.gpu_trial import GpuInfo
from bench.plan import gridfile
from bench.plan.gridfile import Rates, Settings, TaskRates
from bench.plan.learning_rates import origin_of, rates_of
from bench.plan.models import Model
from bench.plan.planning import Planned
from bench.worker.setup import standard
from minbert.data.tasks import TASKS, Examples, Task, TaskData, load_data
from minbert.data.words import padded
from minbert.model.config import GEOMETRIES
from tests.bench.synthetic_rows import cell
from tests.cs224n import relabel, write_folder

TOPICS = Task("topics", classes=("a", "b"), problem_name="multi_label")
SEVERAL = Examples(("one", "two"), None, np.ones((2, 2), dtype=np.int8))
SENTENCE = Examples(("one two",), None, padded([[0, 1]]))
TAGGED = TaskData(Task("names", ("O", "B-a", "I-a")), SENTENCE, SENTENCE)


def data_of(folder, task="multitask", **labels):
    """Made-up examples, of which some files have one label alone: `sts_dev="3.8"`."""
    for name, label in labels.items():
        part, side = name.split("_")
        write_folder(folder)
        relabel(folder / TASKS[part].files[side == "dev"], label)
    return load_data(task, folder if labels else write_folder(folder))


def full(**settings):
    return cell("full", None, None, "off", **settings)


TWO = [full(), full(seed=1)]


@pytest.mark.parametrize(("task", "name", "label", "line"), [
    ("multitask", "sts_dev", "3.8", "sts: all dev labels are 3.8"),
    ("quora", "quora_train", "1", "quora: all training labels are 1"),
])  # fmt: skip
def test_labels_that_are_all_the_same_are_reported(tmp_path, task, name, label, line):
    assert checks.label_notes(data_of(tmp_path / "equal", task, **{name: label})) == [line]
    assert checks.label_notes(data_of(tmp_path / "usual", task)) == []
    assert checks.label_notes(TaskData(TOPICS, SEVERAL, SEVERAL)) == []


def learning(*sizes, loss="pearson"):
    """Cells with some batch sizes that learn numbers, or with loss None classes alone."""
    return [full(batch_size=size, regression_loss=loss) for size in sizes]


def test_a_correlation_is_the_loss_of_numbers_that_differ_in_batches_of_two(tmp_path):
    variants = [Settings(), Settings(regression_loss="pearson")]
    whole = data_of(tmp_path / "whole")
    checks.check_loss(variants, [*learning(1, loss="mse"), *learning(2)], whole)
    write_folder(tmp_path / "classes", ("sst", "quora"))
    classes = load_data("multitask", tmp_path / "classes")
    checks.check_loss(variants, learning(1, loss=None), classes)
    checks.check_loss(variants, learning(64), data_of(tmp_path / "one", sst_train="3"))
    equal = data_of(tmp_path / "equal", sts_train="3.8")
    checks.check_loss(variants, learning(64, loss="mse"), equal)
    for cells, data, line in (
        (learning(64, loss=None), data_of(tmp_path, "sst"), "task sst has classes; leave it"),
        (learning(64, 1), whole, "a batch of 1 example has no correlation; take batches"),
        (learning(64), equal, "all training labels of sts are the"),
    ):
        with pytest.raises(InputError, match=f"regression_loss pearson: {line}"):
            checks.check_loss(variants, cells, data)
    # the standard deviation of 0.1 three times over is 1e-17, and nothing to divide by
    assert standard(np.full(3, 0.1)) == (0.1, 1.0)
    labels = np.array([1.0, 2.0, 6.0])
    assert standard(labels) == (labels.mean(), labels.std())


def test_settings_without_effect_are_reported_and_those_of_classes_refused(tmp_path):
    data = data_of(tmp_path, "sst")
    assert checks.idle_notes([Settings()], data) == []
    settings = Settings(encoders=2, task_rates=TaskRates(sst=4.0), regression_loss="pearson")
    line = "without effect on task sst: encoders, task_rates, regression_loss"
    assert checks.idle_notes([Settings(), settings, settings], data) == [line]
    assert checks.idle_notes(gridfile.load("paper-final").variants, data_of(tmp_path)) == []
    variants = [Settings(), Settings(label_smoothing=0.1, class_weights="balanced")]
    weighted = [Settings(class_weights="balanced")]
    topics, numbers = TaskData(TOPICS, SEVERAL, SEVERAL), data_of(tmp_path, "sts")
    only = "it is for classes, and task"
    for refused, data, line in (
        (variants, numbers, f"label_smoothing 0.1: {only} sts has numbers; leave it out$"),
        (weighted, topics, f"class_weights balanced: {only} topics has several labels for a"),
    ):
        with pytest.raises(InputError, match=f"^{line}"):
            checks.check_class_settings(refused, data)
    checks.check_class_settings(variants, load_data("multitask", tmp_path))
    checks.check_class_settings([Settings()], numbers)


A100 = Device("cuda:0", GpuInfo("NVIDIA A100", "580", (8, 0), "GPU-0"))
T4 = Device("cuda:0", GpuInfo("Tesla T4", "580", (7, 5), "GPU-1"))
BROKEN_T4 = replace(T4, failures={"bf16": "not supported"})


@pytest.mark.parametrize(("device", "settings", "message", "notes"), [
    (Device(), {"amp": "fp16"}, "amp fp16 needs a GPU; on the CPU take bf16 or on", 0),
    (Device(), {"amp": "bf16"}, "", 0),
    (BROKEN_T4, {"amp": "fp16"}, "", 0),
    (BROKEN_T4, {"amp": "bf16"}, "Tesla T4 can't compute in amp bf16 ", 1),
    (Device(), {"tf32": "on"}, "tf32 needs a GPU .* and the CPU is none", 0),
    (T4, {"tf32": "on"}, "tf32 needs a GPU .* and Tesla T4 is none", 0),
    (A100, {"tf32": "on", "amp": "bf16"}, "", 0),
])  # fmt: skip
def test_types_that_a_device_has_not_are_refused_or_noted(device, settings, message, notes):
    cells = [full(), cell("full", None, None, **{"amp": "off"} | settings)]
    with pytest.raises(InputError, match=f"grid smoke: {message}") if message else nullcontext():
        checks.check_amp(cells, gridfile.load("smoke"), device)
    lines = checks.amp_notes(cells, device)
    assert len(lines) == notes
    assert all("Tesla T4 has no bf16 units" in note for note in lines)


@pytest.mark.parametrize(("layers", "epochs", "trained"), [(12, 1, 0), (6, 3, 3), (2, 2, 0)])
def test_training_that_ends_before_all_layers_train_is_reported(layers, epochs, trained):
    """Also where the number of layers is not a multiple of 4."""
    cells = [full(unfreeze="iterative", epochs=number) for number in (epochs, 7)]
    assert checks.unfreezing_notes(cells, layers) == [
        f"unfreezing ends in epoch 5, and training in epoch {epochs}: {trained} of {layers} layers "
        "train, and no embeddings"
    ]
    assert (
        checks.unfreezing_notes([full(epochs=1), full(unfreeze="iterative", epochs=5)], layers)
        == []
    )


def test_default_rates_are_noted_where_they_were_not_measured():
    rates = rates_of(Rates(), "lora", "all-lin-only", 32)
    usual = replace(cell("lora", 64, "all-lin-only", "off"), alpha=16.0, **rates)
    assert origin_of(usual) == "default"
    assert checks.rate_notes([usual, replace(usual, alpha=8.0)]) == []
    for other in (replace(usual, use_rslora="on"), replace(usual, alpha=128.0)):
        (line,) = checks.rate_notes([usual, other])
        assert "measured at alpha 16 without rsLoRA" in line
        assert checks.rate_notes([replace(other, learning_rate=1e-4)]) == []


def test_windows_are_over_texts_whose_words_have_tags_and_have_room():
    windows = full(max_length=16, window_stride=13)
    checks.check_words([full(), windows], TAGGED)
    wide = replace(windows, window_stride=14)
    room = "a window of max_length 16 has room for at most 13 tokens of the one"
    words = "windows are over texts whose words have tags, and task topics has none"
    for cells, data, line in (
        ([windows, wide], TAGGED, f"14: {room}"),
        ([windows], TaskData(TOPICS, SEVERAL, SEVERAL), f"13: {words}"),
    ):
        with pytest.raises(InputError, match=f"window_stride {line}"):
            checks.check_words(cells, data)


@pytest.mark.parametrize(("together", "line"), [
    ({"early_stopping": 2, "unfreeze": "iterative"}, "early_stopping: with unfreeze iterative"),
    ({"compile": "on", "gradient_checkpointing": "on"}, "compile: the compiler itself chooses"),
    ({"compile": "on", "contrastive": 0.5}, "compile: .*vectors before the head"),
    ({"compile": "on", "unfreeze": "iterative"}, "compile: .*unfreeze iterative.*leave"),
    ({"compile": "on", "encoders": 1, "task": "multitask"}, "compile: .*task multitask.*leave"),
    (
        {"gradient_accumulation_steps": 2, "task": "multitask"},
        "gradient_accumulation_steps: a step of task multitask",
    ),
])  # fmt: skip
def test_what_does_not_go_together_in_a_cell_is_refused(together, line):
    checks.check_cells([full(**{name: value}) for name, value in together.items()])
    with pytest.raises(InputError, match=f"^{line}"):
        checks.check_cells([full(), full(**together)])
    lora = cell("lora", 4, "query+value", "off")
    options = {"label_smoothing": 0.1, "class_weights": "balanced", "layer_decay": 0.9}
    checks.check_cells([
        lora, replace(lora, layers="all-lin"), replace(lora, layers="q_lin", engine="transformers"),
        full(compile="on", early_stopping=2, lora_plus_ratio=4.0, **options),
    ])  # fmt: skip


@pytest.mark.parametrize(("settings", "cells", "amps", "line"), [
    ({"folds": 3}, TWO, {"bf16"}, "its rounds have folds and seeds of their own"),
    ({"seeds": 2}, TWO, {"bf16"}, "its rounds have folds and seeds of their own"),
    ({"repeats": 2}, TWO, {"bf16"}, "its rounds have folds and seeds of their own"),
    ({}, TWO[:1], {"bf16"}, "full-fp32-s0 would race alone"),
    ({}, [full(), full(batch_size=8)], {"bf16"}, "its settings differ in batch_size, in which"),
    ({"init": "random"}, TWO, {"bf16"}, "random weights have no scores"),
    ({}, TWO, {"fp16", "bf16"}, "amp on is bf16 and fp16 on these devices"),
])  # fmt: skip
def test_what_can_not_race_is_refused(settings, cells, amps, line):
    checks.check_race(Settings(), TWO, {"bf16"})
    with pytest.raises(InputError, match=f"--race: {line}"):
        checks.check_race(Settings(**settings), cells, amps)


def test_trainings_with_few_steps_are_noted():
    for steps, examples, settings in (
        (8, 100, {}), (48, 768, {}), (None, 769, {}), (None, 100, {"max_steps": 8}),
        (4, 100, {"gradient_accumulation_steps": 2}),
    ):  # fmt: skip
        [note] = checks.few_steps_notes([full(**settings)], examples) or ["none"]
        has = "none" if steps is None else f"a training has only {steps} steps, in which"
        assert note.startswith(has), (examples, settings)
    assert note.endswith("; --epochs 50 gives it 100")


def test_early_stopping_holds_out_a_tenth_and_says_so(tmp_path):
    stopping = Settings(early_stopping=2)
    assert stopping.share_held_out == 0.1
    line = "early_stopping holds out 10% of the training examples (held_out 0.1)"
    assert checks.early_stopping_notes(stopping) == [line]
    for settings in (Settings(), Settings(held_out=0.2), Settings(early_stopping=2, held_out=0.2)):
        assert settings.share_held_out == settings.held_out
        assert checks.early_stopping_notes(settings) == []
    data = data_of(tmp_path, "sst")
    checks.check_held_out(0.1, data)
    with pytest.raises(InputError, match=r"held_out 0.01 of 24 training examples is none"):
        checks.check_held_out(0.01, data)


LORA = cell("lora", 8, "attn-only", "off")
STEPS = cell("lora", 8, "attn", "off", epochs=4, batch_size=16)


@pytest.mark.parametrize(("of", "count", "examples", "keep", "mib"), [
    (full(), 3, 0, False, 64), (full(), 3, 0, True, 64 + 3 * 88),
    (LORA, 3, 0, False, 64 + 3 * 4), (LORA, 1000, 0, False, 64 + 125 + 1024),
    (STEPS, 8, 2**20, False, 64 + 1 + 8 * 4 * 4),
    (replace(STEPS, max_steps=2**14), 8, 2**20, False, 64 + 1 + 8 * 1),
])  # fmt: skip
def test_the_disk_has_to_hold_the_weights(tmp_path, monkeypatch, of, count, examples, keep, mib):
    """minilm's 22.7 million parameters take 87 MiB; by default there is a cap of 1 GiB."""
    planned = [Planned(replace(of, seed=seed), "run", "", 1) for seed in range(count)]
    model = Model("minilm", "0", "mean", GEOMETRIES["minilm"], tmp_path, None, tmp_path)
    arguments = (tmp_path / "runs.csv", planned, {of.model: model}, examples, keep)
    free = 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free * 2**20))
    with pytest.raises(InputError, match=rf"0 MiB are free, and {count} cells may need") as raised:
        checks.check_space(*arguments)
    free = int(re.findall(r"need (\d+) MiB", str(raised.value))[0])
    assert abs(free - mib) <= 4
    checks.check_space(*arguments)
