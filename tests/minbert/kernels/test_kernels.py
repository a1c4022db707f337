"""Each kernel against torch's own operators: results, gradients, random numbers, what is kept."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from minbert.kernels import dropout as dropout_kernel
from minbert.kernels import products
from minbert.kernels.attention import attention
from minbert.kernels.dropout import dropout, keep_mask
from minbert.kernels.linear import Linear
from minbert.kernels.products import times
from minbert.kernels.reference import is_reference, kernels
from minbert.kernels.residual import add_and_normalise
from minbert.model.config import ACTIVATIONS


def drawn(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def same_gradients(one, other, *given):
    """Results and gradients of two functions agree."""
    found = []
    for function in (one, other):
        inputs = [tensor.clone().requires_grad_() for tensor in given]
        y = function(*inputs)
        y.backward(drawn(*y.shape, dtype=y.dtype, seed=9))
        found.append([y, *(tensor.grad for tensor in inputs)])
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right)


def test_products_in_fp32_go_by_onednn_where_torch_has_it(monkeypatch):
    if not products._has_onednn():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(F, "linear", None)
    assert times(drawn(3, 4), drawn(5, 4)).shape == (3, 5)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(activation, bias):
    layer = Linear(6, 5, bias=bias).double()
    weights = [w.detach() for w in layer.parameters()]

    def run(x, *weights):
        names = ("weight", "bias")
        given = dict(zip(names, weights, strict=False))
        return torch.func.functional_call(layer, given, (x, activation))

    def by_torch(*given):
        with kernels("reference"):
            return run(*given)

    x = drawn(2, 3, 6, dtype=torch.float64)
    same_gradients(run, by_torch, x, *weights)
    same_gradients(lambda *w: run(x, *w), lambda *w: by_torch(x, *w), *weights)


def test_dropout_of_attention_is_on_the_weights_of_the_softmax():
    length, heads, p = 16, 2, 0.25
    q, k = drawn(4, length, 32), drawn(4, length, 32, seed=1)
    seeing = torch.eye(length).repeat(1, heads).expand(4, length, 32)  # the result: the weights
    qkv = torch.cat([q, k, seeing], dim=2).requires_grad_()
    weights = attention(qkv, None, heads, 0.0)
    torch.manual_seed(0)
    dropped = attention(qkv, None, heads, p)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], weights[kept] / (1 - p))
    assert 0.7 < kept.float().mean() < 0.8


def test_gradients_through_dropout_are_those_of_what_was_kept():
    norm, p = nn.LayerNorm(6).double(), 0.5
    x, y = drawn(2, 5, 6, dtype=torch.float64), drawn(2, 5, 6, dtype=torch.float64, seed=1)

    def seeded(function):
        def run(*given):
            torch.manual_seed(3)
            return function(*given)

        return run

    kernel = seeded(lambda x, y: add_and_normalise(x, y, norm, p, training=True))
    by_hand = seeded(lambda x, y: norm(x + y * keep_mask(y, p) / (1 - p)))
    same_gradients(kernel, by_hand, x, y)
    attend = seeded(lambda x: attention(x.repeat(1, 1, 3), None, 2, p))
    assert torch.autograd.gradcheck(attend, [x.clone().requires_grad_()])


@pytest.mark.parametrize("p", [0.001, 0.5])
def test_a_mask_drops_with_its_probability_and_follows_torchs_seed(p):
    like = torch.empty(1000, 1001)
    torch.manual_seed(0)
    mask, again = keep_mask(like, p), keep_mask(like, p)
    deviation = math.sqrt(p * (1 - p) / mask.numel())
    assert abs(1 - mask.double().mean() - p) < 5 * deviation
    assert mask.dtype == torch.uint8
    assert set(mask.unique().tolist()) == {0, 1}
    both = (1 - mask.double()) * (1 - again.double())  # two masks are independent
    assert abs(both.mean() - p * p) < 5 * math.sqrt(p * p / mask.numel())
    torch.manual_seed(0)
    assert torch.equal(mask, keep_mask(like, p))
    with torch.random.fork_rng([]):
        keep_mask(like, p)
    assert torch.equal(again, keep_mask(like, p))
    assert keep_mask(torch.empty(3, 4, device="meta"), p).is_meta


def test_dropout_is_for_training_alone(monkeypatch):
    x = drawn(3, 4)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert not dropout(x, 1.0, training=True).any()
    monkeypatch.setattr(dropout_kernel, "keep_mask", lambda like, p: torch.ones_like(like))
    torch.testing.assert_close(dropout(x, 0.2, training=True), x / 0.8)


def test_all_dropped_and_no_texts_are_no_error():
    norm, x, y = nn.LayerNorm(6), drawn(2, 5, 6), drawn(2, 5, 6, seed=1)
    torch.testing.assert_close(add_and_normalise(x, y, norm, 1.0, training=True), norm(x))
    assert not attention(drawn(2, 5, 12).requires_grad_(), None, 2, 1.0).any()
    x = torch.empty(0, 4, 6, requires_grad=True)
    y = attention(Linear(6, 18)(x, "gelu"), None, 2, 0.1)
    add_and_normalise(y, x, norm, 0.1, training=True).sum().backward()
    assert x.grad.shape == x.shape


def test_plain_ends_with_its_block():
    with kernels("reference"):
        assert is_reference()
        with kernels("reference"):
            pass
        assert is_reference()
    with pytest.raises(ZeroDivisionError), kernels("reference"):
        raise ZeroDivisionError
    assert not is_reference()
