"""This project's kernels in an encoder of transformers: for PEFT's layers of LoRA and DoRA, for
dropout, LayerNorm and activations.

A module gets a class that has another `forward` and is otherwise its own: parameters, and so the
keys of files, keep their names. Modules of exactly the types named here are replaced, others stay.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import AttentionInterface, AttentionMaskInterface, activations
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adapters.dora import DoraLinear
from adapters.layer import Part
from adapters.lora import LoraLinear
from adapters.low_rank import LowRankLinear
from bench.engines.classifier import ADAPTER, EncoderClassifier
from bench.plan.cell import OFF, ON
from bench.plan.job import Job
from minbert.kernels.attention import attend
from minbert.kernels.dropout import dropout
from minbert.kernels.linear import activate
from minbert.kernels.reference import is_spelled_out, product_dtype


class _OfPeft(LowRankLinear):
    """An adapted layer whose tensors are those of a layer of PEFT."""

    scale: float

    def __init__(self, layer: Any) -> None:
        nn.Module.__init__(self)
        vars(self)["layer"] = layer  # which has this one as a submodule
        vars(self)["_factors"] = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.scale = layer.scaling[ADAPTER]
        self.parts = (Part(name="", rank=layer.r[ADAPTER], alpha=self.scale * layer.r[ADAPTER]),)
        self.dropout = getattr(layer.lora_dropout[ADAPTER], "p", 0.0)
        self.register_buffer(
            "scales", self.lora_A.new_full((1, 1, 1), self.scale), persistent=False
        )

    weight = property(lambda self: self.layer.base_layer.weight)
    bias = property(lambda self: self.layer.base_layer.bias)
    factors = property(lambda self: [factor.weight for factor in self._factors])  # A [r, i], B
    lora_A = property(lambda self: self.factors[0][None])  # noqa: N815
    lora_B = property(lambda self: self.factors[1][None])  # noqa: N815

    @property
    def trains_b_alone(self) -> bool:
        a, b = self.factors
        return bool(b.requires_grad and not a.requires_grad)


class _Lora(_OfPeft, LoraLinear):
    def adapted_weight(self) -> Tensor:
        """W + s B A, [o, i], by one operator, as stacking its one part costs the host more time
        than PEFT's layer takes."""
        a, b = self.factors
        return torch.addmm(self.weight.to(a.dtype), b, a, alpha=self.scale)


class _Dora(_OfPeft, DoraLinear):
    magnitude = property(lambda self: self.layer.lora_magnitude_vector[ADAPTER].weight)


class _PeftLinear(PeftLinear):  # type: ignore[misc]
    own: _OfPeft

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        if self.merged or self.disable_adapters or args or options:
            return super().forward(x, *args, **options)
        return self.own(x)


class _Dropout(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)


class _LayerNorm(nn.LayerNorm):
    """Under autocast it takes and gives half precision on a CPU, and computes in fp32."""

    def forward(self, x: Tensor) -> Tensor:
        if is_spelled_out(x):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(product_dtype(x))
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


def _activation(own: type[nn.Module], name: str) -> type[nn.Module]:
    def forward(_self: nn.Module, x: Tensor) -> Tensor:
        return activate(name, x)

    return type(own.__name__, (own,), {"forward": forward})


_CLASSES: Final[dict[type[nn.Module], type[nn.Module]]] = {
    nn.Dropout: _Dropout,
    nn.LayerNorm: _LayerNorm,
    activations.GELUActivation: _activation(activations.GELUActivation, "gelu"),
    activations.NewGELUActivation: _activation(activations.NewGELUActivation, "gelu_new"),
}


_SDPA: Final = "sdpa"
_OWN: Final = "minbert"


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: [B, S, N, D] from query, key and value [B, N, S, D].
    On a CPU that of engine minbert, where there are as many heads of keys as of queries."""
    differs = key.shape[1] != query.shape[1] or options.get("is_causal")
    is_mask = attention_mask is None or attention_mask.dtype == torch.bool
    is_exact = product_dtype(query) == torch.float32 and not torch.is_grad_enabled()
    if is_spelled_out(query) or is_exact or differs or not is_mask or scaling is None:
        y, _ = ALL_ATTENTION_FUNCTIONS[_SDPA](
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return y, None
    return attend(query, key, value, attention_mask, scaling, dropout).transpose(1, 2), None


AttentionInterface.register(_OWN, _attention)
AttentionMaskInterface.register(_OWN, ALL_MASK_ATTENTION_FUNCTIONS[_SDPA])

_CHANGED_IN_PLACE: Final = {"deberta": (".pos_proj", ".pos_q_proj")}
"""Ends of names of layers whose output the model divides in place, which a product that keeps its
output does not allow, by `model_type`."""


SAVED: Final = 1.2
"""The bytes of a step with PEFT's layers, over those with ours, from which ours may take more of
the host's time, for which a small encoder on a GPU waits."""


def has_own_layers(job: Job) -> bool:
    """Whether a job's adapters are computed by this project's layers: where they take less of the
    host's time than PEFT's or save `SAVED` of its bytes, so not as a side branch in fp32 on a GPU.
    `python -m tests.benchmarks.test_host_time` prints the times, tests count the bytes."""
    is_branch = job.cell.lora_dropout or job.cell.lora_fa == ON
    return job.device == "cpu" or job.cell.amp != OFF or not is_branch


def use_own_kernels(model: EncoderClassifier, *, layers: bool = True) -> None:
    """Compute with this project's kernels from now on, in place; `layers`: adapters, too."""
    library: Any = vars(model)["model_of_library"]
    if library.config._attn_implementation == _SDPA:
        library.set_attn_implementation(_OWN)
    module: Any
    left = _CHANGED_IN_PLACE.get(model.model_type, ())
    for name, module in list(model.get_submodule(model.prefix).named_modules()):
        is_adapted = layers and type(module) is PeftLinear
        if is_adapted and _is_plain(module) and not name.endswith(left):
            kind: Callable[[Any], _OfPeft] = _Dora if module.use_dora[ADAPTER] else _Lora
            module.add_module("own", kind(module))
            module.__class__ = _PeftLinear
        elif own := _CLASSES.get(type(module)):
            module.__class__ = own


def _is_plain(layer: Any) -> bool:
    """Whether a layer of PEFT is plain LoRA or DoRA on a linear layer of torch."""
    variants = {type(variant) for variant in layer.lora_variant.values()}
    has_options = layer.fan_in_fan_out or layer.lora_bias[ADAPTER] or variants - {DoraLinearVariant}
    return type(layer.base_layer) is nn.Linear and not has_options
