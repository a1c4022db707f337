"""Measurements after training, on fake tensors of a GPU."""

import warnings
from contextlib import nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.forecast.fake import fill
from bench.worker.probes.counting import Counter
from bench.worker.probes.memory import measure_activations
from tests.gpu.fake.gpu import GPU
from tests.gpu.fake.models import batch_of, model_of, trainer_of


@pytest.mark.parametrize(
    ("mode", "layers", "amp"),
    [
        ("full", None, "off"),
        ("full", None, "fp16"),
        ("head", None, "bf16"),
        ("lora", "attn", "off"),
    ],
)
def test_measuring_activations_takes_at_most_a_steps_peak(
    mode: str, layers: str | None, amp: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # no state of random numbers to keep
    monkeypatch.setattr(torch.random, "fork_rng", lambda _devices: nullcontext())
    model = model_of(mode, layers, amp)
    with FakeTensorMode(), Counter() as counter, warnings.catch_warnings(action="ignore"):
        fill(model, GPU)
        trainer, batch = trainer_of(model, amp), batch_of(texts=16, longest=48)
        trainer.step(batch)
        counter.restart_peak()
        trainer.step(batch)
        of_step = counter.peak
        counter.restart_peak()
        measure_activations(trainer, batch)
    assert counter.peak <= of_step
