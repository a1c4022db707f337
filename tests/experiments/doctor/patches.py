"""What goes wrong in the code that is checked, or around it.

A patch is a function of the value that it replaces, and returns another. It is called once the
module that holds the value is imported. No imports of its own: this file is imported before
everything else, in every process.
"""

import os
import signal
import sys
import time
from typing import Any


def of(module: str, name: str) -> Any:
    """Marks a patch with the module and the name of the value in it that it replaces."""

    def mark(replacement: Any) -> Any:
        def patch(loaded: Any) -> None:
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
def check_raises(_real: Any) -> Any:
    def check(context: Any) -> None:
        raise RuntimeError(f"no such thing in {context.folder}")

    return check


@_check
def check_hangs(_real: Any) -> Any:
    def check(context: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")  # noqa: S606
        print("hangs", file=sys.stderr, flush=True)
        time.sleep(60)

    return check


@_check
def check_skips(_real: Any) -> Any:
    def check(_context: Any) -> None:
        from bench.doctor.check import SkipError

        raise SkipError("not today")

    return check


@of("torch", "Tensor")
def torch_is_broken(_real: Any) -> Any:
    raise ImportError("libtorch_cpu.so: cannot open shared object file")


@of("torch", "mm")
def cores_slow_down(real: Any) -> Any:
    """The product with which cores are kept busy takes longer after two seconds."""
    begun: list[float] = []

    def slower(*matrices: Any, **options: Any) -> Any:
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
def memory_is_missed(real: Any) -> Any:
    def status() -> dict[str, float]:
        values = real()
        missed = values.get("RssAnon", 0.0) / 10
        names = values.keys() & {"VmHWM", "VmRSS", "RssAnon"}
        return values | {name: values[name] - missed for name in names}

    return status


@of("minbert.training.trainer", "Trainer.step")
def steps_grow(real: Any) -> Any:
    kept: list[bytes] = []
    return lambda *of: (kept.append(b"\1" * 2**21), real(*of))[1]


def _products(real: Any, dtype: str, wrong: Any) -> Any:
    def times(*of: Any) -> Any:
        y = real(*of)
        return wrong(y) if str(y.dtype) == f"torch.{dtype}" else y

    return times


bf16_is_wrong = _times(lambda real: _products(real, "bfloat16", lambda y: y * 1.01))
fp32_is_short = _times(lambda real: _products(real, "float32", lambda y: y.bfloat16().float()))


@of("adapters.product", "_backward")
def dora_is_wrong(real: Any) -> Any:
    def backward(*of: Any) -> Any:
        du, da, db, dm = real(*of)
        return du, da, db, None if dm is None else dm * 1.05

    return backward


@of("minbert.model.classifier", "BertClassifier.__init__")
def dropout_stays_on(real: Any) -> Any:
    def init(self: Any, config: Any, *others: Any, **named: Any) -> None:
        from dataclasses import replace

        if config.hidden_dropout_prob == 0:
            config = replace(config, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
        real(self, config, *others, **named)

    return init


@of("minbert.training.compiled", "CompiledModel.__call__")
def compiles_again(real: Any) -> Any:
    def call(*of: Any) -> Any:
        import torch

        torch._dynamo.reset()
        return real(*of)

    return call


@of("bench.forecast.forecast", "Forecast.predict")
def forecast_is_off(real: Any) -> Any:
    def predict(*of: Any) -> Any:
        from dataclasses import replace

        predicted = real(*of)
        return replace(predicted, predicted_peak_mib=predicted.predicted_peak_mib * 4 / 3)

    return predict


other_heads = of("bench.engines.transformers", "_draw_head")(lambda _real: lambda *_: None)
oom_is_a_crash = of("bench.worker.device", "is_out_of_memory")(lambda _real: lambda _error: False)
row_lacks_peak = of("bench.worker.run", "CellRun.memory")(lambda _real: lambda _self: {})
