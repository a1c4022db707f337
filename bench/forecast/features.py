"""From counts to MiB and seconds: the features of both models, and what is thought beforehand.

Memory: a worker's peak above its imports is what is there all the time (weights, the optimizer's
state), plus what comes and goes, which an allocator on the host spreads over more than
its size, plus a constant: libraries that load when first used, Python's own objects.

Time: a start, and for each operator, product and byte moved a little, the latter two by the type
that they are computed in.
"""

from typing import Final

from bench.forecast.costs import Variant
from bench.forecast.fit import Prior
from bench.forecast.totals import Load, Totals
from bench.stats.steptimes import STEPS_ENOUGH

PANEL_STEPS: Final = 24
"""The fewest steps that a timing after training takes."""
MOST_PANEL_STEPS: Final = 52
"""And the most, with one pass to warm up."""
PANEL_SHARE: Final = 0.15
"""Of the time of training: what that timing takes between the two."""


def memory_features(variant: Variant, totals: Totals) -> tuple[float, ...]:
    """Features of the peak above imports, MiB."""
    half, passing = variant.amp != "off", totals.passing_mib
    return 1.0, float(half), totals.lasting_mib, passing * (not half), passing * half


def memory_prior(device: str) -> Prior:
    """What is thought of the coefficients of `memory_features` where nothing has run.

    On a GPU a peak is what tensors hold. On the host it is more: an allocator keeps what was freed
    and can't give all of it again, and products in half precision copy what they read. How much
    more is taken from minilm on a machine with glibc.
    """
    if device.startswith("cuda"):
        return Prior((0.0, 0.0, 1.0, 1.0, 1.0), (30.0, 30.0, 0.2, 0.2, 0.2))
    return Prior((55.0, 20.0, 1.2, 1.05, 1.0), (100.0, 60.0, 0.3, 0.4, 0.5))


def load_features(variant: Variant, load: Load) -> tuple[float, ...]:
    """Features of the time that some work takes, s."""
    half = variant.amp != "off"
    kernels, gflop, moved = load
    return kernels, gflop * (not half), gflop * half, moved * (not half), moved * half


def time_features(variant: Variant, totals: Totals) -> tuple[float, ...]:
    """Features of the wall time, s: of training, of timing it, and of evaluations."""
    timing = panel_steps(variant, totals.steps) / totals.steps
    loads = (totals.train, totals.timed, totals.evaluate)
    of_loads = zip(*(load_features(variant, load) for load in loads), strict=True)
    return 1.0, *(train + timing * step + evaluate for train, step, evaluate in of_loads)


def panel_steps(variant: Variant, steps: float) -> float:
    """How many steps are taken after a training of so many, to time them.

    None after a training that shows its own step times. One that unfreezes does not: its steps are
    of several kinds.
    """
    if steps >= STEPS_ENOUGH and not variant.unfreezes:
        return 0.0
    return min(max(PANEL_STEPS, PANEL_SHARE * steps), MOST_PANEL_STEPS)


def time_prior(device: str, threads: int) -> Prior:
    """Rates of no machine in particular, right up to a factor of a few."""
    if device.startswith("cuda"):
        values = (8.0, 1e-5, 1 / 15_000, 1 / 100_000, 1 / 500_000, 1 / 500_000)
    else:
        values = (8.0, 5e-6, 1 / (60 * threads), 1 / (90 * threads), 1 / 12_000, 1 / 20_000)
    return Prior(values, values, rates=True)


def flops_per_token(totals: Totals) -> float:
    """Floating-point operations of training for each real token."""
    return 1e9 * totals.train.gflop / totals.real_tokens
