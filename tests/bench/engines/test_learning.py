"""What `tests.experiments.encoders_table` trains loads again."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from bench.worker.weights import load_trained
from tests.encoders import KINDS
from tests.experiments.encoders_table import SETTINGS, Learned, logits_of, planted, save, trainer_of

BY_LABEL = {setting.label: setting for setting in SETTINGS}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_makes_the_model_again(encoders, kind, tmp_path):
    for setting in SETTINGS[KINDS.index(kind) :: len(KINDS)]:
        a_job = setting.job(encoders(kind))
        check_loads(a_job, a_job, 2, tmp_path / setting.label)


def check_loads(a_job, loading, steps, folder):
    """Fail unless the model of a job has the same logits after it is loaded by another."""
    trainer, batches = trainer_of(a_job, steps)
    for batch in islice(batches, steps):
        trainer.step(batch)
    dev = planted(a_job, 32, 1)
    logits = logits_of(trainer.model, dev)
    save(Learned(trainer.model, 0.0, steps, logits), a_job, folder)
    torch.manual_seed(5)
    loaded = load_trained(loading, folder)
    np.testing.assert_allclose(logits_of(loaded, dev), logits, rtol=0, atol=1e-5)


def test_another_decomposition_changes_nothing(encoders, tmp_path):
    """PiSSA's factors may come out otherwise where the weights are loaded."""
    a_job = BY_LABEL["lora with PiSSA attn-only"].job(encoders("bert"))
    other = replace(a_job, cell=replace(a_job.cell, init_lora_weights="olora"))
    check_loads(a_job, other, 10, tmp_path / "cell")
