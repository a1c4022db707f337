"""Formulae from one traced step are what counting gives at each batch size and length."""

from dataclasses import replace

import pytest

from bench.forecast.fake import UncountableError, count
from bench.forecast.trace import _PRIMES, Tracer, trace
from tests.bench.workloads import SHAPES, variant, workload
from tests.encoders import Checkpoints, need_transformers
from tests.encoders import job as theirs

SIZES = [(4, 37), (64, 128), (200, 512)]
ACCUMULATED = variant("full")._replace(gradient_accumulation_steps=2)
CHECKPOINTED = variant("full")._replace(gradient_checkpointing="on")
FULL, LORA = variant("full"), variant("lora", 8, "attn-only")
TRACED = [
    FULL,
    LORA,
    variant("head"),
    variant("lora", 8, "all-lin-only", "bf16"),
    variant("dora", 8, "all-lin-only", "bf16"),
    variant("dora", 2, "all-lin"),
    ACCUMULATED,
    CHECKPOINTED,
]


def job_of(which, longest=512, **changes):
    job = workload(dropout=0.1, **changes)
    return replace(job, cell=replace(job.cell, **which._replace(max_length=longest)._asdict()))


def counted(job, which, batch, length):
    """The peak and the step of a batch, counted at that size."""
    shape, steps = (batch, length), which.gradient_accumulation_steps
    shapes = replace(
        SHAPES, train=shape, train_largest=shape, evaluate_largest=shape, accumulated=steps
    )
    [counts] = count(job, {"": shapes}, which)[""]
    return counts


def peak(formulae, batch, length):
    lasting = formulae.weights_mib + formulae.optimizer_mib
    return lasting + sum(formulae.tensors_mib(batch, length))


@pytest.mark.parametrize("which", TRACED)
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
    full, lora, head = (trace(job_of(which)) for which in (FULL, LORA, variant("head")))
    gradients, activations, _ = full.tensors_mib(1, 8)
    assert gradients == pytest.approx(full.weights_mib, rel=0.001), "of all weights, at the end"
    gradients, activations, others = full.tensors_mib(200, 128)
    assert activations > others > gradients, "at the begin of a backward pass"
    assert lora.tensors_mib(200, 128)[0] < 0.1
    assert head.tensors_mib(200, 128)[1] < 0.02 * activations, "nothing is kept without adapters"
    checkpointed = trace(job_of(CHECKPOINTED)).tensors_mib(200, 128)[1]
    assert checkpointed < 0.25 * activations, "of each layer its input alone"


@pytest.mark.parametrize(
    ("kind", "mode", "layers", "settings"),
    [
        ("roberta", "lora", "all-lin-only", {}),
        ("deberta-v2", "dora", "attn-only", {}),
        ("modernbert", "full", None, {"amp": "bf16"}),
    ],
)
def test_other_architectures_are_traced(kind, mode, layers, settings, tmp_path_factory):
    need_transformers()
    encoders = Checkpoints(tmp_path_factory.mktemp("encoders"))
    job = theirs(encoders(kind), mode, layers, **settings)
    longest = job.cell.max_length
    which = variant(mode, 2, layers)._replace(
        **{name: getattr(job.cell, name) for name in FULL._fields}
    )
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
    half, fp16 = (
        trace(job_of(variant("full", amp=amp), device="cuda:0")) for amp in ("bf16", "fp16")
    )
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
