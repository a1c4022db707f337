"""What goes wrong in the code that is checked, or around it. No imports of its own: it is imported
before everything else, in every process."""

import os
import signal
import sys
import time
from typing import Any


def of(module: str) -> Any:
    """Marks a patch with the module that it changes."""

    def mark(patch: Any) -> Any:
        patch.module = module
        return patch

    return mark


# the frame


@of("bench.doctor.checks.memory_limit")
def check_raises(module: Any) -> None:
    def check(context: Any) -> None:
        raise RuntimeError(f"no such thing in {context.folder}")

    module.check = check


@of("bench.doctor.checks.memory_limit")
def check_hangs(module: Any) -> None:
    def check(context: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")  # noqa: S606
        print("hangs", file=sys.stderr, flush=True)
        time.sleep(60)

    module.check = check


@of("bench.doctor.checks.memory_limit")
def check_is_killed(module: Any) -> None:
    module.check = lambda _context: os.kill(os.getpid(), signal.SIGSEGV)


@of("bench.doctor.checks.memory_limit")
def check_skips(module: Any) -> None:
    def check(_context: Any) -> None:
        from bench.doctor.check import SkipError

        raise SkipError("not today")

    module.check = check


@of("torch")
def torch_is_broken(module: Any) -> None:
    raise ImportError("libtorch_cpu.so: cannot open shared object file")


# the machine


@of("torch")
def cores_slow_down(module: Any) -> None:
    """The product with which cores are kept busy takes longer after two seconds."""
    mm, begun = module.mm, []

    def slower(*matrices: Any, **options: Any) -> Any:
        begun.append(time.monotonic())
        if begun[-1] - begun[0] > 2:
            mm(*matrices, **options)
        return mm(*matrices, **options)

    module.mm = slower


# the environment of workers


def _environment(module: Any, change: Any) -> None:
    real = module.worker_environment

    def worker_environment(inherited: Any, threads: int, gpu: str = "", **others: Any) -> Any:
        return change(real, inherited, threads, gpu, others)

    module.worker_environment = worker_environment


@of("bench.machine.environment")
def no_tunables(module: Any) -> None:
    _environment(
        module,
        lambda real, inherited, threads, gpu, _others: real(inherited, threads, gpu, tuned=False),
    )


@of("bench.machine.environment")
def precision_is_inherited(module: Any) -> None:
    inherits = {"NVIDIA_TF32_OVERRIDE": "1", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}
    _environment(
        module,
        lambda real, inherited, threads, gpu, others: (
            real(inherited, threads, gpu, **others) | inherits
        ),
    )


@of("bench.machine.environment")
def half_the_threads(module: Any) -> None:
    _environment(
        module,
        lambda real, inherited, threads, gpu, others: real(
            inherited, max(1, threads // 2), gpu, **others
        ),
    )


# clocks and counters


def _clock(module: Any, factor: float) -> None:
    real = module.StepClock._elapsed_ms
    module.StepClock._elapsed_ms = lambda *times: factor * real(*times)


@of("bench.worker.probes.steps")
def clock_is_fast(module: Any) -> None:
    _clock(module, 1.03)


@of("bench.worker.probes.steps")
def clock_is_slow(module: Any) -> None:
    _clock(module, 0.97)


@of("bench.worker.probes.memory")
def peak_is_not_reset(module: Any) -> None:
    module.forget_peak = lambda: None


@of("bench.worker.probes.memory")
def memory_is_missed(module: Any) -> None:
    """A tenth of the anonymous memory is not counted."""
    real = module._status

    def status() -> dict[str, float]:
        values = real()
        missed = values.get("RssAnon", 0.0) / 10
        return values | {
            name: values[name] - missed for name in ("VmHWM", "VmRSS", "RssAnon") if name in values
        }

    module._status = status


# training


@of("minbert.training.trainer")
def steps_grow(module: Any) -> None:
    """Every step keeps 2 MiB more than the one before."""
    real, kept = module.Trainer.step, []

    def step(self: Any, batch: Any) -> Any:
        kept.append(b"\1" * 2**21)
        return real(self, batch)

    module.Trainer.step = step


def _products(module: Any, dtype: str, wrong: Any) -> None:
    real = module.times

    def times(x: Any, weight: Any, bias: Any = None) -> Any:
        y = real(x, weight, bias)
        return wrong(y) if str(y.dtype) == f"torch.{dtype}" else y

    module.times = times


@of("minbert.kernels.products")
def bf16_is_wrong(module: Any) -> None:
    """A hundredth too large, as if scaled in too few bits."""
    _products(module, "bfloat16", lambda y: y * 1.01)


@of("minbert.kernels.products")
def fp32_is_short(module: Any) -> None:
    """Rounded to bf16, as a fast mode of a library does."""
    _products(module, "float32", lambda y: y.bfloat16().float())


@of("adapters.product")
def dora_is_wrong(module: Any) -> None:
    """The fast path's gradient of DoRA's magnitudes is a twentieth too large."""
    real = module._backward

    def backward(ctx: Any, gradient: Any) -> Any:
        du, da, db, dm = real(ctx, gradient)
        return du, da, db, None if dm is None else dm * 1.05

    module._backward = backward


@of("minbert.model.classifier")
def dropout_stays_on(module: Any) -> None:
    """Models that are built without dropout have some."""
    from dataclasses import replace

    real = module.BertClassifier.__init__

    def init(self: Any, config: Any, *others: Any, **named: Any) -> None:
        if config.hidden_dropout_prob == 0:
            config = replace(config, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
        real(self, config, *others, **named)

    module.BertClassifier.__init__ = init


@of("minbert.training.compiled")
def compiles_again(module: Any) -> None:
    """Every step forgets what was compiled."""
    real = module.CompiledModel.__call__

    def call(self: Any, batch: Any) -> Any:
        import torch

        torch._dynamo.reset()
        return real(self, batch)

    module.CompiledModel.__call__ = call


# cells


@of("bench.engines.transformers")
def other_heads(module: Any) -> None:
    """Engine transformers starts from another head."""
    module._draw_head = lambda *_: None


@of("bench.forecast.forecast")
def forecast_is_off(module: Any) -> None:
    """Peaks are forecast a third too high."""
    from dataclasses import replace

    real = module.Forecast.predict

    def predict(self: Any, variant: Any) -> Any:
        predicted = real(self, variant)
        return replace(predicted, peak_mib=predicted.peak_mib * 4 / 3)

    module.Forecast.predict = predict


@of("bench.worker.failures")
def oom_is_a_crash(module: Any) -> None:
    module.is_out_of_memory = lambda _error: False


@of("bench.worker.run")
def row_lacks_peak(module: Any) -> None:
    module.CellRun.memory = lambda _self: {}
