"""From counts to MiB and seconds: the features of both models, and what is thought beforehand.

Memory: a worker's peak above its imports is what is there all the time (weights, the optimizer's
state), plus what comes and goes, which an allocator on the host spreads over more than
its size, plus a constant: libraries that load when first used, Python's own objects.

Time: a start, and for each operator, product and byte moved a little, the latter two by the type
that they are computed in.
"""

from typing import Final

from bench.predict.costs import Counts, Shapes, Variant, batches_of
from bench.predict.fit import Prior
from bench.steptimes import STEPS_ENOUGH

PANEL_STEPS: Final = 24
"""The fewest steps that the timing of a short training takes after it."""
PANEL_SHARE: Final = 0.15
"""Of the time of training: what that timing takes where it is more."""


def memory_features(variant: Variant, counts: Counts, _shapes: Shapes) -> tuple[float, ...]:
    """Features of the peak above imports, MiB."""
    half = variant.amp != "off"
    lasting = counts.weights_mib + counts.optimizer_mib
    passing = counts.peak_mib - lasting
    return 1.0, float(half), lasting, passing * (not half), passing * half


def memory_prior(device: str) -> Prior:
    """What is thought of the coefficients of `memory_features` where nothing has run.

    On a card a peak is what tensors hold. On the host it is more: an allocator keeps what was freed
    and can't give all of it again, and products in half precision copy what they read. How much
    more is taken from minilm on a machine with glibc.
    """
    if device.startswith("cuda"):
        return Prior((0.0, 0.0, 1.0, 1.0, 1.0), (30.0, 30.0, 0.2, 0.2, 0.2))
    return Prior((55.0, 20.0, 1.2, 1.05, 1.0), (100.0, 60.0, 0.3, 0.4, 0.5))


def train_features(variant: Variant, counts: Counts, shapes: Shapes) -> tuple[float, ...]:
    """Features of the time of all training steps, s."""
    steps = batches_of(shapes.train_tokens, shapes.train)
    kernels = shapes.steps * counts.step_kernels
    return _work(variant, kernels, steps * counts.step_gflop, steps * counts.step_moved_mib)


def time_features(variant: Variant, counts: Counts, shapes: Shapes) -> tuple[float, ...]:
    """Features of the wall time, s: of training, of timing it, and of evaluations."""
    batches = shapes.evaluations * batches_of(shapes.evaluate_tokens, shapes.evaluate_largest)
    kernels = shapes.evaluations * shapes.evaluate_batches * counts.evaluate_kernels
    gflop, moved = batches * counts.evaluate_gflop, batches * counts.evaluate_moved_mib
    timing = 0.0 if shapes.steps >= STEPS_ENOUGH else max(PANEL_STEPS / shapes.steps, PANEL_SHARE)
    steps = 1 + timing
    both = zip(
        train_features(variant, counts, shapes),
        _work(variant, kernels, gflop, moved),
        strict=True,
    )
    return 1.0, *(steps * train + evaluate for train, evaluate in both)


def _work(variant: Variant, kernels: float, gflop: float, moved: float) -> tuple[float, ...]:
    half = variant.amp != "off"
    return kernels, gflop * (not half), gflop * half, moved * (not half), moved * half


def time_prior(device: str, threads: int) -> Prior:
    """Rates of no machine in particular, right up to a factor of a few."""
    if device.startswith("cuda"):
        values = (8.0, 1e-5, 1 / 15_000, 1 / 100_000, 1 / 500_000, 1 / 500_000)
    else:
        values = (8.0, 5e-6, 1 / (60 * threads), 1 / (90 * threads), 1 / 12_000, 1 / 20_000)
    return Prior(values, values, rates=True)


def flops_per_token(counts: Counts, shapes: Shapes) -> float:
    """Floating-point operations of training for each real token."""
    steps = batches_of(shapes.train_tokens, shapes.train)
    return 1e9 * counts.step_gflop * steps / shapes.real_tokens
