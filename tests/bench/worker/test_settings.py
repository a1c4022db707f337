"""Cells of engine minbert with checkpointed layers."""

from dataclasses import replace

import numpy as np
import torch

from tests.bench.tiny_cells import ended
from tests.bench.worker.test_worker import job_on


def test_checkpointing_keeps_less_and_trains_the_same(tiny_checkpoint, tmp_path):
    job = job_on(tiny_checkpoint, tmp_path, "sst", "full")
    checkpointed = replace(job, cell=replace(job.cell, gradient_checkpointing="on"))
    plain, less = (ended(each, tmp_path) for each in (job, checkpointed))
    assert torch.equal(torch.stack(plain.losses), torch.stack(less.losses))
    np.testing.assert_array_equal(plain.logits[""], less.logits[""])
    kept, again = (each.columns["activations_mib"] for each in (plain, less))
    assert again < 0.6 * kept
    assert less.columns["step_operators"] > plain.columns["step_operators"]
