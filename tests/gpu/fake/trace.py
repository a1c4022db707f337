"""Formulae for a GPU that is not here are those of one that is."""

import pytest
import torch

from bench.forecast.trace import trace
from tests.bench.forecast.test_costs import job_of
from tests.bench.workloads import variant


@pytest.mark.parametrize(
    "which",
    [
        variant("full"),
        variant("head", amp="bf16"),
        variant("lora", 8, "all-lin-only"),
        variant("dora", 8, "all-lin-only", "bf16"),
    ],
)
def test_memory_is_that_on_fake_tensors_of_a_gpu(which, monkeypatch):
    job = job_of(which, device="cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stood_in = trace(job)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    faked = trace(job)
    for batch, length in ((8, 512), (64, 128)):
        expected = sum(faked.tensors_mib(batch, length))
        assert sum(stood_in.tensors_mib(batch, length)) == pytest.approx(expected, rel=0.01)
