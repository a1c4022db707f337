"""Merging into plain layers, and back."""

import pytest
import torch
from torch import nn

from adapters.errors import InputError
from adapters.merging import merge, unmerge
from tests.adapters.small import (
    adapted_layers_of,
    adapted_model,
    base_model,
    batch,
    disturb,
    split_names,
)

MODES = pytest.mark.parametrize("mode", ["lora", "dora"])


@MODES
def test_trap_10_merge_and_unmerge(mode: str) -> None:
    ids, mask = batch()
    model = adapted_model(mode=mode)
    disturb(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    expected = model(ids, mask)
    assert (expected - base_model()(ids, mask)).abs().max() > 0.01
    kept = merge(model)
    assert not adapted_layers_of(model)
    torch.testing.assert_close(model(ids, mask), expected, rtol=0, atol=1e-5)
    assert model.state_dict().keys() == base_model().state_dict().keys()
    unmerge(model, kept)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert torch.equal(model(ids, mask), expected)


@MODES
def test_the_merged_weight_is_built_in_fp32_and_then_cast(mode: str) -> None:
    model = adapted_model(mode=mode)
    disturb(model)
    layers = adapted_layers_of(model)
    for layer in layers.values():
        layer.weight.data = layer.weight.data.bfloat16()
    exact = {name: layer.adapted_weight() for name, layer in layers.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        merge(model)
    for name, weight in exact.items():
        merged = model.get_submodule(name).weight
        assert weight.dtype == torch.float32
        assert merged.dtype == torch.bfloat16
        assert torch.equal(merged, weight.bfloat16())


@MODES
def test_a_merged_model_can_be_loaded_as_a_plain_one(mode: str) -> None:
    ids, mask = batch()
    model = adapted_model(mode=mode)
    disturb(model)
    expected = model(ids, mask)
    merge(model)
    plain = base_model()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(ids, mask), expected, rtol=0, atol=1e-5)
    assert split_names(model).keys() == split_names(plain).keys()
    assert not any(
        p.requires_grad
        for layer in model.bert.encoder.modules()
        if isinstance(layer, nn.Linear)
        for p in layer.parameters()
    )


def test_nothing_to_merge_is_refused() -> None:
    with pytest.raises(InputError, match="no adapters to merge"):
        merge(base_model())
