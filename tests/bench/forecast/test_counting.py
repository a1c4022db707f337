"""What is counted on fake tensors is what real ones take."""

import gc
from dataclasses import replace

import pytest
import torch

from bench.engines import minbert
from bench.engines.engine import engine_of
from bench.forecast.costs import Variant
from bench.forecast.fake import count, fill, run
from bench.worker.probes.counting import Counter, Work
from bench.worker.setup import unfreezing
from minbert.kernels.reference import kernels
from tests.bench.synthetic_rows import cell
from tests.bench.workloads import ONE, SHAPES, THREE, VARIANTS, of_parts, variant, workload
from tests.encoders import job as theirs

CPU, MIB = torch.device("cpu"), 2**20


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
    """As `count`, without what asks for values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.forecast.fake.Counter", Unasked)
        return count(settings, shapes, which)


def counted_for_real(settings, shapes, which):
    settings = replace(settings, cell=replace(settings.cell, **which._asdict()))
    engine = engine_of(settings.cell)
    model = (engine.skeleton if engine is minbert else engine.build)(settings)
    values = [torch.ones_like(b, device=CPU) if b.is_meta else b.clone() for b in model.buffers()]
    gc.collect()
    with Unasked() as counter, kernels(settings.cell.kernels or "fast"):
        fill(model, CPU)
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
    variant("full", unfreeze="iterative"),
    *(variant(mode, 2, "all-lin", "bf16", unfreeze="iterative") for mode in ("lora", "dora")),
]
FEW, PAIRS = ({part: THREE[part] for part in (first, "sts")} for first in ("sst", "quora"))
USUAL, REFERENCE = workload(), workload(kernels="reference")


@pytest.mark.parametrize(("settings", "shapes", "which"), [
    *((USUAL, ONE, which) for which in (VARIANTS[1], *VARIANTS[8:11], STAGED[0], STAGED[2])),
    (USUAL, ONE, VARIANTS[6]._replace(lora_dropout=0.1, gradient_accumulation_steps=4)),
    (REFERENCE, ONE, VARIANTS[1]._replace(gradient_checkpointing="on")),
    (USUAL, ONE, variant("lora", 2, "all-lin-only")._replace(lora_dropout=0.1)),
    (REFERENCE, ONE, VARIANTS[7]),
    (workload(task="sts"), ONE,
     VARIANTS[4]._replace(gradient_accumulation_steps=2, gradient_checkpointing="on")),
    (of_parts(encoders=1, head="conv", regression_loss="pearson"), FEW, VARIANTS[0]),
    (of_parts(encoders=2, head="linear", regression_loss="mse"), PAIRS, VARIANTS[5]),
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
