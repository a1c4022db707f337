"""The worker's whole path, from the checkpoint to the columns, for every kind of encoder."""

import pytest

from tests.bench.tiny_cells import ended
from tests.encoders import KINDS, job

MODES = [("head", None), ("lora", "attn-only"), ("full", None)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_of_any_encoder_runs_to_its_end(encoders, kind, tmp_path):
    mode, layers = MODES[KINDS.index(kind) % len(MODES)]
    a_job = job(
        encoders(kind), mode, layers, data_digest="", max_steps=2, batch_size=8, max_train=16,
        max_dev=8, max_length=16,
    )  # fmt: skip
    columns = ended(a_job, tmp_path / mode).columns
    assert columns["products_ms"] > 0
    assert columns["dev_score"] is not None
