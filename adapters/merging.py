"""Putting plain linear layers in place of adapted ones, and the adapted ones back."""

import torch
from torch import nn

from adapters.errors import InputError
from adapters.layer import AdaptedLinear, replace
from minbert.kernels.linear import Linear


@torch.no_grad()
def merge(model: nn.Module) -> dict[str, AdaptedLinear]:
    """Replace every adapted layer by a linear layer of the same function.

    Its weight is built in fp32 and then cast to the type of the frozen one. The adapted layers
    leave the model unchanged and are returned: while merged, the model has no adapter that could
    be trained or loaded past the merged weight.

    Returns:
        The adapted layers by their names, for `unmerge`.

    Raises:
        InputError: if the model has no adapted layer.
    """
    kept = {name: m for name, m in model.named_modules() if isinstance(m, AdaptedLinear)}
    if not kept:
        raise InputError("the model has no adapters to merge; inject or load some first")
    for name, layer in kept.items():
        linear = Linear(
            layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta"
        )
        with torch.autocast(layer.weight.device.type, enabled=False):
            weight = layer.adapted_weight().to(layer.weight.dtype)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        linear.register_parameter("bias", layer.bias)
        linear.train(layer.training)
        replace(model, name, linear)
    return kept


def unmerge(model: nn.Module, kept: dict[str, AdaptedLinear]) -> None:
    """Put back the adapted layers that `merge` returned, with the very weights they had."""
    for name, layer in kept.items():
        layer.train(model.get_submodule(name).training)
        replace(model, name, layer)
