"""Losses, gradients and weights of three steps: the fast path, plain torch, and the CPU; dropout,
and gradients that overflow."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from adapters.injection import convert_frozen
from bench.doctor.check import FAILED, OK, Context, Finding
from bench.doctor.models import (
    CONFIG,
    SETTINGS,
    job_of,
    move_trained,
    small_batch,
    small_model,
    small_trainer,
    trainer_of,
    waiting_is_an_error,
)
from minbert.kernels.reference import FAST, REFERENCE, kernels
from minbert.training.trainer import HALF, Trainer, logits_of

BATCHES: Final = ((16, 24, True), (16, 16, False), (2, 12, True))
"""Texts, tokens of the longest, and whether shorter ones are masked. In fp32 adapters are merged on
the first two batches and a branch on the last."""
POOLER, ACCUMULATED, STORED = "pooler", "accumulation", "frozen weights in AMP's type"
VARIED: Final = (
    ("full", None, POOLER), ("lora", "all-lin", ACCUMULATED), ("head", None, STORED),
    ("lora", "attn-only", STORED),
)  # fmt: skip
"""Settings with an option: pooling, one step on all batches, and the type of what is frozen."""
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

DISTANCE: Final = 0.01
"""By which weights move along the gradient, so that rounding of the loss is 1e-5 of its change."""
SLOPE: Final = 0.01
"""Allowed deviation of the slope; 1e-3 was measured, and a wrong mask gives 0.05 and more."""

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

    def compare(setting: str, amp: str, against: str, one: Trained, other: Trained) -> None:
        values = deviations(one, other)
        for name, value, most in zip(QUANTITIES, values, TOLERANCES[amp], strict=True):
            key = f"{amp}_{name}"
            worst[key] = max(worst.get(key, 0.0), value)
            if not value <= most:  # also if it is not a number
                wrong.append(
                    f"{setting}, amp {amp}: {name} deviates from {against} by {value:.2g} "
                    f"(at most {most:g})"
                )

    settings = [(mode, layers, "") for mode, layers in SETTINGS] + list(VARIED)
    for mode, layers, option in settings:
        setting = " ".join(filter(None, (mode, layers, option)))
        exact = train(mode, layers, option, "off", "cpu", REFERENCE)
        for amp in context.amps:
            fast = train(mode, layers, option, amp, context.device, FAST)
            plain = train(mode, layers, option, amp, context.device, REFERENCE)
            compare(setting, amp, "plain torch", fast, plain)
            compare(setting, amp, "fp32 on the CPU", fast, exact)
    for amp in context.amps if find_spec("transformers") and find_spec("peft") else ():
        exact, theirs = by_transformers("cpu", "off"), by_transformers(context.device, amp)
        compare("lora all-lin by engine transformers", amp, "fp32 on the CPU", theirs, exact)
    wrong += filter(None, (dropout_problem(context.device), overflow_problem(context.device)))
    if wrong:
        more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        remedy = (
            'use kernels = "reference" in the grid file if only plain torch is right; report this'
        )
        return Finding(FAILED, wrong[0] + more, remedy, {**worst, "wrong": wrong})
    losses = ", ".join(f"{worst[f'{amp}_loss']:.1g} ({amp})" for amp in context.amps)
    summary = f"losses of {len(settings)} settings deviate from plain torch by at most {losses}"
    return Finding(OK, summary, figures=worst)


def train(mode: str, layers: str | None, option: str, amp: str, device: str, path: str) -> Trained:
    """Take a step on each batch, or on all of them at once."""
    with kernels(path):
        pooling = "pooler" if option == POOLER else "mean"
        model = small_model(mode, layers, device, CONFIG, pooling)
        if option == STORED and amp != "off":
            convert_frozen(model, HALF[amp])
        return _trained(small_trainer(model, amp), several=option == ACCUMULATED)


def by_transformers(device: str, amp: str) -> Trained:
    """The same of LoRA by engine transformers."""
    job = job_of(device, "lora", "all-lin", amp, "bert-tiny", engine="transformers", dropout=0.0)
    trainer = trainer_of(job)
    move_trained(trainer.model)
    return _trained(trainer)


def _trained(trainer: Trainer, *, several: bool = False) -> Trained:
    named = [(name, p) for name, p in trainer.model.named_parameters() if p.requires_grad]
    before = {name: p.detach().clone() for name, p in named}
    losses: list[Tensor] = []
    gradients: dict[str, Tensor] = {}
    batches = [small_batch(n, length, str(trainer.device), masked=m) for n, length, m in BATCHES]
    for taken in [batches] if several else [[batch] for batch in batches]:
        loss, _ = trainer.step(*taken)
        losses.append(loss)
        gradients = gradients or {n: p.grad.cpu().clone() for n, p in named if p.grad is not None}
    updates = {name: (p.detach() - before[name]).cpu() for name, p in named}
    return Trained([float(loss) for loss in losses], gradients, updates)


def dropout_problem(device: str) -> str:
    """What is wrong with the gradient under dropout in fp32, whose random numbers differ by path:
    the loss has to fall along it as fast as it says. Empty: nothing."""
    drops = replace(CONFIG, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    model = small_model("lora", "all-lin", device, drops)
    batch = small_batch(16, 24, device)

    def loss() -> Tensor:
        torch.manual_seed(0)
        return cross_entropy(logits_of(model, batch), batch.labels)

    torch.autograd.backward(loss())
    moved = [(p, p.grad) for p in model.parameters() if p.grad is not None]
    norm = float(torch.stack([gradient.norm() for _, gradient in moved]).norm())
    ends = []
    with torch.no_grad():
        for distance in (DISTANCE, -2 * DISTANCE):
            for parameter, gradient in moved:
                parameter.add_(gradient, alpha=distance / norm)
            ends.append(float(loss()))
        kept = float(cross_entropy(logits_of(model.eval(), batch), batch.labels))
    slope = (ends[0] - ends[1]) / (2 * DISTANCE) / norm
    if abs(slope - 1) <= SLOPE and ends[1] != kept:
        return ""
    return f"lora all-lin with dropout: the loss falls {slope:.3g} times as fast as its gradient"


def overflow_problem(device: str) -> str:
    """What a step with infinite gradients changes, in fp16 on a GPU; empty: nothing."""
    model = small_model("lora", "all-lin", device)
    trainer = small_trainer(model, "off" if device == "cpu" else "fp16")
    trainer.scaler = torch.amp.GradScaler(trainer.device.type, init_scale=math.inf)
    before = [p.detach().clone() for p in trainer.parameters]
    batch = small_batch(16, 24, device)
    trainer.step(batch)  # libraries wait when they are first used
    with waiting_is_an_error(trainer.device):
        trainer.step(batch)
    same = torch.stack([(a == b).all() for a, b in zip(before, trainer.parameters, strict=True)])
    return "" if bool(same.all()) else "lora all-lin: a step with infinite gradients moves weights"


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
