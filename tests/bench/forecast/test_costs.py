"""Which variants are counted, how others follow from them, and formulae from one traced step."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bench.forecast.costs import fill_ranks, stage_shares, stages_of, to_count, totals_of
from bench.forecast.fake import UncountableError, count, shapes_of
from bench.forecast.trace import _PRIMES, Tracer, trace
from minbert.data.batches import plan_epoch
from tests.bench.workloads import ONE, SHAPES, THREE, counts, of_parts, variant, workload
from tests.encoders import job as theirs

RANKS = [variant("lora", rank, "attn") for rank in (1, 2, 4, 8)]
FULL = variant("full")
UNFREEZING = variant("full", unfreeze="iterative")


@pytest.mark.parametrize("mode", ["lora", "dora"])
def test_the_line_is_what_counting_gives(mode):
    def flat(totals):
        loads = (totals.train, totals.timed, totals.evaluate)
        return [*(value for load in loads for value in load), *totals[:4], *totals[7:]]

    low, between, high = (variant(mode, rank, "all-lin", "bf16") for rank in (1, 4, 8))
    counted = {v: totals_of(ONE, count(workload(), ONE, v)) for v in (low, between, high)}
    line = fill_ranks({low: counted[low], high: counted[high]}, [between])[between]
    assert flat(line) == pytest.approx(flat(counted[between]), rel=0.005)


def test_stages_are_added_up_by_their_epochs_and_the_ends_of_ranks_are_counted():
    for epochs, stages in ((1, 1), (3, 3), (7, 5)):
        shapes = {"": replace(SHAPES, evaluations=epochs, steps=4 * epochs)}
        assert (stages_of(UNFREEZING, shapes), stages_of(FULL, shapes)) == (stages, 1)
    assert stage_shares(ONE, 1) == [1.0]
    assert stage_shares(ONE, 3) == pytest.approx([1 / 3] * 3)
    seven = {"": replace(SHAPES, steps=28, evaluations=7)}
    assert stage_shares(seven, 5) == pytest.approx([1 / 7] * 4 + [3 / 7])
    cut = {"": replace(SHAPES, steps=10)}  # the third epoch is cut after two of its four steps
    assert stage_shares(cut, 3) == pytest.approx([0.4, 0.4, 0.2])
    assert stage_shares(THREE, 3) == pytest.approx([1 / 3] * 3)
    stages = [
        counts(step={"gflop": 1.0, "kernels": 10}, train_peak_mib=100.0, optimizer_mib=1.0),
        counts(step={"gflop": 2.0, "kernels": 20}, train_peak_mib=300.0, optimizer_mib=5.0),
        counts(step={"gflop": 6.0, "kernels": 60}, train_peak_mib=250.0, optimizer_mib=9.0),
    ]
    totals = totals_of(ONE, {"": stages})
    batches = 336 / 28  # of mean length
    assert totals.train.gflop == pytest.approx(batches * 3.0)
    assert totals.train.kernels == pytest.approx(12 * 30)
    assert totals.timed.gflop == pytest.approx(batches * 6.0), "the last stage is timed"
    assert (totals.lasting_mib, totals.passing_mib) == (95.0, 205.0)
    assert totals.evaluate.gflop == pytest.approx(3 * 36 / 36 * 30.0)
    assert (totals.steps, totals.real_tokens) == (12, 300)
    others = [variant("lora", 4, "attn", "bf16"), variant("lora", 4, "attn", batch_size=64)]
    ends = to_count([FULL, *RANKS, *others, UNFREEZING])
    assert set(ends) == {FULL, RANKS[0], RANKS[3], *others, UNFREEZING}
    assert len(ends) == 6


def test_parts_are_added_up_by_their_batches():
    costs = {
        "sst": [counts(step={"gflop": 1.0}, evaluation={"gflop": 1.0})],
        "quora": [counts(step={"gflop": 10.0}, evaluation={"gflop": 10.0}, train_peak_mib=900.0)],
        "sts": [counts(step={"gflop": 100.0}, evaluation={"gflop": 100.0})],
    }
    totals = totals_of(THREE, costs)
    assert totals.train.gflop == pytest.approx(336 / 28 + 10 * 960 / 48 + 100 * 336 / 30)
    assert totals.timed == totals.train
    assert totals.train.kernels == pytest.approx(900 * 48)
    assert totals.evaluate.gflop == pytest.approx(3 * (1 + 10 * 2 + 100 * 2))
    assert totals.lasting_mib + totals.passing_mib == 900.0
    assert (totals.steps, totals.real_tokens) == (48, 1300)
    never = replace(SHAPES, train=(0, 0), train_largest=(0, 0), steps=0, train_tokens=0,
                    real_tokens=0)  # fmt: skip
    totals = totals_of({"sst": SHAPES, "sts": never}, {"sst": [counts()], "sts": [counts()]})
    alone = totals_of({"sst": SHAPES}, {"sst": [counts()]})
    assert totals.train == alone.train, "a part without a batch is evaluated alone"
    assert totals.evaluate.gflop == 2 * alone.evaluate.gflop


def test_held_out_texts_are_evaluated_with_dev_and_many_epochs_take_no_longer():
    sides, held = ({"": [np.arange(3, 40)]},) * 2, np.arange(50, 60)

    def shapes(epochs, *held):
        return shapes_of(workload(epochs=epochs).cell, [0], *sides, 16, *held)[""]

    plain, both, later = shapes(3), shapes(3, {"": [held]}), shapes(10**9)
    assert (both.evaluate_batches, both.evaluate_largest) == (plain.evaluate_batches + 1, (10, 59))
    assert both.evaluate_tokens == plain.evaluate_tokens + 10 * 59
    assert (both.steps, both.train_tokens) == (plain.steps, plain.train_tokens)
    assert later.train_tokens / plain.train_tokens == pytest.approx(10**9 / 3)
    assert later.train_largest == plain.train_largest


@pytest.mark.parametrize(
    ("order", "max_steps"), [("sequential", 1), ("round-robin", 13), ("proportional", None)]
)
def test_shapes_of_parts_are_those_of_the_batches_that_a_cell_trains_on(order, max_steps):
    rng = np.random.default_rng(5)
    quora = [rng.integers(4, 40, 90), rng.integers(4, 20, 90)]
    texts = {"sst": [rng.integers(4, 40, 50)], "quora": quora}
    dev = {part: [lengths[:20] for lengths in columns] for part, columns in texts.items()}
    longest = {part: np.max(columns, axis=0) for part, columns in texts.items()}
    steps = 20 if max_steps is None else max_steps  # in an epoch 4 of sst and 6 of quora
    plan = [
        step
        for epoch in range(2)
        for step in plan_epoch(
            longest, 16, np.random.default_rng([0, epoch]), "by-length", order
        )[: max(0, steps - 10 * epoch)]
    ]  # fmt: skip
    job = of_parts(epochs=2, max_steps=max_steps, task_order=order)
    by_part = shapes_of(job.cell, [0], texts, dev, 16)
    assert list(by_part) == ["sst", "quora"]
    for part, batches in by_part.items():
        taken = [indices for name, indices in plan if name == part]
        columns = texts[part]
        padded = [len(columns) * len(i) * int(longest[part][i].max()) for i in taken]
        assert batches.steps == pytest.approx(len(taken))
        assert batches.train_tokens == pytest.approx(sum(padded))
        real = sum(int(c[i].sum()) for i in taken for c in columns)
        assert batches.real_tokens == pytest.approx(real)
        assert math.prod(batches.train_largest) == max(padded, default=0)
        assert batches.train[0] == (len(columns) * 16 if taken else 0)
        assert (batches.evaluations, batches.evaluate_batches) == (1 if max_steps == 1 else 2, 2)
        assert batches.evaluate_largest[0] in (len(columns) * 4, len(columns) * 16)
    assert sum(batches.steps_in_epoch for batches in by_part.values()) == 10


SIZES = [(4, 37), (200, 512)]
ACCUMULATED = FULL._replace(gradient_accumulation_steps=2)
CHECKPOINTED = FULL._replace(gradient_checkpointing="on")
HEAD, LORA = variant("head"), variant("lora", 8, "attn-only")
HALF, DORA = (variant(mode, 8, "all-lin-only", "bf16") for mode in ("lora", "dora"))


def job_of(which, longest=512, **changes):
    job = workload(dropout=0.1, **changes)
    return replace(job, cell=replace(job.cell, **which._replace(max_length=longest)._asdict()))


def counted(job, which, batch, length):
    """The peak and the step of a batch, counted at that size."""
    shape, steps = (batch, length), which.gradient_accumulation_steps
    largest = {"train_largest": shape, "evaluate_largest": shape}
    shapes = replace(SHAPES, train=shape, **largest, accumulated=steps)
    [counts] = count(job, {"": shapes}, which)[""]
    return counts


def peak(formulae, batch, length):
    lasting = formulae.weights_mib + formulae.optimizer_mib
    return lasting + sum(formulae.tensors_mib(batch, length))


@pytest.mark.parametrize(
    "which", [HEAD, HALF, DORA, variant("dora", 2, "all-lin"), ACCUMULATED, CHECKPOINTED]
)
def test_a_traced_step_gives_the_peak_and_the_work_of_every_size(which):
    formulae, steps = trace(job_of(which)), which.gradient_accumulation_steps
    for batch, length in SIZES:
        counts = counted(job_of(which), which._replace(max_length=512), batch, length)
        assert peak(formulae, batch, length) == pytest.approx(counts.peak_mib, rel=1e-3)
        load = formulae.load(batch, length)
        assert load.gflop == pytest.approx(counts.step.gflop / steps, rel=1e-6)
        made = 2 * formulae.optimizer_mib  # in the first step, which is traced
        assert load.moved_mib == pytest.approx(counts.step.moved_mib / steps, rel=0.02, abs=made)
        assert load.kernels == pytest.approx(counts.step.kernels / steps, rel=0.35 * steps)
    assert formulae.weights_mib == pytest.approx(counts.weights_mib, rel=1e-6)
    assert formulae.optimizer_mib == pytest.approx(counts.optimizer_mib, rel=1e-6)


def test_owners_are_those_of_the_tensors():
    full, lora, head = (trace(job_of(which)) for which in (FULL, LORA, HEAD))
    gradients, activations, _ = full.tensors_mib(1, 8)
    assert gradients == pytest.approx(full.weights_mib, rel=0.001), "of all weights, at the end"
    gradients, activations, others = full.tensors_mib(200, 128)
    assert activations > others > gradients, "at the begin of a backward pass"
    assert lora.tensors_mib(200, 128)[0] < 0.1
    assert head.tensors_mib(200, 128)[1] < 0.02 * activations, "nothing is kept without adapters"
    checkpointed = trace(job_of(CHECKPOINTED)).tensors_mib(200, 128)[1]
    assert checkpointed < 0.25 * activations, "of each layer its input alone"


@pytest.mark.parametrize(("kind", "mode", "layers", "settings"), [
    ("roberta", "lora", "all-lin-only", {}),
    ("deberta-v2", "dora", "attn-only", {}),
    ("modernbert", "full", None, {"amp": "bf16"}),
])  # fmt: skip
def test_other_architectures_are_traced(kind, mode, layers, settings, encoders):
    job = theirs(encoders(kind), mode, layers, **settings)
    longest = job.cell.max_length
    own = {name: getattr(job.cell, name) for name in FULL._fields}
    which = variant(mode, 2, layers)._replace(**own)
    formulae = trace(job)
    for batch, length in ((4, longest // 2), (64, longest)):
        counts = counted(job, which, batch, length)
        assert peak(formulae, batch, length) == pytest.approx(counts.peak_mib, rel=0.02)


def test_a_gpu_that_is_not_here_keeps_no_weights_of_attention():
    """Its kernels compute them again."""
    on_cpu, on_gpu = (trace(job_of(FULL, device=device)) for device in ("cpu", "cuda:0"))

    def kept(formulae, term=(1, 2)):
        return max(moment[1][formulae.terms.index(term)] for moment in formulae.moments)

    assert kept(on_cpu) > 0
    assert kept(on_gpu) == 0
    assert on_gpu.weights_mib == on_cpu.weights_mib
    amps = (variant("full", amp=amp) for amp in ("bf16", "fp16"))
    half, fp16 = (trace(job_of(which, device="cuda:0")) for which in amps)
    assert half == fp16
    assert half.tensors_mib(8, 512)[1] < 0.7 * on_gpu.tensors_mib(8, 512)[1]


def test_sizes_are_those_of_the_model_and_of_no_batch():
    with pytest.raises(UncountableError, match="no batch and length differ from all sizes"):
        trace(job_of(FULL, longest=16))
    tracer = Tracer(19, 17)
    assert tracer._split(19 * 17 * 8 * 512) == ((1, 1), 512)
    assert tracer._split(17 * 8 * 17 * 8) == ((0, 2), 1)
    assert tracer._split(100) == ((0, 0), 100)
    assert len({*_PRIMES}) == len(_PRIMES)
