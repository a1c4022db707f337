"""One training step: forward, backward, clipping, AdamW and its schedule, under AMP or not."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from minbert.batches import Batch
from minbert.optimizer import AdamW, Group

__all__ = ["Group", "Trainer", "autocast", "linear_schedule", "loss_of"]

HALF: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
MAX_GRADIENT_NORM: Final = 1.0


def autocast(amp: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of a forward pass under `amp`: off, bf16 or fp16."""
    if amp == "off":
        return nullcontext()
    return torch.autocast(device.type, dtype=HALF[amp])


def linear_schedule(total_steps: int, warmup: float) -> Callable[[int], float]:
    """The factor on the peak rate at each step (from 0): up over `warmup`, then down to zero."""
    rising = max(1, round(total_steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return max(0.0, (total_steps - step) / max(1, total_steps - rising))

    return factor


def loss_of(kind: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of a batch: cross-entropy of logits [B, C], or squared error of [B, 1]."""
    if kind == "regression":
        return F.mse_loss(logits[:, 0], labels)
    return F.cross_entropy(logits, labels)


class Trainer:
    """Holds what a training step needs and changes: model, optimizer, schedule, scaler.

    Gradients are clipped to a norm of 1. Under fp16 a GradScaler scales the loss, and gradients
    are unscaled before they are clipped; bf16 has the range of fp32 and needs none.

    Args:
        model: maps a batch's tensors to logits [B, num_outputs].
        groups: what trains, with rates and decays.
        kind: `classification` or `regression`.
        total_steps: number of steps that the schedule spans.
        warmup: share of them in which the rate rises.
        amp: off, bf16 or fp16.
        device: where the model is.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Iterable[Group],
        *,
        kind: str,
        total_steps: int,
        warmup: float,
        amp: str,
        device: torch.device,
    ) -> None:
        kept = [group for group in groups if group.parameters]
        self.model = model
        self.kind = kind
        self.amp = amp
        self.device = device
        self.parameters = [p for group in kept for p in group.parameters]
        self.optimizer = AdamW(kept)
        self._rates = [group.learning_rate for group in kept]
        self._factor = linear_schedule(total_steps, warmup)
        self._taken = 0
        self._set_rates()
        self.scaler = torch.amp.GradScaler(device.type) if amp == "fp16" else None

    def step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Take one step; loss [] and logits [B, num_outputs], both detached, on the device."""
        self.model.train()
        self.optimizer.zero_grad()
        with autocast(self.amp, self.device):
            logits = self.model(batch.input_ids, batch.attention_mask, batch.token_type_ids)
        logits = logits.float()
        loss = loss_of(self.kind, logits, batch.labels)
        if self.scaler is None:
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)
            self.optimizer.step()
        else:
            torch.autograd.backward(self.scaler.scale(loss))
            self.scaler.unscale_(cast(Any, self.optimizer))
            nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)
            self.scaler.step(cast(Any, self.optimizer))
            self.scaler.update()
        self._taken += 1
        self._set_rates()
        return loss.detach(), logits.detach()

    def _set_rates(self) -> None:
        factor = self._factor(self._taken)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
