"""The layers' mathematics, against its definition."""

import pytest
import torch
from torch import nn

from adapters.dora import DoraLinear
from adapters.layer import Part
from adapters.lora import LoraLinear
from tests.adapters.small import disturb

BOTH = pytest.mark.parametrize("kind", [LoraLinear, DoraLinear])
ALPHA = 16.0


@pytest.fixture(autouse=True, params=["merged", "branch"])
def form(request, monkeypatch):
    """Both forms of the product, whatever the number of tokens; in half precision there is one."""
    for kind in (LoraLinear, DoraLinear):
        monkeypatch.setattr(kind, "uses_side_branch", lambda *_: request.param == "branch")
    return request.param


def linear(width_in=12, width_out=20, dtype=torch.float32):
    """A layer that is not square."""
    generator = torch.Generator().manual_seed(3)
    layer = nn.Linear(width_in, width_out)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer.to(dtype)


def moved(kind, base=None, *ranks):
    """A layer of parts of some ranks, one of rank 3 if none is given, away from its start."""
    parts = [Part(name=f"layer.{n}", rank=r, alpha=ALPHA) for n, r in enumerate(ranks or (3,))]
    layer = kind(base or linear(), parts)
    layer.reset_parameters(0)
    disturb(layer)
    return layer


def inputs(dtype=torch.float32):
    return torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(4)).to(dtype)


def defined(layer, x, *, constant_norm=True):
    """The layer's output by the papers' definitions, part by part."""
    outputs, row, count = [], 0, len(layer.parts)
    rows = zip(layer.parts, layer.weight.chunk(count), layer.bias.chunk(count), strict=True)
    for part, weight, bias in rows:
        if part.rank:
            weight = weight + ALPHA / part.rank * layer.lora_B[row] @ layer.lora_A[row]
            if isinstance(layer, DoraLinear):
                norm = weight.pow(2).sum(dim=1).sqrt()
                magnitude = layer.magnitude.chunk(len(layer.lora_A))[row]
                weight = (magnitude / (norm.detach() if constant_norm else norm))[:, None] * weight
            row += 1
        outputs.append(x @ weight.T + bias)
    return torch.cat(outputs, dim=-1)


def weighted(y):
    """A loss whose gradient is not the same everywhere."""
    return (y * torch.linspace(-1, 2, y.numel()).view_as(y).to(y)).sum()


@BOTH
@pytest.mark.parametrize("ranks", [(3,), (2, 0, 4)], ids=str)
def test_results_and_gradients_are_those_of_the_definition(kind, ranks):
    layer = moved(kind, linear(width_out=36, dtype=torch.float64), *ranks)
    x = inputs(dtype=torch.float64).requires_grad_()
    trained = [x, *(getattr(layer, name) for name in layer.method.parameters)]
    y, expected = layer(x), defined(layer, x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert layer.lora_A.dtype == torch.float64
    ours, theirs = (torch.autograd.grad(weighted(of), trained) for of in (y, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    if kind is DoraLinear:
        through = torch.autograd.grad(weighted(defined(layer, x, constant_norm=False)), trained)
        for one, other in zip(ours[1:3], through[1:3], strict=True):
            assert (one - other).abs().max() > 0.01 * one.abs().max(), "of the norm too"


@BOTH
def test_step_zero_equals_the_base(kind):
    base = linear()
    expected = base(inputs())
    layer = kind(base, [Part(name="layer", rank=3, alpha=ALPHA)])
    layer.reset_parameters(0)
    assert layer.lora_A.abs().min() > 0
    assert torch.equal(layer(inputs()), expected)


@pytest.mark.parametrize(("kind", "parts", "wide", "rank", "most"), [
    (LoraLinear, 1, 384, 8, 191), (LoraLinear, 3, 1152, 64, 191),
    (DoraLinear, 1, 1536, 8, 38), (DoraLinear, 3, 1152, 8, 23), (DoraLinear, 1, 384, 64, 2),
])  # fmt: skip
def test_the_form_with_fewer_operations_is_taken(kind, parts, wide, rank, most, monkeypatch):
    """A branch up to a number of tokens, from multiply-adds counted by hand."""
    monkeypatch.undo()
    names = [Part(name=f"layer.{n}", rank=rank, alpha=ALPHA) for n in range(parts)]
    layer = kind(nn.Linear(384, wide), names)
    assert [layer.uses_side_branch(tokens) for tokens in (1, most, most + 1)] == [True, True, False]


@pytest.mark.parametrize(("rank", "parts", "left"), [(1, 1, 0.5), (8, 3, 1e-3), (64, 1, 0.0)])
def test_factored_and_dense_norms_agree_where_rows_nearly_cancel_too(rank, parts, left):
    layer = moved(DoraLinear, linear(96, 36), *[rank] * parts)
    with torch.no_grad():
        update = layer.updated_weight() - layer.weight
        layer.weight[::2] = (left - 1) * update[::2]  # W + s B A = left · s B A
        layer.weight[3] = layer.weight[5] = 0
        layer.lora_B.view(36, rank)[5] = 0
    exact = layer.double().updated_weight().detach().norm(dim=1).float()
    layer.float()
    dense = DoraLinear.row_norms(layer.updated_weight())
    factored = layer.factored_norms()
    torch.testing.assert_close(factored, dense, rtol=1e-5, atol=1e-5 * float(exact.max()) * 0.1)
    torch.testing.assert_close(factored[1::2], exact[1::2], rtol=1e-5, atol=0)
    assert factored[3] > 0
    assert factored[5] == 0


def test_a_magnitude_of_zero_leaves_the_bias_and_gets_no_gradient():
    layer = moved(DoraLinear)
    with torch.no_grad():
        layer.weight[2] = 0
        layer.lora_B[0, 2] = 0
        layer.reset_magnitude()
        layer.magnitude[4] = 0
    y = layer(inputs())
    for row in (2, 4):
        assert torch.equal(y[..., row], layer.bias[row].expand(2, 5))
    for of in (layer.magnitude, layer.lora_A, layer.lora_B):
        (grad,) = torch.autograd.grad(weighted(layer(inputs())), [of])
        assert grad.isfinite().all()
        if of is layer.magnitude:
            assert (grad == 0).tolist() == [row in (2, 4) for row in range(20)]


def test_draws_are_kaiming_uniform_and_depend_on_seed_and_name_alone():
    base = linear(96, 64)

    def drawn(seed, *named):
        layer = LoraLinear(base, [Part(name=name, rank=rank, alpha=ALPHA) for name, rank in named])
        layer.reset_parameters(seed)
        return layer.lora_A

    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    first = drawn(5, ("some.layer", 8))
    assert torch.equal(torch.random.get_rng_state(), before)
    bound = 96**-0.5
    assert first.abs().max() <= bound
    assert first.abs().max() > 0.95 * bound
    assert first.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert not torch.equal(first, drawn(6, ("some.layer", 8)))
    assert not torch.equal(first, drawn(5, ("x", 8)))
    fused = drawn(5, ("other", 2), ("none", 0), ("some.layer", 8), ("last", 1))
    assert torch.equal(first[0], fused[1])
    assert not fused[0, 2:].any(), "ranks are padded with zeros"


@BOTH
def test_nothing_is_cached(kind):
    layer, x = moved(kind).eval(), inputs()
    for parameter in layer.parameters():
        before = layer(x)
        parameter.data.add_(0.3)
        assert not torch.allclose(layer(x), before)
        torch.testing.assert_close(layer(x), defined(layer, x), rtol=1e-5, atol=1e-4)


@BOTH
def test_a_half_precision_base_works_without_autocast(kind):
    layer = moved(kind, linear().bfloat16())
    assert layer(inputs()).dtype == torch.float32
    y = layer(inputs().bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(inputs()), rtol=0.05, atol=0.2)
