"""Trainable parameters must have moved, and frozen ones must not."""

import json

import pytest
import torch

from bench.engines import minbert
from bench.worker.validity import Movement
from tests.adapters.small import adapted_layers_of, adapted_model, disturb
from tests.encoders import job

KINDS = [
    {"mode": "lora", "layers": "attn-only", "rank": 2},
    {"mode": "dora", "layers": "all-lin", "rank": 2},
    {"mode": "full", "layers": None, "rank": None},
    {"mode": "head", "layers": None, "rank": None},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["mode"])
def test_a_model_is_in_order_once_it_has_trained(kind):
    model = adapted_model(**kind)
    movement = Movement(model, minbert)
    problem = str(movement.problem())
    assert "nothing was learned in: " in problem or "did not move" in problem
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


def test_an_encoder_that_did_not_move_is_reported():
    model = adapted_model(mode="full", layers=None, rank=None)
    movement = Movement(model, minbert)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("classifier"):
                parameter.add_(0.1)
    assert movement.problem() == "the encoder was to train and did not move"


def test_an_adapter_of_any_method_must_have_moved(encoders):
    """Whichever of its parameters a configuration of PEFT moves."""
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


def test_where_some_may_rest_one_must_have_moved():
    model = adapted_model(mode="head", layers=None, rank=None)
    movement = Movement(model, minbert)
    assert (
        movement.problem(every=False)
        == "nothing was learned in: classifier.bias, classifier.weight"
    )
    with torch.no_grad():
        model.classifier.weight.add_(1)
    assert movement.problem() == "nothing was learned in: classifier.bias"
    assert movement.problem(every=False) is None
