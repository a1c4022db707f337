"""A BERT in both engines: the same tokens, first logits, losses and products, whatever trains.

`tests.experiments.encoders_table` compares the losses of all methods and poolings.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.engines.engine import engine_of
from bench.examples.tokenizers import tokenizer_of
from bench.plan.cell import MINBERT, TRANSFORMERS
from bench.plan.models import engine_version
from bench.worker.probes.products import required
from bench.worker.process import Progress
from bench.worker.run import CellRun
from minbert.data.tasks import load_data
from tests.adapters.small import need_peft
from tests.bench.tiny_cells import cell, job_of
from tests.encoders import job
from tests.experiments.encoders_table import logits_of, losses_of, ours, planted

NO_POOLER = {"head": "MaskedLM"}
CASES: list[tuple[str, str | None, dict[str, Any], dict[str, Any]]] = [
    ("head", None, {}, {}),
    ("bitfit", None, {}, {}),
    ("lora", "attn", {"use_rslora": "on"}, {}),
    ("lora", "query+attention.output.dense", {"pooling": "cls"}, {}),
    ("dora", "attn-only", {"pooling": "mean"}, {}),
    ("lora", "dense", {}, {}),
    ("dora", "all-lin-only", {}, NO_POOLER),
]


@pytest.mark.parametrize(("mode", "layers", "changes", "saved"), CASES, ids=str)
def test_first_logits_and_50_losses_agree(encoders, mode, layers, changes, saved):
    theirs = job(encoders("bert", **saved), mode, layers, **changes)
    sides = (theirs, ours(theirs))
    models = [engine_of(side.cell).build(side) for side in sides]
    one, other = (sum(p.numel() for p in m.parameters() if p.requires_grad) for m in models)
    assert one == other
    first = [
        logits_of(model, planted(side, 16, 0)) for model, side in zip(models, sides, strict=True)
    ]
    np.testing.assert_allclose(*first, rtol=0, atol=1e-5)
    losses = [losses_of(side, 50) for side in sides]
    assert losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-5)


def test_the_real_default_has_the_same_logits_in_both_engines(minilm):
    for pooling in ("pooler", "mean"):
        theirs = replace(job(minilm, "dora", "all-lin", pooling=pooling), tokenizer=str(minilm))
        theirs = replace(theirs, cell=replace(theirs.cell, attn_implementation="sdpa"))
        one, other = (
            logits_of(engine_of(side.cell).build(side), planted(side, 8, 0))
            for side in (theirs, ours(theirs))
        )
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
        assert np.abs(one - one[:1]).max() > 1e-3


def test_tokens_agree(encoders):
    texts = load_data("movies", None, max_train=100, max_dev=10).train.text_a
    for pairs in (None, texts[::-1]):
        one, other = (
            tokenizer_of(engine, encoders("bert")).encode(texts, pairs, 40)
            for engine in (MINBERT, TRANSFORMERS)
        )
        for name in ("input_ids", "token_type_ids", "offsets", "cut"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


KINDS = [("full", ""), ("lora", "all-lin"), ("dora", "all-lin-only"), ("head", "")]
CPU = torch.device("cpu")


def theirs(ours):
    return replace(
        ours, engine="transformers", engine_version=engine_version(), attn_implementation="sdpa",
        kernels=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [*((kind, "pooler") for kind in KINDS), (KINDS[0], "mean"), (KINDS[3], "mean")],
)
def test_both_engines_require_the_same_products(tiny_checkpoint, kind, pooling):
    need_peft()
    ours = cell(tiny_checkpoint, *kind, pooling=pooling)
    run = CellRun(job_of(ours, tiny_checkpoint), Path(), Progress(None))
    run.model = run.engine.build(run.job)
    run._tokenise()
    steps, *_ = run._replayed_batches()
    batches = [batch for step in steps for batch in step]
    models = [run.model, engine_of(theirs(ours)).build(job_of(theirs(ours), tiny_checkpoint))]
    one, other = (required(model, batches, "off", CPU) for model in models)
    assert one == other
