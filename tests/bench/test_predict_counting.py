"""What is counted on fake tensors is what real ones take."""

import gc

import pytest
import torch

from bench.job import Job
from bench.predict.costs import Variant
from bench.predict.counting import Counter, Work
from bench.predict.fake import count, fill, run, skeleton
from bench.probes.memory import owned_mib
from bench.worker.setup import build_model, trained_groups
from minbert.batches import Batch
from minbert.training import Trainer, linear_schedule
from tests.bench.synthetic_rows import cell
from tests.bench.workloads import SHAPES, VARIANTS, workload

CPU = torch.device("cpu")
MIB = 2**20


def test_memory_is_that_of_storages_while_they_live():
    with Counter() as counter:
        one = torch.empty(256, 1024)
        assert counter.alive == MIB
        view = one.view(-1)[5:]
        one.add_(1)
        assert counter.alive == MIB
        two = one + 1
        assert counter.alive == counter.peak == 2 * MIB
        del two
        assert counter.alive == MIB
        assert counter.peak == 2 * MIB
        counter.restart_peak()
        assert counter.peak == MIB
        del one
        assert counter.alive == MIB
        del view
        assert counter.alive == 0


def test_work_is_products_and_all_that_is_read_and_written():
    with Counter() as counter:
        a, b = torch.empty(4, 8), torch.empty(8, 16)
        assert counter.work == Work()
        a @ b
        assert counter.work == Work(2 * 4 * 8 * 16, 4 * (32 + 128 + 64), 1)
        a.t().view(8, 4)
        assert counter.work.kernels == 1
        torch.add(a, a)
        assert counter.work == Work(2 * 4 * 8 * 16, 4 * (32 + 128 + 64) + 4 * 3 * 32, 2)


def test_attention_without_dropout_counts_as_two_products_and_five_backwards():
    q, k, v = (torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 3 * 5 * 5 * 4
    with Counter() as counter:
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        assert counter.work.flops == 2 * product
        out.sum().backward()
        assert counter.work.flops == (2 + 5) * product


LAYERS_ADAPTED = 2 * 4
"""Of bert-tiny: in each of its layers queries, keys and values as one, and three more."""


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v)))
def test_fake_counts_are_those_of_the_same_run_for_real(variant: Variant, kind: str):
    of = workload(kind=kind, outputs=1 if kind == "regression" else 5)
    fake = count(of, SHAPES, variant)
    model = skeleton(of, variant)
    gc.collect()
    with Counter() as counter:
        fill(model, CPU)
        with torch.no_grad():
            for parameter in model.parameters():  # a magnitude of zero takes more work
                parameter.fill_(0.5)
        real = run(model, of, SHAPES, variant.amp, counter)
    for name, value in fake.to_json().items():
        if name in ("step_kernels", "step_moved_mib"):
            continue  # fake gradients are clipped one by one, real ones together
        # fake norms hold means and deviations in half precision, and fake DoRA does not ask whether
        # rows of a layer cancel: a few numbers, and in an evaluation a few operators
        close = 2048 / MIB if name.endswith("_mib") else 0.0
        if name == "evaluate_kernels" and variant.mode == "dora":
            close = 2 * LAYERS_ADAPTED
        assert value == pytest.approx(getattr(real, name), rel=1e-12, abs=close), name


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v)))
def test_owners_are_what_a_cell_holds(variant: Variant):
    of = cell(*variant, model="bert-tiny", init="random")
    job = Job(
        cell=of, conditions_id="", attempt=1, device="cpu", threads=1, checkpoint=None,
        geometry="bert-tiny", tokenizer="", data=None, keep=False, code_version="",
    )  # fmt: skip
    model = build_model(job, 5)
    trainer = Trainer(
        model, trained_groups(model, of), loss="cross-entropy", schedule=linear_schedule(1, 0.0),
        amp=variant.amp, device=CPU,
    )  # fmt: skip
    ids = torch.ones(2, 6, dtype=torch.int64)
    trainer.step(Batch(ids, None, torch.zeros_like(ids), torch.tensor([0, 1]), 12))
    held = owned_mib(model, trainer.optimizer)
    geometry = workload().config | {"vocab_size": 30522}
    counted = count(workload(config=geometry, new_pooler=True), SHAPES, variant)
    for name in ("weights_mib", "gradients_mib", "optimizer_mib"):
        assert getattr(counted, name) == pytest.approx(held[name], rel=1e-6), name


def test_peaks_hold_their_parts_and_grow_with_the_batch():
    variant = Variant("full", None, None, "off")
    small = count(workload(), SHAPES, variant)
    assert small.train_peak_mib > small.weights_mib + small.gradients_mib + small.optimizer_mib
    assert small.evaluate_peak_mib >= (
        small.weights_mib + small.gradients_mib + small.optimizer_mib
    )
    wide = SHAPES.to_json() | {"train_largest": (50, 16)}
    large = count(workload(), type(SHAPES)(**wide), variant)
    assert large.train_peak_mib > small.train_peak_mib
    assert large.step_gflop == small.step_gflop


def test_a_step_takes_three_times_the_products_of_a_forward_pass_when_everything_trains():
    shapes = type(SHAPES)(**SHAPES.to_json() | {"evaluate_largest": SHAPES.train})
    found = count(workload(), shapes, Variant("full", None, None, "off"))
    assert found.step_gflop == pytest.approx(3 * found.evaluate_gflop, rel=0.02)


def test_a_frozen_encoder_keeps_nothing_for_a_backward_pass():
    head = count(workload(), SHAPES, Variant("head", None, None, "off"))
    full = count(workload(), SHAPES, Variant("full", None, None, "off"))
    passing = [c.train_peak_mib - c.weights_mib - c.optimizer_mib for c in (head, full)]
    assert passing[0] < 0.3 * passing[1]
