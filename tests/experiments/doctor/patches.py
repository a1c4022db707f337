"""What goes wrong in the code that is checked, or around it.

A patch is a function of the value that it replaces, and returns another. It is called once the
module that holds the value is imported. No imports of its own: this file is imported before
everything else, in every process.
"""

import os
import signal
import sys
import time


def of(module, name):
    """Marks a patch with the module and the name of the value in it that it replaces."""

    def mark(replacement):
        def patch(loaded):
            *outer, last = name.split(".")
            holder = getattr(loaded, outer[0]) if outer else loaded
            setattr(holder, last, replacement(getattr(holder, last)))

        patch.module = module  # type: ignore[attr-defined]
        return patch

    return mark


_check = of("bench.doctor.checks.software", "memory")
_environment = of("bench.machine.environment", "worker_environment")
_elapsed_ms = of("bench.worker.probes.steps", "StepClock._elapsed_ms")
_times = of("minbert.kernels.products", "times")


@_check
def check_raises(_real):
    def check(context):
        raise RuntimeError(f"no such thing in {context.folder}")

    return check


@_check
def check_hangs(_real):
    def check(context):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")  # noqa: S606
        print("hangs", file=sys.stderr, flush=True)
        time.sleep(60)

    return check


@_check
def check_skips(_real):
    def check(_context):
        from bench.doctor.check import SkipError

        raise SkipError("not today")

    return check


@of("torch", "Tensor")
def torch_is_broken(_real):
    raise ImportError("libtorch_cpu.so: cannot open shared object file")


@of("torch", "mm")
def cores_slow_down(real):
    """The product with which cores are kept busy takes longer after two seconds."""
    begun = []

    def slower(*matrices, **options):
        begun.append(time.monotonic())
        if begun[-1] - begun[0] > 2:
            real(*matrices, **options)
        return real(*matrices, **options)

    return slower


no_tunables = _environment(lambda real: lambda *of, **_others: real(*of, tuned=False))
half_the_threads = _environment(
    lambda real: (
        lambda inherited, threads, *of, **others: real(
            inherited, max(1, threads // 2), *of, **others
        )
    )
)
precision_is_inherited = _environment(
    lambda real: (
        lambda *of, **others: (
            real(*of, **others)
            | {"NVIDIA_TF32_OVERRIDE": "1", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}
        )
    )
)
clock_is_fast = _elapsed_ms(lambda real: lambda *times: 1.03 * real(*times))
clock_is_slow = _elapsed_ms(lambda real: lambda *times: 0.97 * real(*times))
peak_is_not_reset = of("bench.worker.probes.memory", "forget_peak")(lambda _real: lambda: None)


@of("bench.worker.probes.memory", "_status")
def memory_is_missed(real):
    def status():
        values = real()
        missed = values.get("RssAnon", 0.0) / 10
        names = values.keys() & {"VmHWM", "VmRSS", "RssAnon"}
        return values | {name: values[name] - missed for name in names}

    return status


@of("minbert.training.trainer", "Trainer.step")
def steps_grow(real):
    kept = []
    return lambda *of: (kept.append(b"\1" * 2**21), real(*of))[1]


def _products(real, dtype, wrong):
    def times(*of):
        y = real(*of)
        return wrong(y) if str(y.dtype) == f"torch.{dtype}" else y

    return times


bf16_is_wrong = _times(lambda real: _products(real, "bfloat16", lambda y: y * 1.01))
fp32_is_short = _times(lambda real: _products(real, "float32", lambda y: y.bfloat16().float()))


@of("adapters.product", "_backward")
def dora_is_wrong(real):
    def backward(*of):
        du, da, db, dm = real(*of)
        return du, da, db, None if dm is None else dm * 1.05

    return backward


@of("minbert.model.classifier", "BertClassifier.__init__")
def dropout_stays_on(real):
    def init(self, config, *others, **named):
        from dataclasses import replace

        if config.hidden_dropout_prob == 0:
            config = replace(config, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
        real(self, config, *others, **named)

    return init


@of("minbert.training.compiled", "CompiledModel.__call__")
def compiles_again(real):
    def call(*of):
        import torch

        torch._dynamo.reset()
        return real(*of)

    return call


@of("bench.forecast.forecast", "Forecast.predict")
def forecast_is_off(real):
    def predict(*of):
        from dataclasses import replace

        predicted = real(*of)
        return replace(predicted, predicted_peak_mib=predicted.predicted_peak_mib * 4 / 3)

    return predict


other_heads = of("bench.engines.transformers", "_draw_head")(lambda _real: lambda *_: None)
oom_is_a_crash = of("bench.worker.device", "is_out_of_memory")(lambda _real: lambda _error: False)
row_lacks_peak = of("bench.worker.run", "CellRun.memory")(lambda _real: lambda _self: {})
