"""A worker on a simulated GPU: the order of its measurements, and what it keeps."""

import weakref
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from bench.engines import minbert
from bench.worker.device import set_up_device
from bench.worker.probes.memory import SavedTensors
from bench.worker.process import Progress
from bench.worker.run import CellRun
from minbert.training.trainer import Trainer
from tests.bench.pretended_gpu import DEVICE, pretended_gpu
from tests.bench.tiny_cells import ended
from tests.bench.worker.test_worker import job_on

IN_ORDER = [
    *("baseline", "context", "load", "empty", "reset"),
    *("rehearse", "synchronise", "train") * 2,  # so that no time includes a rehearsal's end
    "read",
    "measure, without gradients",
    "train",  # the counted step and the timing batches
]  # fmt: skip


def on_gpu(job, folder, monkeypatch):
    """The job's run, what is done to the GPU, and tokens and trained parameters of each step."""
    events, passes = [], []

    def note(event):
        if events[-1:] != [event]:
            events.append(event)

    def note_calls(owner, name, event):
        function = getattr(owner, name)

        def noted(*given):
            note(event)
            if owner is Trainer:
                trained = sum(p.requires_grad for p in run.model.parameters())
                passes.append((event, given[1].padded, trained))
            if owner is SavedTensors:
                assert all(p.grad is None for p in run.model.parameters())
            return function(*given)

        monkeypatch.setattr(owner, name, noted)

    note_calls(minbert, "build", "load")
    note_calls(Trainer, "step", "train")
    note_calls(Trainer, "rehearse", "rehearse")
    note_calls(SavedTensors, "counting", "measure, without gradients")
    with pretended_gpu(monkeypatch, note):
        run = CellRun(replace(job, device=DEVICE), folder, Progress(None))
        run.run()
    return run, events, passes


@pytest.fixture
def job(tiny_checkpoint, tmp_path):
    """Two epochs of three steps, the last of each on fewer examples."""
    return job_on(tiny_checkpoint, tmp_path, "sst", "full", batch_size=10, epochs=2)


@pytest.mark.parametrize(
    ("unfreeze", "steps"), [("all", 1), ("iterative", 15), ("iterative", None)]
)
def test_an_epoch_is_rehearsed_on_the_largest_batch_that_it_trains_on(
    tiny_checkpoint, tmp_path, monkeypatch, unfreeze, steps
):
    """And with the parameters that it trains, so that the peaks are those of training."""
    changes = {"epochs": 4, "max_steps": steps, "unfreeze": unfreeze, "batching": "shuffled"}
    job = job_on(tiny_checkpoint, tmp_path, "sst", "full", batch_size=2, **changes)
    run, _, passes = on_gpu(job, tmp_path / "cell", monkeypatch)
    starts = [index for index, (event, *_) in enumerate(passes) if event == "rehearse"]
    last = len(run.losses) + len(starts)  # the panel follows
    assert len(starts) == len(run.epochs)
    trained = []
    for start, end in zip(starts, [*starts[1:], last], strict=True):
        (_, padded, rehearsed), *taken = passes[start:end]
        assert padded == max(padded for _, padded, _ in taken)
        assert {rehearsed} == {count for *_, count in taken}
        trained.append(rehearsed)
    assert trained == sorted(trained)
    grows = unfreeze == "iterative" and steps is None
    assert (trained[0] < trained[-1]) == grows


@pytest.mark.usefixtures("cache")
def test_a_gpu_gives_the_numbers_of_the_cpu_and_is_measured_in_order(job, tmp_path, monkeypatch):
    """First the driver's own, then torch's peaks from after loading to training's end, and then
    activations, without the gradients that a forward pass does not find. No number stays there."""
    usual, came = CellRun(job, tmp_path / "cell", Progress(None)), []
    compiled = replace(job, cell=replace(job.cell, compile="on"), device=DEVICE)
    with monkeypatch.context() as patch:  # nothing is rehearsed on a CPU and after compiling
        patch.setattr(Trainer, "rehearse", mock.Mock(side_effect=AssertionError))
        usual.run()
        patch.setattr(torch, "compile", lambda model, *, isolate_recompiles, **_: model)
        with pretended_gpu(patch, came.append):
            ended(compiled, tmp_path / "compiled")
    assert "read" in came
    step = Trainer.step
    given, alive = [], []

    def taken(trainer, batch):
        alive.append(sum(tensor() is not None for tensor in given))
        results = step(trainer, batch)
        given.extend(map(weakref.ref, (*results, batch.labels)))
        return results

    monkeypatch.setattr(Trainer, "step", taken)
    monkeypatch.setattr("bench.worker.device._LEAST", 4)  # so that blocks fill up
    run, came, _ = on_gpu(job, tmp_path / "cell", monkeypatch)
    assert torch.equal(torch.stack(run.losses), torch.stack(usual.losses))
    assert run.epochs == usual.epochs
    assert (run.logits[""] == usual.logits[""]).all()
    assert len(run.losses) == 6
    assert max(alive[:6]) <= 3  # those of the step before
    driver = [
        event
        for before, event in pairwise(came)
        if event != "baseline" and (event != "synchronise" or before == "rehearse")
    ]  # later looks are at the peak
    merged = [now for before, now in zip(["", *driver], driver, strict=False) if now != before]
    assert [came[0], *merged] == IN_ORDER


@pytest.mark.parametrize("tf32", ["off", "on"])
def test_a_cell_sets_its_gpu_up(job, tmp_path, monkeypatch, tf32):
    """fp32 is exact unless the cell says otherwise, and attention is not cuDNN's."""
    matmul, cudnn, attention = SimpleNamespace(), SimpleNamespace(), []
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", attention.append)
    set_up_device(torch.device("cpu"))
    assert (vars(matmul), vars(cudnn), attention) == ({}, {}, [])
    a_job = replace(job, device=DEVICE, cell=replace(job.cell, tf32=tf32))
    with pretended_gpu(monkeypatch, lambda _event: None):
        CellRun(a_job, tmp_path, Progress(None))
    products = {"allow_tf32": tf32 == "on"}
    assert (vars(matmul), vars(cudnn), attention) == (products, products, [False])
