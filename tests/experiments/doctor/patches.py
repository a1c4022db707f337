"""What goes wrong in the code that is checked: patches, called instead of a module's function and
with it as their first argument. Every process imports this file before everything else."""

import os
import signal
import sys
import time


def of(module, name):
    """Marks a patch with the module and the name of the function in it that it replaces."""

    def mark(instead):
        def patch(loaded):
            *outer, last = name.split(".")
            holder = getattr(loaded, outer[0]) if outer else loaded
            real = getattr(holder, last)
            setattr(holder, last, lambda *of, **named: instead(real, *of, **named))

        patch.module = module
        return patch

    return mark


_check = of("bench.doctor.checks.software", "memory")
_environment = of("bench.machine.environment", "worker_environment")
_elapsed_ms = of("bench.worker.probes.steps", "StepClock._elapsed_ms")


@_check
def check_raises(_real, context):
    raise RuntimeError(f"no such thing in {context.folder}")


@_check
def check_hangs(_real, _context):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")  # noqa: S606
    print("hangs", file=sys.stderr, flush=True)
    time.sleep(60)


@_check
def check_skips(_real, _context):
    from bench.doctor.check import SkipError

    raise SkipError("not today")


def torch_is_broken(_loaded):
    raise ImportError("libtorch_cpu.so: cannot open shared object file")


torch_is_broken.module = "torch"
_products_begun = []


@of("torch", "mm")
def cores_slow_down(real, *matrices, **options):
    """The product with which cores are kept busy takes longer after two seconds."""
    _products_begun.append(time.monotonic())
    if _products_begun[-1] - _products_begun[0] > 2:
        real(*matrices, **options)
    return real(*matrices, **options)


no_tunables = _environment(lambda real, *of, **_others: real(*of, tuned=False))
half_the_threads = _environment(
    lambda real, inherited, threads, *of, **others: real(inherited, -(-threads // 2), *of, **others)
)


@_environment
def precision_is_inherited(real, *of, **others):
    variables = {"NVIDIA_TF32_OVERRIDE": "1", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}
    return real(*of, **others) | variables


clock_is_fast = _elapsed_ms(lambda real, *times: 1.03 * real(*times))
clock_is_slow = _elapsed_ms(lambda real, *times: 0.97 * real(*times))
peak_is_not_reset = of("bench.worker.probes.memory", "forget_peak")(lambda _real: None)


@of("bench.worker.probes.memory", "_status")
def memory_is_missed(real):
    values = real()
    names = values.keys() & {"VmHWM", "VmRSS", "RssAnon"}
    return values | {name: values[name] - values["RssAnon"] / 10 for name in names}


_steps_kept = []


@of("minbert.training.trainer", "Trainer.step")
def steps_grow(real, *of):
    _steps_kept.append(b"\1" * 2**21)
    return real(*of)


def _products_are(dtype, change):
    def product(real, *of):
        y = real(*of)
        return change(y) if str(y.dtype) == dtype else y

    return of("minbert.kernels.products", "times")(product)


bf16_is_wrong = _products_are("torch.bfloat16", lambda y: y * 1.01)
fp32_is_short = _products_are("torch.float32", lambda y: y.bfloat16().float())


@of("adapters.product", "_backward")
def dora_is_wrong(real, *of):
    du, da, db, dm = real(*of)
    return du, da, db, None if dm is None else dm * 1.05


@of("minbert.model.classifier", "BertClassifier.__init__")
def dropout_stays_on(real, self, config, *others, **named):
    from dataclasses import replace

    if config.hidden_dropout_prob == 0:
        config = replace(config, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    real(self, config, *others, **named)


@of("minbert.training.compiled", "CompiledModel.__call__")
def compiles_again(real, *of):
    sys.modules["torch"]._dynamo.reset()
    return real(*of)


@of("bench.forecast.forecast", "Forecast.predict")
def forecast_is_off(real, *of):
    from dataclasses import replace

    predicted = real(*of)
    return replace(predicted, predicted_peak_mib=predicted.predicted_peak_mib * 4 / 3)


other_heads = of("bench.engines.transformers", "_draw_head")(lambda _real, *_of: None)
oom_is_a_crash = of("minbert.errors", "is_out_of_memory")(lambda _real, _error: False)
row_lacks_peak = of("bench.worker.run", "CellRun.memory")(lambda _real, _self: {})
