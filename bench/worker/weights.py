"""The weights of a cell: kept ones, loaded again; those of its best epoch; whether they moved."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.common.errors import InputError
from bench.common.files import LARGEST_WEIGHTS
from bench.common.messages import shown, some_of
from bench.engines.engine import Engine, engine_of, on_cpu
from bench.plan.job import Job
from bench.results.protocol import WEIGHTS
from minbert.files import is_file, open_regular
from minbert.model.classifier import Classifier

_NAMED: Final = 3  # parameters that a message names
_BITS: Final = {2: torch.int16, 4: torch.int32}
"""Integer types by the number of bytes of a floating-point type."""


@torch.no_grad()
def load_trained(job: Job, folder: Path) -> Classifier:
    """A cell's trained model, from the kept weights in its folder: on the CPU, in fp32 and
    evaluation mode, its adapters not merged. InputError if the weights are missing, damaged or of
    another model; and as `Engine.build`."""
    path = folder / WEIGHTS
    if not is_file(path):
        raise InputError(
            f"{path}: there is no such file: the cell kept no weights; run it again with "
            "--save-weights"
        )
    try:
        open_regular(path, LARGEST_WEIGHTS, follow=False).close()
        tensors = load_file(path)
    except Exception as error:  # torch raises others for shapes and types that it does not support
        raise InputError(
            f"{path}: is damaged ({shown(str(error))}); run the cell again with --save-weights"
        ) from error
    job = on_cpu(replace(job, cell=replace(job.cell, frozen_dtype=None)))
    model = engine_of(job.cell).build(job)
    trained: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    trained |= model.fixed_tensors()
    for name in sorted({*trained, *tensors}):
        here, kept = _form(trained.get(name)), _form(tensors.get(name))
        if here != kept:
            raise InputError(
                f"{path}: holds the weights of another model: {shown(name)} is {kept}, and "
                f"{here} in the model of {job.cell.name}; run the cell again with --save-weights"
            )
    model.restore(tensors)
    return model.eval()


def _form(tensor: Tensor | None) -> str:
    if tensor is None:
        return "missing"
    return f"{list(tensor.shape)} in {str(tensor.dtype).removeprefix('torch.')}"


class EarlyStopping:
    """Decides by held-out scores when training stops, and keeps the weights of the best epoch, on
    the host.

    The best epoch is the one of the highest score; of equal scores, that of the lowest loss, and of
    equal losses the first. Training stops after `patience` epochs in a row without a better one.

    Attributes:
        best: the number of the best epoch, from 1; 0 before the first.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], patience: int) -> None:
        self.best = 0
        self._parameters = parameters
        self._patience = patience
        self._epochs = 0
        self._result = (-math.inf, -math.inf)
        self._weights: list[Tensor] = []

    @torch.no_grad()
    def take(self, loss: float, score: float | None) -> None:
        """Take the held-out loss and score of the epoch that has ended, and keep the weights if it
        is the best. No score is worse than any."""
        self._epochs += 1
        result = (-math.inf if score is None else score, -loss)
        if self.best == 0 or result > self._result:
            self.best, self._result = self._epochs, result
            if not self._weights:
                self._weights = [torch.empty_like(p, device="cpu") for p in self._parameters]
            for kept, parameter in zip(self._weights, self._parameters, strict=True):
                kept.copy_(parameter)

    @property
    def is_over(self) -> bool:
        return self._epochs - self.best >= self._patience

    @torch.no_grad()
    def restore(self) -> bool:
        """Give the parameters their values after the best epoch; whether that changed them."""
        if self.best == self._epochs:
            return False
        for kept, parameter in zip(self._weights, self._parameters, strict=True):
            parameter.copy_(kept)
        return True


class Movement:
    """Remembers a model's parameters by a sum of their bits, which is enough against accidents, and
    compares them after training."""

    def __init__(self, model: nn.Module, engine: Engine) -> None:
        self._model = model
        self._engine = engine
        self._before = {name: _sum_of_bits(p) for name, p in model.named_parameters()}

    def problem(self, *, every: bool = True) -> str | None:
        """One line that says what is wrong; None if nothing is.

        Every tensor of the head must have moved, and of every adapter those that its method moves;
        of an encoder that trains without adapters at least one tensor. No frozen tensor may move.
        Without `every`, as where a part of the task had no batch, one tensor of each must have
        moved.
        """
        named = dict(self._model.named_parameters())
        moved = {n for n, p in named.items() if not torch.equal(self._before[n], _sum_of_bits(p))}
        frozen = {name for name, parameter in named.items() if not parameter.requires_grad}
        if strayed := sorted(frozen & moved):
            return f"frozen tensors moved: {some_of(strayed, _NAMED)}"
        groups = self._engine.parameter_groups(self._model)
        head, adapter, base = (groups[name].keys() - frozen for name in ("head", "adapter", "base"))
        updates = self._engine.moving(self._model) - frozen
        for names, must_all in ((head, every), (updates, every), (adapter, False)):
            stuck = sorted(names - moved)
            if stuck and (must_all or len(stuck) == len(names)):
                return f"nothing was learned in: {some_of(stuck, _NAMED)}"
        return "the encoder was to train and did not move" if base and not moved & base else None


def _sum_of_bits(parameter: Tensor) -> Tensor:
    bits = parameter.detach().contiguous().view(_BITS[parameter.element_size()])
    return bits.sum(dtype=torch.int64)
