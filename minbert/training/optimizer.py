"""Optimizers made of torch's own functions, without torch's Optimizer class.

That class imports torch's compiler, to exempt itself from being compiled, which costs two seconds
and 60 MiB in every worker.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from torch.optim.adamax import adamax
from torch.optim.adamw import adamw
from torch.optim.radam import radam

from minbert.kernels.reference import on_cpu

Lists = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]
_CONSTANTS: Final = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}  # torch's defaults


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate and a weight decay."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float
    weight_decay: float


class Optimizer(ABC):
    """The base of all optimizers.

    Attributes:
        param_groups: dictionaries with `params`, `lr` and `weight_decay`, as torch's optimizers
            have them; `lr` may be changed between steps.
        state: by parameter, its step [] and two averages in the parameter's shape.
        found_inf: [], 1 if a gradient is not finite; set by a GradScaler during its step, after
            it has unscaled the gradients.
    """

    averages: ClassVar[tuple[str, str]] = ("exp_avg", "exp_avg_sq")
    fused: ClassVar[bool] = False
    """Whether torch's function counts steps on the device and itself changes nothing on overflow,
    so that the host need not wait for the device."""
    found_inf: Tensor | None = None
    _step_supports_amp_scaling: ClassVar[bool] = True
    """Makes GradScaler call `step` even on overflow, without waiting for the device."""

    def __init__(self, groups: Iterable[ParameterGroup]) -> None:
        self.param_groups: list[dict[str, Any]] = [
            {"params": [*g.parameters], "lr": g.learning_rate, "weight_decay": g.weight_decay}
            for g in groups
        ]
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take a step for every parameter that has a gradient. On overflow (`found_inf`)
        parameters, averages and the count of steps do not change; the state is created all the
        same."""
        skips = self.found_inf is not None and not self.fused and bool(self.found_inf)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            states = [self._state_of(parameter) for parameter in params]
            if skips or not params:
                continue
            gradients = [parameter.grad for parameter in params]
            one, other = ([state[name] for state in states] for name in self.averages)
            rates = {name: group[name] for name in ("lr", "weight_decay")}
            steps = [state["step"] for state in states]
            self._take((params, gradients, one, other), steps, **rates, **_CONSTANTS)

    @abstractmethod
    def _take(self, lists: Lists, steps: list[Tensor], **options: Any) -> None:
        """Take a step, in place, for a group's parameters, their gradients, and both averages."""

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        if parameter not in self.state:
            self.state[parameter] = {
                "step": self._first_step(parameter),
                **{name: torch.zeros_like(parameter) for name in self.averages},
            }
        return self.state[parameter]

    def _first_step(self, parameter: Tensor) -> Tensor:
        return torch.zeros((), device=parameter.device if self.fused else None)


class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), as `torch.optim.AdamW(fused=True)`."""

    fused: ClassVar[bool] = True

    def _take(self, lists: Lists, steps: list[Tensor], **options: Any) -> None:
        adamw(
            *lists, [], steps, fused=True, amsgrad=False, maximize=False,
            found_inf=self.found_inf, **options,
        )  # fmt: skip


class Adamax(Optimizer):
    """Adamax (Kingma and Ba 2015, arXiv 1412.6980), as `torch.optim.Adamax`; its weight decay is
    not decoupled but added to the gradient, as L2 regularisation."""

    averages: ClassVar[tuple[str, str]] = ("exp_avg", "exp_inf")

    def _take(self, lists: Lists, steps: list[Tensor], **options: Any) -> None:
        adamax(*lists, steps, foreach=not on_cpu(lists[0][0]), **options)


class RAdam(Optimizer):
    """Rectified Adam (Liu et al. 2020, arXiv 1908.03265) with decoupled decay, as
    `torch.optim.RAdam(decoupled_weight_decay=True)`."""

    def _take(self, lists: Lists, steps: list[Tensor], **options: Any) -> None:
        radam(
            *lists, steps, decoupled_weight_decay=True, foreach=not on_cpu(lists[0][0]), **options
        )


OPTIMIZERS: Final[Mapping[str, type[Optimizer]]] = {
    "adamw": AdamW, "adamax": Adamax, "radam": RAdam,
}  # fmt: skip
