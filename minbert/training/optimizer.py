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

from minbert.kernels.precision import on_cpu

_BETAS: Final = (0.9, 0.999)
_EPS: Final = 1e-8

Lists = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate and a weight decay."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float
    weight_decay: float


class Optimizer(ABC):
    """The base of all optimizers. Betas are 0.9 and 0.999 and ε is 1e-8, torch's defaults.

    Attributes:
        param_groups: dictionaries with `params`, `lr` and `weight_decay`, as torch's optimizers
            have them; `lr` may be changed between steps.
        state: by parameter, its step [] and two averages in the parameter's shape.
        found_inf: [], 1 if a gradient is not finite; set by a GradScaler during its step, after
            it has unscaled the gradients.
    """

    averages: ClassVar[tuple[str, str]] = ("exp_avg", "exp_avg_sq")
    skips_on_device: ClassVar[bool] = False
    """Whether `_take` itself changes nothing on overflow, so that the host need not wait for the
    device."""
    found_inf: Tensor | None = None
    _step_supports_amp_scaling: ClassVar[bool] = True
    """Makes GradScaler call `step` even on overflow, without waiting for the device."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self.param_groups: list[dict[str, Any]] = [
            {
                "params": list(group.parameters),
                "lr": group.learning_rate,
                "weight_decay": group.weight_decay,
            }
            for group in groups
            if group.parameters
        ]
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take a step for every parameter that has a gradient.

        On overflow (`found_inf`) parameters, averages and the count of steps do not change; the
        state is created all the same.
        """
        waits = self.found_inf is not None and not self.skips_on_device
        skips = waits and bool(self.found_inf)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            states = [self._state_of(parameter) for parameter in params]
            if skips:
                continue
            one, other = ([state[name] for state in states] for name in self.averages)
            steps = [state["step"] for state in states]
            gradients = [parameter.grad for parameter in params]
            self._take((params, gradients, one, other), steps, group["lr"], group["weight_decay"])

    @abstractmethod
    def _take(self, lists: Lists, steps: list[Tensor], lr: float, decay: float) -> None:
        """Take a step for the parameters of a group, in place.

        Args:
            lists: its parameters, their gradients, and both averages of each.
        """

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        if parameter not in self.state:
            self.state[parameter] = {
                "step": self._first_step(parameter),
                **{name: torch.zeros_like(parameter) for name in self.averages},
            }
        return self.state[parameter]

    def _first_step(self, _parameter: Tensor) -> Tensor:
        return torch.zeros((), dtype=torch.float32)


class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), as `torch.optim.AdamW(fused=True)`."""

    skips_on_device: ClassVar[bool] = True

    def _take(self, lists: Lists, steps: list[Tensor], lr: float, decay: float) -> None:
        from torch.optim.adamw import adamw

        adamw(
            *lists, [], steps, fused=True, amsgrad=False, beta1=_BETAS[0],
            beta2=_BETAS[1], lr=lr, weight_decay=decay, eps=_EPS, maximize=False,
            found_inf=self.found_inf,
        )  # fmt: skip

    def _first_step(self, parameter: Tensor) -> Tensor:
        return torch.zeros((), dtype=torch.float32, device=parameter.device)


class Adamax(Optimizer):
    """Adamax (Kingma and Ba 2015, arXiv 1412.6980), as `torch.optim.Adamax`.

    Its weight decay is not decoupled but added to the gradient, as L2 regularisation.
    """

    averages: ClassVar[tuple[str, str]] = ("exp_avg", "exp_inf")

    def _take(self, lists: Lists, steps: list[Tensor], lr: float, decay: float) -> None:
        from torch.optim.adamax import adamax

        adamax(
            *lists, steps, foreach=not on_cpu(lists[0][0]), eps=_EPS,
            beta1=_BETAS[0], beta2=_BETAS[1], lr=lr, weight_decay=decay,
        )  # fmt: skip


class RAdam(Optimizer):
    """Rectified Adam (Liu et al. 2020, arXiv 1908.03265) with decoupled decay, as
    `torch.optim.RAdam(decoupled_weight_decay=True)`."""

    def _take(self, lists: Lists, steps: list[Tensor], lr: float, decay: float) -> None:
        from torch.optim.radam import radam

        radam(
            *lists, steps, decoupled_weight_decay=True,
            foreach=not on_cpu(lists[0][0]), beta1=_BETAS[0], beta2=_BETAS[1], lr=lr,
            weight_decay=decay, eps=_EPS,
        )  # fmt: skip


OPTIMIZERS: Final[Mapping[str, type[Optimizer]]] = {
    "adamw": AdamW,
    "adamax": Adamax,
    "radam": RAdam,
}
