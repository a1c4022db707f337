"""Code paths for a GPU, forced on the CPU, give the results of plain torch."""

import pytest
import torch
from torch import nn

import adapters.lora
import minbert.training.optimizer
from adapters.dora import DoraLinear
from adapters.layer import Part
from adapters.lora import LoraLinear
from minbert.kernels.attention import attention, prepare_mask
from minbert.kernels.reference import kernels
from minbert.training.optimizer import OPTIMIZERS, ParameterGroup
from tests.minbert.kernels.test_fast_path import Names, force_gpu


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_takes_the_steps_that_it_does_on_the_cpu(name, monkeypatch):
    def train(*, forced):
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        optimizer = OPTIMIZERS[name]([ParameterGroup(list(model.parameters()), 1e-2, 0.1)])
        for _ in range(10):
            optimizer.zero_grad()
            model(torch.randn(4, 5)).square().sum().backward()
            with Names() as names:
                optimizer.step()
        assert ("_foreach_lerp_" in names.calls) == (forced and name != "adamw")
        return [*model.parameters()]

    usual = train(forced=False)
    monkeypatch.setattr(minbert.training.optimizer, "on_cpu", lambda _x: False)
    torch.testing.assert_close(train(forced=True), usual, rtol=1e-6, atol=1e-6)


def layer_of(kind, width_in, width_out, *alphas, rank=2):
    """A layer of a part for each alpha, away from its start."""
    torch.manual_seed(0)
    parts = [Part(name=f"part {n}", rank=rank, alpha=alpha) for n, alpha in enumerate(alphas)]
    layer = kind(nn.Linear(width_in, width_out), parts)
    layer.reset_parameters(0)
    nn.init.normal_(layer.lora_B)
    return layer


def test_dora_merges_where_the_cpu_takes_a_branch_and_does_not_wait(monkeypatch):
    layer, x = layer_of(DoraLinear, 64, 64, 2.0, rank=1), torch.randn(1, 64)
    assert layer.uses_side_branch(1)
    usual = layer(x)
    force_gpu(monkeypatch)
    torch.testing.assert_close(layer(x), usual, rtol=1e-5, atol=1e-6)

    layer.magnitude.data[5] = 0.0
    with Names() as names:
        y = layer(x)
        y.sum().backward()
    assert not {"_local_scalar_dense", "nonzero"} & names.calls.keys()
    assert y[0, 5] == layer.bias[5]
    assert (layer.magnitude.grad != 0).all(), "a row of magnitude 0 trains as others do"


def check_layer(layer, activation=None):
    """Fail unless results and gradients of a layer are those of plain torch."""
    results = []
    for name in ("fast", "reference"):
        layer.zero_grad()
        x = torch.linspace(-1, 1, 18).view(3, 6).requires_grad_()
        with kernels(name):
            y = layer(x, activation)
        y.square().sum().backward()
        results.append([y, x.grad, *(p.grad for p in layer.parameters() if p.requires_grad)])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("parts", [1, 3])
def test_large_products_of_lora_in_fp32_do_not_form_the_weights_gradient(parts, monkeypatch):
    force_gpu(monkeypatch)
    monkeypatch.setattr(adapters.lora, "BUSY", 3 * 6 * 12)
    layer = layer_of(LoraLinear, 6, 12, *[3.0] * parts)
    nodes = [type(layer(torch.ones(tokens, 6)).grad_fn).__name__ for tokens in (2, 3)]
    assert nodes == ["AddmmBackward0", "ThinProductBackward"]
    check_layer(layer, "gelu")
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(3, 6)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("kind", "alphas"), [(LoraLinear, (1.0, 3.0)), (DoraLinear, (1.0, 3.0)), (DoraLinear, (3.0,))]
)
def test_parts_of_any_scale_and_a_row_of_zeros_are_by_definition(kind, alphas, monkeypatch):
    force_gpu(monkeypatch)
    layer = layer_of(kind, 6, 8, *alphas)
    check_layer(layer)
    layer.weight.data[3] = layer.lora_B.data[0, 3] = 0.0
    check_layer(layer)


def test_a_masked_token_has_no_weight_however_high_its_score(monkeypatch):
    force_gpu(monkeypatch)
    length, width = 4, 8
    qkv = torch.full((1, length, 3, width), 80.0)  # scores of 80 * 80 * √8 = 18,102
    qkv[0, :, 2] = torch.arange(length)[:, None]
    qkv[0, :2, 1] = -80.0  # keys of the real tokens
    y = attention(qkv.view(1, length, -1), prepare_mask(torch.tensor([[1, 1, 0, 0]]), qkv), 1, 0.0)
    torch.testing.assert_close(y, qkv[:, :2, 2].mean(dim=1, keepdim=True).expand_as(y))
