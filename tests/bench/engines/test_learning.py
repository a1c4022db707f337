"""A sample of what `tests.experiments.encoders_table` trains: it learns, and loads elsewhere."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.worker.trained import load_trained
from tests.encoders import KINDS, Checkpoints
from tests.experiments.encoders_table import (
    ENOUGH,
    SETTINGS,
    Learned,
    differences,
    learn,
    logits_of,
    planted,
    save,
    trainer_of,
)

BY_LABEL = {setting.label: setting for setting in SETTINGS}
SAMPLE = [
    ("deberta-v2", "vera attn-only"),
    ("modernbert", "lora with PiSSA all-lin-only"),
    ("albert", "peft: BOFT"),
]


def test_a_sample_learns_and_loads_in_another_process(
    encoders: Checkpoints, tmp_path: Path
) -> None:
    for kind, label in SAMPLE:
        setting = BY_LABEL[label]
        learned = learn(setting, encoders(kind))
        assert learned.accuracy >= ENOUGH, (kind, label)
        save(learned, setting.job(encoders(kind)), tmp_path / kind / label)
    after = differences(tmp_path)
    assert after.keys() == set(SAMPLE)
    assert max(after.values()) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_makes_the_model_again(
    encoders: Checkpoints, kind: str, tmp_path: Path
) -> None:
    for setting in SETTINGS[KINDS.index(kind) :: len(KINDS)]:
        a_job = setting.job(encoders(kind))
        trainer, batches = trainer_of(a_job, 2)
        for batch in islice(batches, 2):
            trainer.step(batch)
        dev = planted(a_job, 32, 1)
        logits = logits_of(trainer.model, dev)
        folder = tmp_path / setting.label
        save(Learned(trainer.model, 0.0, 2, logits), a_job, folder)
        torch.manual_seed(5)
        loaded = load_trained(a_job, folder)
        np.testing.assert_allclose(logits_of(loaded, dev), logits, rtol=0, atol=1e-5)


def test_another_decomposition_changes_nothing(encoders: Checkpoints, tmp_path: Path) -> None:
    """PiSSA's factors may come out otherwise where the weights are loaded."""
    setting = BY_LABEL["lora with PiSSA attn-only"]
    a_job = setting.job(encoders("bert"))
    trainer, batches = trainer_of(a_job, 10)
    for batch in islice(batches, 10):
        trainer.step(batch)
    dev = planted(a_job, 32, 1)
    logits = logits_of(trainer.model, dev)
    save(Learned(trainer.model, 0.0, 10, logits), a_job, tmp_path / "cell")
    other = replace(a_job, cell=replace(a_job.cell, init_lora_weights="olora"))
    loaded = load_trained(other, tmp_path / "cell")
    np.testing.assert_allclose(logits_of(loaded, dev), logits, rtol=0, atol=1e-5)
