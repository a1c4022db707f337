"""Steps on several batches: the same training as on larger ones, counted as steps everywhere."""

import numpy as np
import pytest
import torch

from tests.bench.tiny_cells import csv_rows, ended
from tests.bench.worker.test_worker import job_on

PLAIN = {"batching": "shuffled", "dropout": 0.0, "epochs": 2, "schedule": "linear"}
LARGE = PLAIN | {"batch_size": 16}
SMALL = PLAIN | {"batch_size": 8, "gradient_accumulation_steps": 2}


@pytest.mark.parametrize(("mode", "max_steps"), [("full", None), ("lora", 3)])
def test_two_batches_of_8_are_one_of_16(tiny_checkpoint, tmp_path, mode, max_steps):
    """Of 24 examples, whose second step in an epoch is on 8, which are one batch."""
    runs = []
    assert SMALL["gradient_accumulation_steps"] == 2
    for name, settings in (("large", LARGE), ("small", SMALL)):
        (tmp_path / name).mkdir()
        job = job_on(tiny_checkpoint, tmp_path / name, "sst", mode, **settings, max_steps=max_steps)
        runs.append(ended(job, tmp_path / name))
    large, small = runs
    assert len(large.losses) == len(small.losses) == (max_steps or 4)
    torch.testing.assert_close(small.losses, large.losses, atol=1e-5, rtol=1e-5)
    for (name, p), q in zip(small.model.named_parameters(), large.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=2e-5, rtol=1e-4, msg=name)
    np.testing.assert_allclose(small.logits[""], large.logits[""], atol=1e-4)
    one, other = (csv_rows(tmp_path / name / "steps.csv") for name in ("small", "large"))
    same = ("step", "tokens", "examples")
    assert [[row[n] for n in same] for row in one] == [[row[n] for n in same] for row in other]
    assert small.columns["tokens_total"] == large.columns["tokens_total"]
    replayed = csv_rows(tmp_path / "small" / "panel.csv")
    assert {row["examples"] for row in replayed} == {"16"}
    assert len({row["batch"] for row in replayed}) == 1
    # memory is that of a batch, work that of a step
    assert small.columns["activations_mib"] < 0.8 * large.columns["activations_mib"]
    assert small.columns["step_operators"] > 1.5 * large.columns["step_operators"]
    assert 0.5 < small.columns["step_gflop"] / large.columns["step_gflop"] < 1.1
