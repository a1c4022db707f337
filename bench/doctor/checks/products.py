"""Matrix products by type: their errors, and their speed at a step's sizes against a large one."""

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from bench.doctor.check import FAILED, Context, Finding, judged
from bench.worker.probes.products import KINDS, Products, measure_gflops
from minbert.kernels.products import sum_over_tokens, thin_over_tokens, times
from minbert.model.config import GEOMETRIES
from minbert.training.trainer import HALF

_TOKENS, _RANK = 1344, 8
_LARGE: Final = ("forward", 2048, 2048, 2048)
_ROUNDS: Final = 8
"""The fastest counts, so that other programs don't slow a whole shape."""
TOLERANCES: Final = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-10}
"""Of the error relative to the product in fp64, both as norms. In fp32 sums of 1,536 terms err by
1e-6 and TF32 by 3e-4; in half precision the result's rounding is at most 2^-9 or 2^-12 by itself,
and the ends of partial sums add to it."""
SLOWEST: Final = 0.1
"""Of the speed of a large product: on a CPU, products of a step reach more than half of it. A GPU's
large products are so fast that a step's reach less, so nothing is concluded there."""


def check(context: Context) -> Finding:
    """Compare products with fp64, and measure their speeds."""
    device = torch.device(context.device)
    errors = {amp: _error(HALF.get(amp, torch.float32), device) for amp in context.amps}
    wrong = [amp for amp in errors if not errors[amp] <= TOLERANCES[HALF.get(amp, torch.float32)]]
    figures = {f"error_{amp}": error for amp, error in errors.items()}
    if wrong:
        text = ", ".join(f"{_name(amp)} by {errors[amp]:.1e}" for amp in wrong)
        remedy = "don't trust any cell in that type here: update torch, and report this"
        return Finding(FAILED, f"products are wrong in {text}", remedy, figures)
    hidden, wide = GEOMETRIES["minilm"].hidden_size, GEOMETRIES["minilm"].intermediate_size
    products = Products()
    for kind in KINDS:  # of a layer
        products.wide[kind, _TOKENS, hidden, hidden] = 4
        products.wide[kind, _TOKENS, wide, hidden] = products.wide[kind, _TOKENS, hidden, wide] = 1
    texts, shares, wanted = [], [], [*products.wide, _LARGE]
    for amp in dict.fromkeys(("off", context.amp_on)):
        rounds = [dict(measure_gflops(wanted, amp, device)) for _ in range(_ROUNDS)]
        speeds = {shape: max(speeds[shape] for speeds in rounds) for shape in wanted}
        large = speeds.pop(_LARGE)
        step = products.flops / products.milliseconds(speeds) / 1e6
        figures |= {f"step_gflops_{amp}": step, f"large_gflops_{amp}": large}
        shares.append(step / large)
        texts.append(f"{_name(amp)} {step:,.0f} GFLOP/s in a step, {step / large:.0%} of a large")
    ratio = figures[f"step_gflops_{context.amp_on}"] / figures["step_gflops_off"]
    figures["half_over_fp32"] = ratio
    if ratio < 1:
        texts.append(f"{context.amp_on} is slower than fp32 here: it is emulated")
    slow = device.type == "cpu" and min(shares) < SLOWEST
    remedy = "products of small matrices are slow here: try fewer threads (taskset), another torch"
    return replace(judged(not slow, "; ".join(texts), remedy, figures), is_advice=slow)


def _name(amp: str) -> str:
    return "fp32" if amp == "off" else amp


def _error(dtype: torch.dtype, device: torch.device) -> float:
    """The largest relative error of a layer's products, in the kernels that steps use."""
    hidden, wide = GEOMETRIES["minilm"].hidden_size, GEOMETRIES["minilm"].intermediate_size
    generator = torch.Generator().manual_seed(0)

    def random(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator).to(device, dtype)

    x, weight = random(_TOKENS, wide), random(hidden, wide)
    gradient, thin = random(_TOKENS, hidden), random(_TOKENS, _RANK)
    results = {
        (x, weight.t()): (times(x, weight), x @ weight.t()),
        (gradient, weight): (times(gradient, weight.t()), gradient @ weight),
        (gradient.t(), x): (times(gradient.t(), x.t()), gradient.t() @ x),
        (gradient.t(), thin): (thin_over_tokens(gradient, thin),),
        (gradient.t(), torch.ones_like(x[:, 0])): (sum_over_tokens(gradient),),
    }
    return max(
        float((result.double() - exact).norm() / exact.norm())
        for (a, b), both in results.items()
        for exact in [a.double() @ b.double()]
        for result in both
    )
