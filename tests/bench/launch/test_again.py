"""Attempts at cells on other devices, and cells that real workers train again."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.common.errors import DiskFullError, InputError, StoppedError
from bench.launch.again import train_again
from bench.launch.attempt import Attempt
from bench.launch.signals import Signals
from bench.machine.conditions import find_conditions
from bench.machine.devices import Device
from bench.machine.gpu_trial import GpuInfo
from bench.plan.job import Job
from bench.results.predictions import read_folder
from bench.worker.weights import load_trained
from minbert.data.tasks import TaskData, load_task
from tests.bench.grids import workers_here
from tests.bench.tiny_cells import EXAMPLES, cell, job_of
from tests.bench.workloads import workload
from tests.experiments.faults.setups import setup

NAME = "export-x"


@pytest.fixture
def job(tiny_checkpoint):
    of = cell(tiny_checkpoint, "lora", "attn-only", max_steps=2)
    return replace(job_of(of, tiny_checkpoint), keep=True, attempt=3, repeat=2)


def again(folder, job, data=None, *, stops=0):
    with Signals() as signals, workers_here() if not stops else nullcontext():
        signals.stops = stops
        here = find_conditions("cpu")
        return train_again(folder / "runs.csv", job, NAME, target=here, signals=signals, data=data)


def test_the_same_training_runs_once_on_the_examples_that_are_given(job, tmp_path, monkeypatch):
    """First on those of its cell, then on dev too; its own dev examples stay."""
    folder = again(tmp_path, job)
    assert folder == tmp_path / "runs" / NAME
    kept = Job.read(folder)
    assert kept == replace(job, attempt=1, repeat=1)
    load_trained(kept, folder)
    written = (folder / "result.json").stat().st_mtime_ns
    assert again(tmp_path, replace(job, attempt=4)) == folder
    assert (folder / "result.json").stat().st_mtime_ns == written
    (folder / "weights.safetensors").unlink()
    again(tmp_path, job)
    assert (folder / "weights.safetensors").exists()

    movies = load_task("movies", **EXAMPLES)
    train, dev = movies.train, movies.dev
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "cache"))
    labels = np.concatenate([train.labels, dev.labels])
    whole = replace(train, text_a=train.text_a + dev.text_a, labels=labels)
    other = replace(job, cell=replace(job.cell, max_train=None))
    again(tmp_path, other, TaskData(movies.task, whole, dev))
    kept = Job.read(folder)
    assert kept.cell.cell_id != job.cell.cell_id
    assert (kept.cell.task, kept.cell.max_dev) == ("movies", None)
    data = load_task("movies", Path(kept.data or ""))
    assert tmp_path / "cache" in Path(kept.data or "").parents
    assert len(data.train) == len(train) + len(dev)
    assert data.dev.text_a == dev.text_a
    assert read_folder(folder, "accuracy")[""].labels.tolist() == dev.labels.tolist()


def test_a_training_that_fails_is_one_line_and_leaves_no_weights(job, tmp_path):
    weights = tmp_path / "runs" / NAME / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()  # of an earlier training
    broken = replace(job, cell=replace(job.cell, learning_rate=1e30, learning_rate_head=1e30))
    with pytest.raises(InputError, match=r"^lora-[^\n]*: the training ended invalid: [^\n]*$"):
        again(tmp_path, broken)
    assert not weights.exists()


def test_a_training_that_the_user_stops_and_a_place_that_cannot_be_written(job, tmp_path, capsys):
    with pytest.raises(StoppedError):
        again(tmp_path, job, stops=1)
    assert capsys.readouterr().err.endswith("stopped; the same command trains again\n")
    (tmp_path / "other" / "runs").parent.mkdir()
    (tmp_path / "other" / "runs").touch()
    with pytest.raises(DiskFullError, match="can't be written"):
        again(tmp_path / "other", job)


OLD_GPU = Device("cuda:0", GpuInfo("an old GPU", "1", (7, 5), "GPU-1", 16_000))


@pytest.mark.parametrize(("is_on", "amp"), [(True, "fp16"), (False, "bf16")])
def test_amp_on_is_the_usual_type_of_the_device_and_a_named_type_stays(is_on, amp):
    target = replace(setup("fake").target("GPU-1", OLD_GPU), amp_on="fp16")
    job = workload(device="cpu", compile_why="auto: no GPU")
    cell = replace(job.cell, mode="head", amp="bf16", frozen_dtype="bf16", unfreeze=None)
    run = Attempt(job=replace(job, cell=cell), grid="g", dev_examples={}, amp_is_on=is_on)
    there = run.on(target)
    assert (there.job.cell.amp, there.job.cell.frozen_dtype) == (amp, amp)
    assert (there.job.cell.cell_id != run.job.cell.cell_id) == is_on
    assert there.job.conditions_id == target.conditions.conditions_id
    assert Attempt.from_values(json.loads(json.dumps(there.values()))) == there
    on_cpu = setup("fake").target("cpu")
    there = run.on(on_cpu).job.cell
    assert (there.compile, there.compile_why) == ("off", f"auto: {on_cpu.no_compiling}")
