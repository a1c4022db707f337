"""Matrix products by type: their errors, and their speed at a step's sizes against a large one."""

from typing import Final

import torch

from bench.doctor.check import BY_NAME, Context, Finding, judged
from bench.worker.probes.products import KINDS, Products, measure_gflops, random_matrices
from minbert.kernels.products import sum_over_tokens, thin_over_tokens, times
from minbert.model.config import GEOMETRIES
from minbert.training.trainer import HALF

_TOKENS, _RANK = 1344, 8
_HIDDEN: Final = GEOMETRIES["minilm"].hidden_size
_WIDE: Final = GEOMETRIES["minilm"].intermediate_size
_LARGE: Final = ("forward", 2048, 2048, 2048)
_ROUNDS: Final = 8  # the fastest counts, so that other programs don't slow a whole shape


def check(context: Context) -> Finding:
    """Compare products with fp64, and measure their speeds."""
    device, limits = torch.device(context.device), BY_NAME["products"].limits
    errors = {amp: _error(HALF.get(amp, torch.float32), device) for amp in context.amps}
    figures = {f"error_{amp}": error for amp, error in errors.items()}
    if wrong := [
        f"{_name(amp)} by {error:.1e}" for amp, error in errors.items() if not error <= limits[amp]
    ]:
        return judged("products", figures, {"wrong": ", ".join(wrong)})
    products = Products()
    for kind in KINDS:  # of a layer
        products.wide[kind, _TOKENS, _HIDDEN, _HIDDEN] = 4
        for sizes in ((_WIDE, _HIDDEN), (_HIDDEN, _WIDE)):
            products.wide[kind, _TOKENS, *sizes] = 1
    texts, shares, wanted = [], [], [*products.wide, _LARGE]
    for amp in dict.fromkeys(("off", context.amp_on)):
        rounds = [measure_gflops(wanted, amp, device) for _ in range(_ROUNDS)]
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
    slow = device.type == "cpu" and min(shares) < limits["slowest"]
    return judged("products", figures, {"slow": slow}, speeds="; ".join(texts))


def _name(amp: str) -> str:
    return "fp32" if amp == "off" else amp


def _error(dtype: torch.dtype, device: torch.device) -> float:
    """The largest relative error of a layer's products, in the kernels that steps use."""
    sizes = (_TOKENS, _WIDE), (_HIDDEN, _WIDE), (_TOKENS, _HIDDEN), (_TOKENS, _RANK)
    x, weight, gradient, thin = random_matrices(*sizes, dtype=dtype, device=device)
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
