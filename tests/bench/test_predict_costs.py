"""Which variants are counted, how others follow from them, and what batches a workload has."""

import math
from itertools import islice

import numpy as np
import pytest
import torch

from bench.predict.batches import shapes_of
from bench.predict.costs import Counts, Shapes, Variant, fill_ranks, to_count
from bench.predict.fake import count
from minbert.batches import prepare_epoch
from minbert.tokenizer import Encoded
from tests.bench.workloads import SHAPES, counts, workload

RANKS = [Variant("lora", rank, "attn", "off") for rank in (1, 2, 4, 8)]
FULL = Variant("full", None, None, "off")


def test_only_the_ends_of_the_ranks_are_counted():
    found = to_count([FULL, *RANKS, Variant("lora", 4, "attn", "bf16")])
    assert found == [FULL, RANKS[0], RANKS[3], Variant("lora", 4, "attn", "bf16")]


def test_ranks_between_lie_on_the_line():
    ends = {RANKS[0]: counts(step_gflop=10.0), RANKS[3]: counts(step_gflop=24.0), FULL: counts()}
    found = fill_ranks(ends, [FULL, *RANKS])
    assert [found[v].step_gflop for v in RANKS] == [10.0, 12.0, 16.0, 24.0]
    assert found[FULL] == counts()


@pytest.mark.parametrize("mode", ["lora", "dora"])
def test_the_line_is_what_counting_gives(mode: str):
    ends = {
        variant: count(workload(), SHAPES, variant)
        for variant in (Variant(mode, rank, "all-lin", "bf16") for rank in (1, 8))
    }
    between = Variant(mode, 4, "all-lin", "bf16")
    line = fill_ranks(ends, [between])[between].to_json()
    for name, value in count(workload(), SHAPES, between).to_json().items():
        assert line[name] == pytest.approx(value, rel=0.005), name


def test_costs_survive_json_and_nothing_else_passes_for_them():
    assert Shapes.from_json({**SHAPES.to_json(), "train": [4, 7]}) == SHAPES
    assert Counts.from_json(counts().to_json()) == counts()
    for other in (None, [], {}, {"train": 1}, {**counts().to_json(), "more": 1}):
        assert Counts.from_json(other) is None


def test_keys_tell_apart_what_decides_the_costs_and_nothing_else():
    one, variant = workload(), RANKS[0]
    assert one.counts_key(SHAPES, variant) == workload(max_train=9).counts_key(SHAPES, variant)
    others = [
        workload(pooling="pooler").counts_key(SHAPES, variant),
        workload(config=one.config | {"hidden_size": 64}).counts_key(SHAPES, variant),
        workload(torch_version="2.14.0").counts_key(SHAPES, variant),
        workload(head="conv").counts_key(SHAPES, variant),
        workload(kind="regression").counts_key(SHAPES, variant),
        workload(regression_loss="pearson").counts_key(SHAPES, variant),
        one.counts_key(SHAPES, RANKS[1]),
        one.counts_key(Shapes(**SHAPES.to_json() | {"train_largest": (5, 17)}), variant),
        one.shapes_key(),
        workload(data_digest="0").shapes_key(),
        workload(vocabulary="0").shapes_key(),
        workload(seeds=(0, 1)).shapes_key(),
        workload(held_out=0.1).shapes_key(),
    ]
    assert len({one.counts_key(SHAPES, variant), *others}) == len(others) + 1


@pytest.mark.parametrize("max_steps", [None, 7])
def test_shapes_are_those_of_the_batches_that_a_cell_trains_on(max_steps: int | None):
    rng = np.random.default_rng(3)
    lengths = rng.integers(4, 40, 150)
    encoded = Encoded(
        np.ones(lengths.sum(), dtype=np.int32),
        np.zeros(lengths.sum(), dtype=np.int8),
        np.concatenate([[0], np.cumsum(lengths)]),
    )
    labels = np.zeros(150, dtype=np.int64)
    steps = 20 if max_steps is None else max_steps
    trained = []
    for epoch in range(2):
        order = np.random.default_rng([0, epoch])
        batches = prepare_epoch(encoded, labels, 16, order, pad_id=0, device=torch.device("cpu"))
        trained += islice(batches, max(0, steps - 10 * epoch))
    shapes = [tuple(batch.input_ids.shape) for batch in trained]
    found = shapes_of(
        lengths,
        lengths[:50],
        batch_size=16,
        batching="by-length",
        epochs=2,
        max_steps=max_steps,
        seeds=[0],
    )
    assert found.steps == len(shapes) == steps
    assert math.prod(found.train_largest) == max(map(math.prod, shapes))
    assert found.train_tokens == pytest.approx(sum(map(math.prod, shapes)))
    assert found.real_tokens == pytest.approx(sum(batch.tokens for batch in trained))
    assert found.evaluations == (2 if max_steps is None else 1)
    assert found.evaluate_batches == 4
    assert found.evaluate_largest[1] <= lengths[:50].max()


def test_many_epochs_and_seeds_take_no_longer_and_scale():
    lengths = np.random.default_rng(0).integers(4, 40, 64)
    one, many = (
        shapes_of(
            lengths,
            lengths,
            batch_size=16,
            batching="by-length",
            epochs=epochs,
            max_steps=None,
            seeds=[0],
        )
        for epochs in (3, 10**9)
    )
    assert many.train_tokens / one.train_tokens == pytest.approx(10**9 / 3)
    assert many.train_largest == one.train_largest
