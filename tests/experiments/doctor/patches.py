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

        patch.__name__, patch.module = replacement.__name__, module  # type: ignore[attr-defined]
        return patch

    return mark


@of("bench.doctor.checks.memory_limit", "check")
def check_raises(_real: Any) -> Any:
    def check(context: Any) -> None:
        raise RuntimeError(f"no such thing in {context.folder}")

    return check


@of("bench.doctor.checks.memory_limit", "check")
def check_hangs(_real: Any) -> Any:
    def check(context: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")  # noqa: S606
        print("hangs", file=sys.stderr, flush=True)
        time.sleep(60)

    return check


@of("bench.doctor.checks.memory_limit", "check")
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


@of("bench.machine.environment", "worker_environment")
def no_tunables(real: Any) -> Any:
    return lambda *arguments, **_others: real(*arguments, tuned=False)


@of("bench.machine.environment", "worker_environment")
def precision_is_inherited(real: Any) -> Any:
    inherits = {"NVIDIA_TF32_OVERRIDE": "1", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}
    return lambda *arguments, **others: real(*arguments, **others) | inherits


@of("bench.machine.environment", "worker_environment")
def half_the_threads(real: Any) -> Any:
    return lambda inherited, threads, *gpu, **others: real(
        inherited, max(1, threads // 2), *gpu, **others
    )


@of("bench.worker.probes.steps", "StepClock._elapsed_ms")
def clock_is_fast(real: Any) -> Any:
    return lambda *times: 1.03 * real(*times)


@of("bench.worker.probes.steps", "StepClock._elapsed_ms")
def clock_is_slow(real: Any) -> Any:
    return lambda *times: 0.97 * real(*times)


@of("bench.worker.probes.memory", "forget_peak")
def peak_is_not_reset(_real: Any) -> Any:
    return lambda: None


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


@of("minbert.kernels.products", "times")
def bf16_is_wrong(real: Any) -> Any:
    return _products(real, "bfloat16", lambda y: y * 1.01)


@of("minbert.kernels.products", "times")
def fp32_is_short(real: Any) -> Any:
    return _products(real, "float32", lambda y: y.bfloat16().float())


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


@of("bench.engines.transformers", "_draw_head")
def other_heads(_real: Any) -> Any:
    return lambda *_: None


@of("bench.forecast.forecast", "Forecast.predict")
def forecast_is_off(real: Any) -> Any:
    def predict(*of: Any) -> Any:
        from dataclasses import replace

        predicted = real(*of)
        return replace(predicted, peak_mib=predicted.peak_mib * 4 / 3)

    return predict


@of("bench.worker.failures", "is_out_of_memory")
def oom_is_a_crash(_real: Any) -> Any:
    return lambda _error: False


@of("bench.worker.run", "CellRun.memory")
def row_lacks_peak(_real: Any) -> Any:
    return lambda _self: {}
