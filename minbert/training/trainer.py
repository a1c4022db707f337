"""One training step: forward, backward, clipping, optimizer and schedule, with or without AMP; and
which layers train in an epoch, with gradual unfreezing."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Final, cast

import torch
from torch import Tensor, nn

from minbert.data.batches import Batch
from minbert.training.losses import contrastive_loss, loss_of
from minbert.training.optimizer import OPTIMIZERS, ParameterGroup
from minbert.training.schedules import QUARTERS, layers_in

HALF: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
MAX_GRADIENT_NORM: Final = 1.0

Location = tuple[str, int | None]
"""An encoder, and a layer of it; None for embeddings and a pooler."""


def autocast(amp: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of a forward pass under `amp`: off, bf16 or fp16."""
    if amp == "off":
        return nullcontext()
    return torch.autocast(device.type, dtype=HALF[amp])


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch.input_ids, batch.attention_mask, batch.token_type_ids, part=batch.part)


class Trainer:
    """The state of a training: model, from now on in training mode, optimizer, schedule and scaler.

    Gradients are clipped to a norm of 1. Under fp16 a GradScaler scales the loss, and gradients are
    unscaled before they are clipped; bf16 has the range of fp32 and needs no scaler. A step whose
    gradients overflow changes no weight and no state of the optimizer. AdamW skips it on the
    device; Adamax and RAdam wait for the device in every step.

    Args:
        groups: parameters that train in some epoch, with rates and decays.
        losses: for each part of the task one of `minbert.training.losses.LOSSES`; for a task
            without parts under "".
        class_weights: weights [C] of the classes of parts that weigh them, on the device.
        label_smoothing: share of every label of a class that is spread over all classes.
        contrastive: share of `contrastive_loss`, of what the head gets, in the loss.
        schedule: the factor on the rates at each step, from 0.
        forward: maps a batch to logits; None: the model does.

    Attributes:
        settings: the arguments that a cell has as settings of the same names.
        mark: called for each batch of a step after the forward pass and the loss, and after the
            backward pass.
    """

    settings: ClassVar = ("amp", "label_smoothing", "contrastive", "optimizer")

    def __init__(
        self,
        model: nn.Module,
        groups: Iterable[ParameterGroup],
        *,
        losses: Mapping[str, str],
        class_weights: Mapping[str, Tensor] | None = None,
        label_smoothing: float = 0.0,
        contrastive: float = 0.0,
        schedule: Callable[[int], float],
        amp: str,
        device: torch.device,
        optimizer: str = "adamw",
        forward: Callable[[Batch], Tensor] | None = None,
    ) -> None:
        kept = [group for group in groups if group.parameters]
        self.model = model.train()  # not in each step: that would walk all modules
        self._forward = forward
        self.losses = losses
        self._class_weights = class_weights or {}
        self._label_smoothing = label_smoothing
        self._contrastive = contrastive
        self._vectors: Tensor | None = None
        if contrastive:
            cast(Any, model).classifier.register_forward_pre_hook(self._keep_vectors)
        self.amp = amp
        self.device = device
        self.parameters = [p for group in kept for p in group.parameters]
        self.optimizer = OPTIMIZERS[optimizer](kept)
        self._rates = [group.learning_rate for group in kept]
        self._decays = [group.weight_decay for group in kept]
        self._factor = schedule
        self._taken = 0
        self._group_factors = (1.0, 1.0)
        self._set_rates()
        self.scaler = torch.amp.GradScaler(device.type) if amp == "fp16" else None
        self.mark: Callable[[], object] = lambda: None

    def step(self, *batches: Batch) -> tuple[Tensor, Tensor]:
        """Take one step on the mean of the batches' gradients; the mean loss [] and the logits [B,
        C] of all examples in order, both detached, on the device; those of tokens are [B, S, C], or
        of several batches [T, C]."""
        self.optimizer.zero_grad()
        outputs = [self._accumulate(batch, len(batches)) for batch in batches]
        if self.scaler is None:
            self._clip()
            self.optimizer.step()
        else:
            self.scaler.unscale_(cast(Any, self.optimizer))
            self._clip()
            self.scaler.step(cast(Any, self.optimizer))
            self.scaler.update()
        self._taken += 1
        self._set_rates()
        if len(outputs) == 1:
            return outputs[0]
        losses, logits = zip(*outputs, strict=True)
        return torch.stack(losses).mean(), torch.cat([each.flatten(0, -2) for each in logits])

    def _accumulate(self, batch: Batch, count: int) -> tuple[Tensor, Tensor]:
        """Add a batch's share of the gradients of a step on `count` batches; its loss [] and logits
        [B, C], detached."""
        loss, logits = self._loss(batch)
        self.mark()
        share = loss if count == 1 else loss / count
        by_graph = count > 1 and self._forward is not None and self.device.type == "cuda"
        new = [p for p in self.parameters if p.grad is None] if by_graph else []
        torch.autograd.backward(share if self.scaler is None else self.scaler.scale(share))
        for parameter in new:  # a CUDA graph overwrites its results when it runs; sums are in place
            parameter.grad = None if parameter.grad is None else parameter.grad.clone()
        self.mark()
        return loss.detach(), logits.detach()

    def rehearse(self, *batches: Batch) -> None:
        """Run forward and backward passes of a step on the device, so that torch holds the memory
        that steps on batches up to this size need, and none has to wait for the driver; nothing
        else changes."""
        devices = [self.device] if self.device.type == "cuda" else []
        self.optimizer.zero_grad()
        with torch.random.fork_rng(devices):
            for batch in batches:
                torch.autograd.backward(self._loss(batch)[0])
        self.optimizer.zero_grad()

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with autocast(self.amp, self.device):
            logits = logits_of(self.model, batch) if self._forward is None else self._forward(batch)
        logits = logits.float()
        loss = loss_of(
            self.losses[batch.part],
            logits,
            batch.labels,
            class_weights=self._class_weights.get(batch.part),
            label_smoothing=self._label_smoothing,
        )
        if self._vectors is not None:
            own = contrastive_loss(self._vectors.float(), batch.labels)
            loss, self._vectors = torch.lerp(loss, own, self._contrastive), None
        return loss, logits

    def _keep_vectors(self, head: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._vectors = given[0] if head.training else None

    def _clip(self) -> None:
        # foreach is torch's choice for real tensors, but not for fake ones
        nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM, foreach=True)

    def rest(self) -> None:
        """Set the rates to zero: from now on a step does all its work and changes no weight."""
        self._factor = lambda _step: 0.0
        self._set_rates()

    def scale_groups(self, rate: float, decay: float) -> None:
        """Multiply rates and decays of the groups by these factors, until the next call."""
        self._group_factors = (rate, decay)
        self._set_rates()

    def _set_rates(self) -> None:
        factor = self._factor(self._taken)
        groups = zip(self.optimizer.param_groups, self._rates, self._decays, strict=True)
        for group, rate, decay in groups:
            group["lr"] = rate * factor * self._group_factors[0]
            group["weight_decay"] = decay * self._group_factors[1]


class GradualUnfreezing:
    """Freezes a model, and lets it train again from the top, epoch by epoch (ULMFiT, Howard and
    Ruder 2018, arXiv 1801.06146, by quarters of the encoder).

    Only parameters that are trainable when this is made will ever train; those without a place, as
    of the head, from the first epoch. Embeddings, and a pooler from the checkpoint, train once all
    layers do. Adapters are unfrozen with their layer.
    """

    def __init__(self, model: nn.Module, places: Mapping[str, Location | None]) -> None:
        self._first_epochs: dict[nn.Parameter, int] = {}
        parameters = {
            parameter: place
            for name, parameter in model.named_parameters()
            if (place := places.get(name)) is not None
        }
        depths: dict[str, int] = {}
        for encoder, layer in parameters.values():
            if layer is not None:
                depths[encoder] = max(depths.get(encoder, 0), layer + 1)
        for parameter, (encoder, layer) in parameters.items():
            if parameter.requires_grad:
                depth = depths.get(encoder, 0)
                above = 0 if layer is None else depth - layer  # layers down to this one
                epochs = (n for n in range(QUARTERS) if 0 < above <= layers_in(n, depth))
                self._first_epochs[parameter] = next(epochs, QUARTERS)

    def begin(self, epoch: int) -> None:
        """Make the parameters trainable that train in an epoch, from 0, and freeze the others."""
        for parameter, first in self._first_epochs.items():
            parameter.requires_grad_(epoch >= first)
