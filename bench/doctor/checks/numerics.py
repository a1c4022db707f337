"""Losses, gradients and weights by the fast path, plain torch and the CPU; dropout, overflow."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from adapters.injection import convert_frozen
from bench.doctor import models
from bench.doctor.check import BY_NAME, Context, Finding, judged
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
LIMITS: Final = BY_NAME["numerics"].limits
"""The largest deviations of `QUANTITIES` by `amp`, and of the slope of the loss."""
DISTANCE: Final = 0.01
"""By which weights move along the gradient, so that rounding of the loss is 1e-5 of its change."""

_SMALL: Final = 0.01
"""Share of the largest gradient below which one, as of the keys' bias, is mostly rounding error."""


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
        for name, value, most in zip(QUANTITIES, deviations(one, other), LIMITS[amp], strict=True):
            key = f"{amp}_{name}"
            worst[key] = max(worst.get(key, 0.0), value)
            if not value <= most:  # also if it is not a number
                wrong.append(
                    f"{setting}, amp {amp}: {name} deviates from {against} by {value:.2g} "
                    f"(at most {most:g})"
                )

    settings = [(*setting, "") for setting in models.SETTINGS] + list(VARIED)
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
    return judged(
        "numerics", worst | ({"wrong": wrong} if wrong else {}), {"wrong": wrong},
        first=next(iter(wrong), ""), settings=len(settings),
        more=f"; and {len(wrong) - 1} more" if len(wrong) > 1 else "",
        losses=", ".join(f"{worst[f'{amp}_loss']:.1g} ({amp})" for amp in context.amps),
    )  # fmt: skip


def train(mode: str, layers: str | None, option: str, amp: str, device: str, path: str) -> Trained:
    """Take a step on each batch, or on all of them at once."""
    with kernels(path):
        pooling = "pooler" if option == POOLER else "mean"
        model = models.small_model(mode, layers, device, models.CONFIG, pooling)
        if option == STORED and amp != "off":
            convert_frozen(model, HALF[amp])
        return _trained(models.small_trainer(model, amp), several=option == ACCUMULATED)


def by_transformers(device: str, amp: str) -> Trained:
    """The same of LoRA by engine transformers."""
    trainer = models.cell_trainer(
        device, "lora", "all-lin", amp, "bert-tiny", engine="transformers", dropout=0.0
    )
    models.move_trained(trainer.model)
    return _trained(trainer)


def _trained(trainer: Trainer, *, several: bool = False) -> Trained:
    named = [(name, p) for name, p in trainer.model.named_parameters() if p.requires_grad]
    before = {name: p.detach().clone() for name, p in named}
    losses: list[Tensor] = []
    gradients: dict[str, Tensor] = {}
    batches = [
        models.small_batch(n, length, str(trainer.device), masked=m) for n, length, m in BATCHES
    ]
    for taken in [batches] if several else [[batch] for batch in batches]:
        loss, _ = trainer.step(*taken)
        losses.append(loss)
        gradients = gradients or {n: p.grad.cpu().clone() for n, p in named if p.grad is not None}
    updates = {name: (p.detach() - before[name]).cpu() for name, p in named}
    return Trained([float(loss) for loss in losses], gradients, updates)


def dropout_problem(device: str) -> str:
    """What is wrong with the gradient under dropout in fp32, whose random numbers differ by path:
    the loss has to fall along it as fast as it says. Empty: nothing."""
    drops = replace(models.CONFIG, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    model = models.small_model("lora", "all-lin", device, drops)
    batch = models.small_batch(16, 24, device)

    def loss() -> Tensor:
        torch.manual_seed(0)
        return cross_entropy(logits_of(model, batch), batch.labels)

    torch.autograd.backward(loss())
    moved = [(p, p.grad) for p in model.parameters() if p.grad is not None]
    norm = _norm(gradient for _, gradient in moved)
    ends = []
    with torch.no_grad():
        for distance in (DISTANCE, -2 * DISTANCE):
            for parameter, gradient in moved:
                parameter.add_(gradient, alpha=distance / norm)
            ends.append(float(loss()))
        kept = float(cross_entropy(logits_of(model.eval(), batch), batch.labels))
    slope = (ends[0] - ends[1]) / (2 * DISTANCE) / norm
    if abs(slope - 1) <= LIMITS["slope"] and ends[1] != kept:
        return ""
    return f"lora all-lin with dropout: the loss falls {slope:.3g} times as fast as its gradient"


def overflow_problem(device: str) -> str:
    """What a step with infinite gradients changes, in fp16 on a GPU; empty: nothing."""
    model = models.small_model("lora", "all-lin", device)
    trainer = models.small_trainer(model, "off" if device == "cpu" else "fp16")
    trainer.scaler = torch.amp.GradScaler(trainer.device.type, init_scale=math.inf)
    before = [p.detach().clone() for p in trainer.parameters]
    batch = models.small_batch(16, 24, device)
    trainer.step(batch)  # libraries wait when they are first used
    with models.waiting_is_an_error(trainer.device):
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
    moved = _norm(other.updates.values())
    distance = _norm(one.updates[name] - update for name, update in other.updates.items())
    return _largest(losses), _largest(gradients), distance / moved


def _largest(values: Iterable[float]) -> float:
    """The largest value; infinite if one is not a number, which `max` may overlook."""
    return max(math.inf if math.isnan(value) else value for value in values)


def _norm(tensors: Iterable[Tensor]) -> float:
    return float(torch.stack([tensor.norm() for tensor in tensors]).norm())
