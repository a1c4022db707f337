"""A BERT in both engines: the same tokens, first logits and losses, whatever trains."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from adapters.names import LAYER_SETS
from bench.analysis.engines import TOLERANCE
from bench.engines.engine import engine_of
from bench.examples.tokenizers import tokenizer_of
from bench.plan.cell import MINBERT, TRANSFORMERS
from bench.plan.job import Job
from minbert.data.tasks import load_data
from tests.encoders import Checkpoints, job
from tests.encoders_table import planted, train

KINDS: list[tuple[str, str | None, dict[str, Any]]] = [
    ("full", None, {}),
    ("head", None, {}),
    ("bitfit", None, {}),
    *((mode, layers, {}) for mode in ("lora", "dora") for layers in LAYER_SETS),
    ("lora", "query+attention.output.dense", {}),
    ("lora", "all-lin-only", {"use_rslora": "on"}),
]
SETTINGS = [
    {"pooling": "pooler"},
    {"pooling": "mean"},
    {"pooling": "cls"},
    {"pooling": "pooler", "head": "MaskedLM"},  # of the checkpoint, which then has no pooler
]


def ours(theirs: Job) -> Job:
    """The same job in engine minbert."""
    changes = {"engine": MINBERT, "engine_version": None, "attn_implementation": None}
    return replace(theirs, cell=replace(theirs.cell, kernels="fast", **changes))


def first_logits(a_job: Job) -> torch.Tensor:
    """Logits of the untrained model for a padded batch."""
    from minbert.data.batches import collate

    model = engine_of(a_job.cell).build(a_job).eval()
    split = planted(a_job, 16, 0)
    batch, _ = collate(
        split.texts, split.targets, np.arange(16), model.pad_id, torch.device("cpu"), None, ""
    ), None
    with torch.no_grad():
        return model(batch.input_ids, batch.attention_mask, batch.token_type_ids)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " ".join(map(str, kind)))
def test_first_logits_and_50_losses_agree(
    encoders: Checkpoints, kind: tuple[str, str | None, dict[str, Any]], settings: dict[str, str]
) -> None:
    mode, layers, changes = kind
    checkpoint = encoders("bert", head=settings.get("head", ""))
    theirs = job(checkpoint, mode, layers, pooling=settings["pooling"], **changes)
    logits = [first_logits(side) for side in (theirs, ours(theirs))]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-5)
    losses = [train(side, 50)[2] for side in (theirs, ours(theirs))]
    assert losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=TOLERANCE["off"])


def test_tokens_agree(encoders: Checkpoints) -> None:
    texts = load_data("movies", None, max_train=100, max_dev=10).train.text_a
    for pairs in (None, texts[::-1]):
        one, other = (
            tokenizer_of(engine, encoders("bert")).encode(texts, pairs, 40)
            for engine in (MINBERT, TRANSFORMERS)
        )
        for name in ("input_ids", "token_type_ids", "offsets", "cut"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
