"""Columns of a row of a real worker, against what the test works out itself, and wrong values."""

import json
import os
import platform
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from safetensors.numpy import load_file

from bench.forecast.forecast import Prediction
from bench.machine.conditions import MEASUREMENT_VERSION
from bench.machine.version import code_version
from bench.plan.job import Job
from bench.plan.models import find_model
from bench.plan.rows import SCHEMA, Row
from minbert.data.tasks import load_task
from minbert.data.tokenizer import Tokenizer
from minbert.training.losses import mean_loss
from tests.bench.column_checks import held_by, refuses_wrong_values
from tests.bench.conftest import narrow
from tests.bench.grids import GridRuns
from tests.bench.tiny_cells import csv_rows
from tests.cs224n import relabel, write_folder
from tests.experiments.faults.parent import stub_report

AXES = {"mode": "lora", "rank": 2, "layers": "all-lin", "amp": "bf16", "unfreeze": "iterative"}
SETTINGS = {
    "task": "sst", "epochs": 5, "max_steps": 28, "max_train": 60, "max_dev": 25, "held_out": 0.2,
    "max_length": 9, "batch_size": 8, "batching": "shuffled", "pooling": "mean",
    "head": "nonlinear", "optimizer": "adamax", "schedule": "halving", "label_smoothing": 0.1,
    "class_weights": "balanced", "layer_decay": 0.9, "lora_plus_ratio": 4.0,
    "weight_decay": 0.05, "warmup": 0.25, "scale": 0.5, "dropout": 0.2,
}  # fmt: skip
GRID = [
    "[settings]", "seeds = 2", "learning_rates = { adapter = 2e-3, base = 1e-4, head = 5e-3 }",
    *(f"{name} = {json.dumps(value)}" for name, value in SETTINGS.items()),
    "[[cells]]", *(f"{name} = [{json.dumps(value)}]" for name, value in AXES.items()),
]  # fmt: skip
STEPS_OF_EPOCH, LAST_STEPS = 6, 4
"""60 examples, of which 12 are held out, in batches of 8."""
FORETOLD = Prediction(predicted_peak_mib=321.5, predicted_s=45.25, flops_per_token=1.5e6)
WALL_S = 3600.5


@cache
def examples(data):
    return load_task("sst", data, max_train=60, max_dev=25)


@dataclass(frozen=True)
class Ran:
    row: Row
    folder: Path
    data: Path
    checkpoint: Path
    time: tuple[datetime, datetime]

    def lines(self, name):
        rows = csv_rows(self.folder / name)
        return [{name: float(value) for name, value in row.items()} for row in rows]

    def predictions(self):
        return load_file(self.folder / "predictions.safetensors")


@pytest.fixture(scope="module")
def ran(tmp_path_factory, minilm):
    """One cell by the grid command, with stubs of the processes that count and of the report."""
    checkpoint = narrow(4, tmp_path_factory.mktemp("checkpoints") / "lively", minilm, spread=0.3)
    place = GridRuns(tmp_path_factory.mktemp("columns") / "place", checkpoint)
    data = write_folder(place.folder / "data", ("sst",), count=70)
    for line in range(2, 30):
        relabel(data / "ids-sst-train.csv", "3", line)
    for line in range(2, 15):
        relabel(data / "ids-sst-dev.csv", "1", line)
    (place.folder / "mine.toml").write_text("\n".join(GRID))
    forecast = SimpleNamespace(predict=lambda _: FORETOLD, learn=id, time_s=lambda _: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "bench.report.render", SimpleNamespace(render=stub_report))
        patch.setattr("bench.grid.cells.forecast_plan", lambda *_, **__: forecast)
        patch.setattr("bench.machine.conditions._threads", lambda *_: 1)
        clock = iter([1000.0, 1000.0 + WALL_S])
        patch.setattr("bench.launch.runner.time", SimpleNamespace(monotonic=clock.__next__))
        begun = datetime.now(UTC).replace(microsecond=0)
        options = ("--data", str(data), "--select", "seed=1")
        place.finish(*options, forecast=True, file="mine.toml")
    (row,) = place.rows()
    (folder,) = (place.folder / "runs").glob("*/steps.csv")
    return Ran(row, folder.parent, data, checkpoint, (begun, datetime.now(UTC)))


def test_a_row_says_how_it_was_planned(ran):
    row = ran.row
    assert (row["schema"], row["grid"], row["attempt"]) == (SCHEMA, "mine", 1)
    assert (row["status"], row["message"]) == ("ok", None)
    named = f"{row['cell_id']}-{row['conditions_id']}-1"
    assert ran.folder.name.endswith(f"lora-r2-all-lin-iterative-bf16-s1-{named}")


def test_settings_are_those_of_the_grid_file(ran):
    expected = AXES | SETTINGS | {
        "seed": 1, "model": ran.checkpoint.name, "init": "pretrained", "frozen_dtype": "fp32",
        "model_digest": find_model(str(ran.checkpoint), "pretrained", "mean").digest,
        "data_digest": examples(ran.data).digest[:16], "alpha": 1.0, "learning_rate": 2e-3,
        "learning_rate_base": 1e-4, "learning_rate_head": 5e-3,
    }  # fmt: skip
    names = re.findall(
        r"\w+",
        "mode rank layers unfreeze amp seed model model_digest init pooling head task data_digest "
        "max_train max_dev held_out max_length batching batch_size epochs max_steps optimizer "
        "schedule learning_rate learning_rate_base learning_rate_head weight_decay warmup alpha "
        "scale dropout frozen_dtype label_smoothing class_weights layer_decay lora_plus_ratio",
    )
    assert {name: ran.row[name] for name in names} == expected


def test_what_ran_is_what_the_settings_say(ran):
    steps, kept = ran.lines("steps.csv"), ran.predictions()
    assert len(steps) == 28
    assert ran.row["epochs_run"] == len(ran.lines("epochs.csv")) == 5
    assert {step["examples"] for step in steps} == {8}
    assert max(step["padded"] for step in steps) == 8 * 9
    assert (len(kept["labels"]), len(kept["held_labels"])) == (25, 12)


def test_conditions_are_those_of_this_machine(ran):
    row, info = ran.row, Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:(.*)", info.read_text() if info.exists() else "")
    processor = " ".join(named[1].split()) if named else platform.processor() or platform.machine()
    gib = round(psutil.virtual_memory().total / 2**30)
    assert (row["device"], row["device_name"]) == ("cpu", processor)
    assert row["machine"] == f"{processor}, {os.cpu_count()} cores, {gib} GiB"
    assert row["threads"] == Job.read(ran.folder).threads == 1
    assert row["torch_version"] == torch.__version__
    assert row["measurement_version"] == MEASUREMENT_VERSION
    assert row["code_version"] == code_version()


def sizes_of(checkpoint):
    """Parameters without a pooler, and those that train: all but what is under adapters."""
    linear = re.compile(r"layer\.\d\.(attention\.(self|output)|intermediate|output)\.(?!LayerNorm)")
    adapters = 4 * 2 * (4 * (32 + 32) + 2 * (32 + 64))
    total, under = adapters + 32 * 32 + 32 + 32 * 5 + 5, 0
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        if name.startswith("bert.") and "pooler" not in name:
            total += tensor.size
            under += tensor.size if linear.search(name) else 0
    return total, total - under


def test_sizes_are_counted(ran):
    total, trainable = sizes_of(ran.checkpoint)
    assert 0 < trainable < total
    assert (ran.row["params_total"], ran.row["params_trainable"]) == (total, trainable)
    assert ran.row["saved_mib"] == pytest.approx(4 * trainable / 2**20)


def test_tokens_are_the_real_ones_of_each_epochs_examples(ran):
    texts = examples(ran.data).train.text_a
    lengths = Tokenizer.from_folder(ran.checkpoint).encode(texts, None, 9).lengths
    lengths[ran.predictions()["held_indices"]] = 0
    tokens = [step["tokens"] for step in ran.lines("steps.csv")]
    for epoch in range(4):
        assert sum(tokens[epoch * STEPS_OF_EPOCH :][:STEPS_OF_EPOCH]) == lengths.sum()
    assert ran.row["tokens_total"] == 4 * lengths.sum() + sum(tokens[-LAST_STEPS:])


def test_memory_is_that_of_parameters_gradients_and_state(ran):
    """Of fp32 numbers, two of state for each that trains."""
    total, trainable = sizes_of(ran.checkpoint)
    mib = [4 * numbers / 2**20 for numbers in (total, trainable, 2 * trainable)]
    names = ("weights_mib", "gradients_mib", "optimizer_mib")
    assert [ran.row[name] for name in names] == pytest.approx(mib, abs=2e-3)


def test_what_was_foretold_is_in_the_row(ran):
    assert ran.row["flops_per_token"] == FORETOLD.flops_per_token
    assert (ran.row["predicted_s"], ran.row["predicted_peak_mib"]) == (45.25, 321.5)


def test_the_whole_takes_from_launch_to_the_end(ran):
    """On the clock that the fixture gives the runner."""
    row = ran.row
    assert row["wall_s"] == WALL_S
    assert utc(ran.time[0]) <= str(row["started_at"]) <= utc(ran.time[1])
    begun = datetime.fromisoformat(str(row["started_at"]))
    assert row["finished_at"] in {utc(begun + timedelta(seconds=WALL_S + n)) for n in (0, 0.5)}


def utc(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_scores_are_those_of_the_predictions(ran):
    row, kept = ran.row, ran.predictions()
    first, *_, last = (epoch["dev_score"] for epoch in ran.lines("epochs.csv"))
    assert first != last
    np.testing.assert_array_equal(kept["labels"], examples(ran.data).dev.labels)
    assert row["dev_metric"] == "accuracy"
    right = (kept["logits"].argmax(axis=1) == kept["labels"]).mean()
    assert row["dev_score"] == row["dev_accuracy"] == pytest.approx(right)
    splits = (examples(ran.data).train, examples(ran.data).dev)
    most, of_dev = (np.bincount(split.labels).argmax() for split in splits)
    assert most == 3 != of_dev
    assert row["majority_score"] == pytest.approx((kept["labels"] == most).mean())


def test_losses_are_those_of_the_last_epoch(ran):
    logits, labels = (ran.predictions()[name] for name in ("logits", "labels"))
    expected = mean_loss("cross-entropy", logits, labels)
    assert ran.row["dev_loss"] == pytest.approx(expected, rel=1e-5)
    losses = [step["loss"] for step in ran.lines("steps.csv")]
    assert ran.row["train_loss"] == pytest.approx(np.mean(losses[-LAST_STEPS:]), rel=1e-5)


@pytest.mark.parametrize("name", sorted({*held_by(__file__)} - {"scale"}))  # it follows from others
def test_a_wrong_value_fails_its_check(name, ran):
    refuses_wrong_values(name, globals(), ran)
