"""Work of a training step, counted in a worker."""

import pytest
import torch

from bench.worker import run as worker
from bench.worker.probes.counting import measure_work
from bench.worker.probes.memory import SavedTensors
from bench.worker.process import Progress
from bench.worker.run import CellRun
from minbert.training.trainer import Trainer
from tests.bench.tiny_cells import ended
from tests.bench.worker.test_worker import job_on

WORK = ("step_gflop", "step_operators", "step_moved_mib")


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_counting_changes_neither_weights_nor_random_numbers(
    tiny_checkpoint, tmp_path, monkeypatch, amp
):
    seen = []

    def checked(take_step, device):
        states = []
        for _ in range(2):
            weights = [p.detach().clone() for p in run.model.parameters()]
            states.append([*weights, torch.get_rng_state()])
            columns = measure_work(take_step, device)
        seen.extend(torch.equal(a, b) for a, b in zip(*states, strict=True))
        return columns

    monkeypatch.setattr(worker, "measure_work", checked)
    job = job_on(tiny_checkpoint, tmp_path, "sst", "full", batch_size=10, amp=amp, dropout=0.1)
    run = CellRun(job, tmp_path / "cell", Progress(None))
    run.run()
    assert len(seen) > 10
    assert all(seen)


@pytest.mark.parametrize(
    ("probe", "error"),
    [
        ("activations", torch.OutOfMemoryError("CUDA out of memory")),
        ("activations", RuntimeError("other")),
        ("work", MemoryError()),
    ],
)
def test_a_cell_that_trained_is_no_oom_because_measuring_had_no_memory(
    tiny_checkpoint, tmp_path, monkeypatch, probe, error
):
    step = Trainer.step
    failed = []

    def fail(*_):
        failed.append(True)
        raise error

    def fails_at_rest(trainer, batch):
        is_first = not failed and trainer.optimizer.param_groups[0]["lr"] == 0
        return fail() if is_first else step(trainer, batch)

    if probe == "work":
        monkeypatch.setattr(Trainer, "step", fails_at_rest)
    else:
        monkeypatch.setattr(SavedTensors, "counting", fail)
    job = job_on(tiny_checkpoint, tmp_path, "sst", "full", batch_size=10)
    if str(error) == "other":
        with pytest.raises(RuntimeError, match="other"):
            ended(job, tmp_path / "cell")
        return
    run = ended(job, tmp_path / "cell")
    assert failed
    missing = set(WORK) if probe == "work" else {"activations_mib"}
    assert not run.columns.keys() & missing
    assert run.columns["dev_score"] is not None
    assert all(step.forward_ms is not None for step in run.clock.steps()), "no step but training's"
    assert (tmp_path / "cell" / "panel.csv").exists()
