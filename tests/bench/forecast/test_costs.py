"""What a variant costs: counted on fake tensors as real ones take it, by ranks, stages and parts,
and by formulae from one traced step."""

import gc
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.engines import minbert
from bench.engines.engine import engine_of
from bench.forecast.batches import shapes_of
from bench.forecast.costs import Variant, fill_ranks, stage_shares, stages_of, to_count, totals_of
from bench.forecast.fake import UncountableError, count, fill, run
from bench.forecast.trace import _PRIMES, Tracer, trace
from bench.worker.probes.counting import Counter, Work
from bench.worker.setup import unfreezing
from minbert.data.batches import plan_epoch
from minbert.kernels.reference import kernels
from tests.bench.synthetic_rows import cell
from tests.bench.workloads import ONE, SHAPES, THREE, VARIANTS, counts, of_parts, variant, workload
from tests.encoders import job as theirs

RANKS = [variant("lora", rank, "attn") for rank in (1, 2, 4, 8)]
FULL = variant("full")
UNFREEZING = variant("full", unfreeze="iterative")
MIB = 2**20


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


SIZES = [(4, 37), (64, 128), (200, 512)]
ACCUMULATED = FULL._replace(gradient_accumulation_steps=2)
CHECKPOINTED = FULL._replace(gradient_checkpointing="on")
HEAD, LORA = variant("head"), variant("lora", 8, "attn-only")
HALF, DORA = (variant(mode, 8, "all-lin-only", "bf16") for mode in ("lora", "dora"))


def job_of(which, longest=512, **changes):
    job = workload(dropout=0.1, **changes)
    return replace(job, cell=replace(job.cell, **which._replace(max_length=longest)._asdict()))


def counted_at(job, which, batch, length):
    largest = dict.fromkeys(("train", "train_largest", "evaluate_largest"), (batch, length))
    shapes = replace(SHAPES, **largest, accumulated=which.gradient_accumulation_steps)
    [counts] = count(job, {"": shapes}, which)[""]
    return counts


def peak(formulae, batch, length):
    tensors_mib = sum(formulae.tensors_mib(batch, length))
    return formulae.weights_mib + formulae.optimizer_mib + tensors_mib


@pytest.mark.parametrize(
    "which", [FULL, HEAD, HALF, DORA, variant("dora", 2, "all-lin"), ACCUMULATED, CHECKPOINTED]
)
def test_a_traced_step_gives_the_peak_and_the_work_of_every_size(which):
    formulae, steps = trace(job_of(which)), which.gradient_accumulation_steps
    for batch, length in SIZES:
        counts = counted_at(job_of(which), which._replace(max_length=512), batch, length)
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
        counts = counted_at(job, which, batch, length)
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


def test_memory_is_that_of_storages_while_they_live_and_work_all_that_is_read_and_written():
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
    with Counter() as counter:
        a, b = torch.empty(4, 8), torch.empty(8, 16)
        assert counter.work == Work()
        a @ b
        assert counter.work == Work(2 * 4 * 8 * 16, 4 * (32 + 128 + 64), 1)
        a.t().view(8, 4)
        assert counter.work.kernels == 1
        torch.add(a, a)
        assert counter.work == Work(2 * 4 * 8 * 16, 4 * (32 + 128 + 64) + 4 * 3 * 32, 2)
    q, k, v = (torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 3 * 5 * 5 * 4
    with Counter() as counter:
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        assert counter.work.flops == 2 * product
        out.sum().backward()
        assert counter.work.flops == (2 + 5) * product


ASKS = {
    torch.ops.aten.randint.default,  # a seed, once for each mask of dropout
    torch.ops.aten.eq.Scalar,  # zeros among magnitudes,
    torch.ops.aten.any.default,  # and rows of DoRA that cancel
    torch.ops.aten._local_scalar_dense.default,
}
"""What asks for values, which fake tensors don't have."""


class Unasked(Counter):
    """Counts all but what asks for values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = self.work
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if func in ASKS:
            self.work = before
        return out


def counted_fake(settings, shapes, which):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.forecast.fake.Counter", Unasked)
        return count(settings, shapes, which)


def counted_for_real(settings, shapes, which):
    settings = replace(settings, cell=replace(settings.cell, **which._asdict()))
    engine = engine_of(settings.cell)
    model = (engine.skeleton if engine is minbert else engine.build)(settings)
    values = [torch.ones_like(b, device="cpu") if b.is_meta else b.clone() for b in model.buffers()]
    gc.collect()
    with Unasked() as counter, kernels(settings.cell.kernels or "fast"):
        fill(model, torch.device("cpu"))
        with torch.no_grad():
            for parameter in model.parameters():  # memory may hold what is no number
                parameter.fill_(0.01)
            for buffer, value in zip(model.buffers(), values, strict=True):
                buffer.copy_(value)
        return run(model, settings, shapes, counter)


def by_name(counted):
    loads = {"step": counted.step, "evaluation": counted.evaluation}
    work = {f"{n}_{k}": v for n, load in loads.items() for k, v in load._asdict().items()}
    return {**{k: v for k, v in vars(counted).items() if k not in loads}, **work}


def check_alike(fake, real, rel=1e-12, mib=2048 / MIB, kernels=0.0):
    """Fail unless counts are alike; fake norms have means and deviations in half precision."""
    expected = by_name(real)
    for name, value in by_name(fake).items():
        close = mib if name.endswith("_mib") else kernels if name.endswith("kernels") else 0.0
        assert value == pytest.approx(expected[name], rel=rel, abs=close), name


STAGED = [
    UNFREEZING,
    *(variant(mode, 2, "all-lin", "bf16", unfreeze="iterative") for mode in ("lora", "dora")),
]
SETTINGS = [
    VARIANTS[0]._replace(gradient_checkpointing="on"),
    VARIANTS[4]._replace(gradient_accumulation_steps=2, gradient_checkpointing="on"),
    VARIANTS[6]._replace(gradient_accumulation_steps=4),
    *(variant(mode, 2, "all-lin-only")._replace(lora_dropout=0.1) for mode in ("lora", "dora")),
    *STAGED,
]


@pytest.mark.parametrize(("settings", "shapes", "which"), [
    *((workload(), ONE, VARIANTS[number]) for number in (1, 4, 8, 9, 10)),
    *((workload(), ONE, which) for which in SETTINGS),
    *((workload(task="sts"), ONE, VARIANTS[number]) for number in (0, 5)),
    *((workload(kernels="reference"), ONE, VARIANTS[number]) for number in (1, 7)),
    (of_parts(encoders=1, head="conv", regression_loss="pearson"), THREE, VARIANTS[0]),
    (of_parts(encoders=2, head="linear", regression_loss="mse"), THREE, VARIANTS[5]),
])  # fmt: skip
def test_fake_counts_are_those_of_the_same_run_for_real(settings, shapes, which):
    """Of each part, in each stage of unfreezing."""
    steps = which.gradient_accumulation_steps
    shapes = {part: replace(of, accumulated=steps) for part, of in shapes.items()}
    parts, real = (count(settings, shapes, which) for count in (counted_fake, counted_for_real))
    assert list(parts) == list(real) == list(shapes)
    for part, stages in parts.items():
        assert len(stages) == (3 if which in STAGED else 1)
        for one, other in zip(stages, real[part], strict=True):
            check_alike(one, other)


@pytest.mark.parametrize("which", [VARIANTS[5], VARIANTS[9], *STAGED[:2]])
def test_owners_are_what_a_cell_holds_in_each_stage(which):
    """AdamW has a step and two averages of each parameter that trains."""
    axes = which.mode, which.rank, which.layers, which.amp
    settings = {"unfreeze": which.unfreeze, "frozen_dtype": which.frozen_dtype}
    of = cell(*axes, model="bert-tiny", init="random", **settings)
    model = minbert.build(replace(workload(), cell=of))
    gradual = unfreezing(model, of)
    shapes = {"": replace(SHAPES, evaluations=5, steps=20)}
    stages = count(workload(init="random"), shapes, which)[""]
    assert len(stages) == (5 if which in STAGED else 1)
    for epoch, counted in enumerate(stages):
        if gradual is not None:
            gradual.begin(epoch)
        weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        state = sum(4 + 2 * p.nbytes for p in model.parameters() if p.requires_grad)
        assert counted.weights_mib == pytest.approx(weights / MIB, rel=1e-6)
        assert counted.optimizer_mib == pytest.approx(state / MIB, rel=1e-6)


def test_the_largest_batch_decides_the_peak_and_a_part_without_one_is_not_trained():
    larger = {"": replace(SHAPES, train_largest=(50, 16))}
    [small], [large] = (count(workload(), shapes, variant("head"))[""] for shapes in (ONE, larger))
    assert large.train_peak_mib > small.train_peak_mib
    assert large.evaluate_peak_mib == small.evaluate_peak_mib >= small.weights_mib
    assert large.step.gflop == small.step.gflop
    shapes = {part: THREE[part] for part in ("sst", "sts")}
    never = replace(shapes["sts"], train=(0, 0), train_largest=(0, 0), steps=0)
    settings, both = of_parts(encoders=1), (shapes | {"sts": never}, shapes)
    parts, whole = (count(settings, of, variant("head")) for of in both)
    [counted] = parts["sts"]
    assert counted.step.gflop == counted.train_peak_mib == 0
    assert counted.evaluation.gflop == whole["sts"][0].evaluation.gflop > 0


@pytest.mark.parametrize(("kind", "mode", "layers", "changes"), [
    ("roberta", "full", None, {}),
    ("deberta-v2", "head", None, {"dropout": 0.1}),
    ("deberta-v2", "dora", "attn-only", {}),
    ("modernbert", "lora", "all-lin-only", {"amp": "bf16", "frozen_dtype": "fp32"}),
])  # fmt: skip
def test_fake_counts_of_other_architectures_are_real(kind, mode, layers, changes, encoders):
    """But for masks: without values it is not known that nothing is masked."""
    job = theirs(encoders(kind), mode, layers, **changes)
    which = Variant.of(job.cell)
    [one], [other] = (count(job, ONE, which)[""] for count in (counted_fake, counted_for_real))
    check_alike(one, other, rel=0.02, mib=0.05, kernels=40)
    assert one.step.gflop == pytest.approx(other.step.gflop, rel=1e-9)
