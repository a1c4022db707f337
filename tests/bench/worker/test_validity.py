"""Trainable parameters must have moved, and frozen ones must not."""

import json

import pytest
import torch
from torch import nn

from bench.engines import minbert
from bench.worker.weights import Movement
from tests.adapters.small import adapted_layers_of, adapted_model, disturb
from tests.encoders import job


@pytest.mark.parametrize(("mode", "layers"), [("dora", "all-lin"), ("full", None), ("head", None)])
def test_a_model_is_in_order_once_it_has_trained(mode, layers):
    """And each tensor of the head has moved, or one where some may rest."""
    model = adapted_model(mode=mode, layers=layers, rank=2 if layers else None)
    movement = Movement(model, minbert)
    stuck = "nothing was learned in: classifier.bias"
    for every in (True, False):
        assert movement.problem(every=every) == f"{stuck}, classifier.weight"
    with torch.no_grad():
        model.classifier.weight.add_(1)
        assert movement.problem() == stuck
        rest = "the encoder was to train and did not move" if mode == "full" else None
        assert layers or movement.problem(every=False) == rest
    disturb(model)
    assert movement.problem() is None


def test_an_adapter_that_did_not_move_and_a_frozen_tensor_that_did_are_named():
    model = adapted_model(mode="lora", layers="attn-only")
    movement = Movement(model, minbert)
    name, layer = list(adapted_layers_of(model).items())[1]
    before = layer.lora_B.detach().clone()
    disturb(model)
    with torch.no_grad():
        layer.lora_B.copy_(before)
        assert movement.problem() == f"nothing was learned in: {name}.lora_B"
        frozen = next((n, p) for n, p in model.named_parameters() if not p.requires_grad)
        frozen[1].view(-1)[0] += 1e-6
    assert movement.problem() == f"frozen tensors moved: {frozen[0]}"


def test_a_frozen_weight_of_odd_width_in_half_is_watched():
    model = nn.Linear(21, 15, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    movement = Movement(model, minbert)
    with torch.no_grad():
        model.weight[0, 0] *= 1.01
    assert movement.problem() == "frozen tensors moved: weight"


def test_an_adapter_of_any_method_must_have_moved(encoders):
    from bench.engines import transformers

    config = {"peft_type": "LOHA", "r": 2, "target_modules": ["query"]}
    model = transformers.build(job(encoders("bert"), "peft", adapter_config=json.dumps(config)))
    movement = Movement(model, transformers)
    groups = transformers.parameter_groups(model)
    with torch.no_grad():
        for parameter in groups["head"].values():
            parameter.add_(0.1)
        assert "nothing was learned in: " in str(movement.problem())
        next(iter(groups["adapter"].values())).add_(0.1)
    assert movement.problem() is None
