"""Losses, gradients and weights of three steps: the fast path, plain torch, and the CPU."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from bench.doctor.check import FAILED, OK, Context, Finding
from bench.doctor.models import SETTINGS, small_batch, small_model, small_trainer
from bench.worker.device import set_up_device
from minbert.kernels.reference import FAST, REFERENCE, kernels

BATCHES: Final = ((16, 24, True), (16, 16, False), (2, 12, True))
"""Texts, tokens of the longest, and whether shorter ones are masked. In fp32 adapters are merged on
the first two batches and a branch on the last."""
QUANTITIES: Final = ("loss", "gradient", "update")
TOLERANCES: Final = {
    "off": (1e-5, 1e-4, 0.02),
    "bf16": (0.03, 0.2, 0.3),
    "fp16": (4e-3, 0.025, 0.2),
}
"""By `amp`, the largest relative deviation of a loss, of a parameter's gradient in the first step,
and of what all steps changed in the weights.

In half precision these are 4 and 25 times the distance of two numbers around 1; two correct paths
deviate by up to 1 and 8 of them. In fp32 the order of summation alone gives 2e-7 and 1e-6. AdamW
moves a weight whose gradient is only rounding error as far as any other, so updates deviate more:
2e-4, 0.1 and 0.04 were measured between correct paths. A path that drops a term, or draws dropout,
deviates by 0.1 and more."""

_SMALL: Final = 0.01
"""Share of the largest gradient below which one, such as that of the keys' bias, is mostly rounding
error."""


@dataclass(frozen=True)
class Trained:
    """Losses of each step, gradients of the first, and changes of the weights, on the CPU."""

    losses: list[float]
    gradients: Mapping[str, Tensor]
    updates: Mapping[str, Tensor]


def check(context: Context) -> Finding:
    """Train each setting on the device by the fast path and by plain torch, and in fp32 by plain
    torch on the CPU, and compare the first with both others."""
    worst: dict[str, float] = {}
    wrong: list[str] = []
    for mode, layers in SETTINGS:
        setting = mode if layers is None else f"{mode} {layers}"
        exact = train(mode, layers, "off", "cpu", REFERENCE)
        for amp in context.amps:
            fast = train(mode, layers, amp, context.device, FAST)
            plain = train(mode, layers, amp, context.device, REFERENCE)
            for other, against in ((plain, "plain torch"), (exact, "fp32 on the CPU")):
                values = deviations(fast, other)
                for name, value, most in zip(QUANTITIES, values, TOLERANCES[amp], strict=True):
                    key = f"{amp}_{name}"
                    worst[key] = max(worst.get(key, 0.0), value)
                    if not value <= most:  # also if it is not a number
                        wrong.append(
                            f"{setting}, amp {amp}: {name} deviates from {against} by {value:.2g} "
                            f"(at most {most:g})"
                        )
    if wrong:
        more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        remedy = (
            'use kernels = "reference" in the grid file if only plain torch is right; report this'
        )
        return Finding(FAILED, wrong[0] + more, remedy, {**worst, "wrong": wrong})
    losses = ", ".join(f"{worst[f'{amp}_loss']:.1g} ({amp})" for amp in context.amps)
    summary = f"losses of {len(SETTINGS)} settings deviate from plain torch by at most {losses}"
    return Finding(OK, summary, figures=worst)


def train(mode: str, layers: str | None, amp: str, device: str, path: str) -> Trained:
    """Take a step on each batch."""
    set_up_device(torch.device(device))
    with kernels(path):
        model = small_model(mode, layers, device)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        before = {name: p.detach().clone() for name, p in trained.items()}
        trainer = small_trainer(model, amp)
        losses: list[Tensor] = []
        gradients: dict[str, Tensor] = {}
        for texts, longest, masked in BATCHES:
            loss, _ = trainer.step(small_batch(texts, longest, device, masked=masked))
            losses.append(loss)
            if not gradients:
                gradients = {
                    name: p.grad.cpu().clone() for name, p in trained.items() if p.grad is not None
                }
    updates = {name: (p.detach() - before[name]).cpu() for name, p in trained.items()}
    return Trained([float(loss) for loss in losses], gradients, updates)


def deviations(one: Trained, other: Trained) -> tuple[float, float, float]:
    """Relative deviations of the first from the second, one for each of `QUANTITIES`."""
    losses = (abs(a - b) / abs(b) for a, b in zip(one.losses, other.losses, strict=True))
    norms = {name: float(gradient.norm()) for name, gradient in other.gradients.items()}
    least = _SMALL * max(norms.values())
    gradients = (
        float((one.gradients[name] - gradient).norm()) / max(norms[name], least)
        if name in one.gradients
        else math.inf
        for name, gradient in other.gradients.items()
    )
    moved = _norm(other.updates)
    distance = _norm({name: one.updates[name] - update for name, update in other.updates.items()})
    return _largest(losses), _largest(gradients), distance / moved


def _largest(values: Iterable[float]) -> float:
    """The largest value; infinite if one is not a number, which `max` may overlook."""
    return max(math.inf if math.isnan(value) else value for value in values)


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.stack([tensor.norm() for tensor in tensors.values()]).norm())
