"""From counts to MiB and seconds: the features and priors of two linear models.

Memory: a worker's peak above its imports is the sum of what stays in memory (weights, the
optimizer's state), of what comes and goes, which takes more than its size in an allocator on the
host, and of a constant: libraries that load when first used, and Python's own objects.

Time: a constant for the start, plus a little for each operator, product and byte moved. Products
and bytes have rates by the type that they are computed in.
"""

from typing import Final

from bench.forecast.costs import Load, Totals, Variant
from bench.forecast.fit import Prior
from bench.plan.cell import ON
from bench.stats.steptimes import STEPS_ENOUGH

REPLAYED_STEPS: Final = 24
"""The fewest steps that are run to time a short training after its end."""
MOST_REPLAYED_STEPS: Final = 52
"""The most of these steps, with one pass to warm up."""
REPLAYED_SHARE: Final = 0.15
"""Share of the training's steps that are run to time it, between these bounds."""


def memory_features(variant: Variant, totals: Totals) -> tuple[float, ...]:
    """Features of the peak above imports, MiB."""
    half, passing = variant.amp != "off", totals.passing_mib
    return 1.0, float(half), totals.lasting_mib, passing * (not half), passing * half


def memory_prior(device: str) -> Prior:
    """The coefficients of `memory_features` to expect before anything has run.

    On a GPU, the peak is the memory of tensors. On the host it is more: an allocator keeps freed
    memory and can't reuse all of it, and products in half precision copy their inputs. The values
    for the host were measured with minilm and glibc.
    """
    if device.startswith("cuda"):
        return Prior((0.0, 0.0, 1.0, 1.0, 1.0), (30.0, 30.0, 0.2, 0.2, 0.2))
    return Prior((55.0, 20.0, 1.2, 1.05, 1.0), (100.0, 60.0, 0.3, 0.4, 0.5))


def load_features(variant: Variant, load: Load) -> tuple[float, ...]:
    """Features of the time of some work, s."""
    half = variant.amp != "off"
    tensor_cores = half or variant.tf32 == ON
    kernels, gflop, moved = load
    products = gflop * (not tensor_cores), gflop * tensor_cores
    return kernels, *products, moved * (not half), moved * half


def time_features(variant: Variant, totals: Totals) -> tuple[float, ...]:
    """Features of the wall time, s: training, timing it afterwards, and evaluations."""
    timing = replayed_steps(variant, totals.steps) / totals.steps
    loads = (totals.train, totals.timed, totals.evaluate)
    columns = zip(*(load_features(variant, load) for load in loads), strict=True)
    return 1.0, *(train + timing * step + evaluate for train, step, evaluate in columns)


def replayed_steps(variant: Variant, steps: float) -> float:
    """The number of steps that are run after a training of `steps` steps, to time it: 0 after one
    long enough to give step times by itself. One that unfreezes layers does not give them: its
    steps are of several kinds."""
    if steps >= STEPS_ENOUGH and not variant.unfreezes:
        return 0.0
    return min(max(REPLAYED_STEPS, REPLAYED_SHARE * steps), MOST_REPLAYED_STEPS)


def time_prior(device: str, threads: int) -> Prior:
    """Rates of a typical machine, right within a factor of a few."""
    if device.startswith("cuda"):
        values = (8.0, 1e-5, 1 / 15_000, 1 / 100_000, 1 / 500_000, 1 / 500_000)
    else:
        values = (8.0, 5e-6, 1 / (60 * threads), 1 / (90 * threads), 1 / 12_000, 1 / 20_000)
    return Prior(values, values, rates=True)
