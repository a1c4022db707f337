"""AdamW by torch's fused kernels, without torch's Optimizer class.

That class imports torch's compiler in each process, to exempt itself from being compiled: two
seconds and 60 MiB in every worker, for nothing where nothing is compiled.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate and a weight decay."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float
    weight_decay: float


class AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), as `torch.optim.AdamW(fused=True)`.

    Attributes:
        param_groups: dictionaries with `params`, `lr` and `weight_decay`, as torch's optimizers
            have them; `lr` may be changed between steps.
        state: by parameter, its step [] and the two moments, of the parameter's shape.
    """

    def __init__(
        self, groups: Iterable[Group], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
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
        self._betas = betas
        self._eps = eps

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take a step for every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            states = [self._state_of(parameter) for parameter in params]
            adamw(
                params,
                [parameter.grad for parameter in params],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                amsgrad=False,
                beta1=self._betas[0],
                beta2=self._betas[1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=self._eps,
                maximize=False,
            )

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        if parameter not in self.state:
            self.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return self.state[parameter]
