"""The fast path of a whole model, on a GPU too, against plain torch under autograd (trap 16), each
kernel against torch's own operators, and what is kept for the backward pass."""

import math
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from adapters.injection import convert_frozen, inject
from bench.worker.probes.memory import SavedTensors
from minbert.kernels import dropout as dropout_kernel
from minbert.kernels import products, reference
from minbert.kernels.attention import attention
from minbert.kernels.dropout import add_and_normalise, dropout, keep_mask
from minbert.kernels.linear import Linear
from minbert.kernels.reference import KERNELS, is_reference, kernels
from minbert.model.classifier import BertClassifier, initialise
from minbert.model.config import ACTIVATIONS
from minbert.training import optimizer
from minbert.training.losses import loss_of
from minbert.training.trainer import autocast
from tests.minbert.peers import sizes, without_dropout

SMALL = sizes(24, 3, 3, 40, 50, 16, initializer_range=0.1, **without_dropout())
LENGTHS = torch.tensor([9, 4, 1, 7])
METHODS = ("lora", "dora")
MODES = [
    ("full", None), ("head", None),
    *((mode, layers) for mode in METHODS for layers in ("all-lin-only", "attn")),
]  # fmt: skip


def model_of(mode, layers, pooling, config=SMALL):
    model = BertClassifier(config, 5, pooling=pooling, dropout=0.0)
    initialise(model, 0)
    rank = None if layers is None else 4
    inject(model, mode=mode, layers=layers, rank=rank, alpha=12, new_pooler=False, seed=0)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():  # B is zero at first, and shows nothing
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.train()


def step(model, padded, amp):
    """Loss, logits and every gradient, by name."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 50, (4, 9), generator=generator)
    mask = (torch.arange(9) < LENGTHS[:, None]).long() if padded else None
    model.zero_grad(set_to_none=True)
    with autocast(amp, torch.device("cpu")):
        logits = model(ids, mask, torch.zeros_like(ids)).float()
    loss = loss_of("cross-entropy", logits, torch.tensor([0, 1, 2, 3]))
    loss.backward()
    yield from (("loss", loss.detach()), ("logits", logits.detach()))
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            yield name, parameter.grad


class Names(TorchDispatchMode):
    """Counts operators by name, and by shape the tensors of fp32 that are cast to bf16."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()
        self.cast = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func._overloadpacket.__name__] += 1
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and made.dtype == torch.bfloat16:
            self.cast[tuple(made.shape)] += args[0].dtype == torch.float32
        return made


def force_gpu(monkeypatch):
    """Take the paths of a GPU on the CPU."""
    for module in (products, reference, optimizer):
        monkeypatch.setattr(module, "on_cpu", lambda _x: False)


@pytest.fixture(params=[False, True], ids=["cpu", "gpu"])
def on_gpu(request, monkeypatch):
    if request.param:
        force_gpu(monkeypatch)
    return request.param


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("mode", "layers"), MODES)
def test_trap_16_the_fast_path_equals_the_plain_one(mode, layers, padded, pooling, on_gpu):
    model = model_of(mode, layers, pooling)
    with Names() as names:
        fast = dict(step(model, padded, "off"))
    if on_gpu:
        assert "_linear_pointwise" not in names.calls, "oneDNN is for the CPU"
        assert any(name.startswith("_scaled_dot_product") for name in names.calls)
    with kernels("reference"):
        exact = dict(step(model, padded, "off"))
    assert fast.keys() == exact.keys()
    assert {name for name in fast if "." in name} == {
        name for name, p in model.named_parameters() if p.requires_grad
    }
    for name, value in exact.items():
        scale, close = value.abs().max().item(), 1e-6 if on_gpu else 1e-5
        rtol = close if on_gpu else 10 * close
        torch.testing.assert_close(fast[name], value, rtol=rtol, atol=close * max(scale, 1e-3))


@pytest.mark.parametrize(("mode", "layers"), MODES)
def test_in_half_precision_it_is_as_near_to_fp32_as_the_plain_path(mode, layers, on_gpu):
    model = model_of(mode, layers, "mean")
    with kernels("reference"):
        exact = dict(step(model, True, "off"))
    errors = []
    for name in KERNELS:
        with kernels(name):
            half = dict(step(model, True, "bf16"))
        distances = [float((half[n] - exact[n]).norm() / exact[n].norm()) for n in exact]
        errors.append(sum(distances) / len(exact))
    fast, usual = errors
    assert 0 < fast < 2 * usual


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("mode", "layers"), [("head", None), ("lora", "all-lin-only")])
def test_a_frozen_weight_is_cast_once_a_step_or_not_at_all(mode, layers, dtype):
    """Merged with an adapter it is formed anew, and cast once, however it is held."""
    model = model_of(mode, layers, "mean")
    convert_frozen(model, dtype)
    with Names() as names:
        dict(step(model, True, "bf16"))
    once = 3 if mode == "lora" or dtype == torch.float32 else 0  # of three layers
    assert [names.cast[shape] for shape in ((72, 24), (40, 24), (24, 40))] == [once] * 3


B, S = 16, 20
H, WIDE, N, L = 48, 192, 4, 3
CONFIG = sizes(H, L, N, WIDE, 60, 32, **without_dropout(0.1))
SIZE = {"off": 4, "bf16": 2}
COUNTED = [MODES[0], *((mode, f"{of}-only") for of in ("all-lin", "attn") for mode in METHODS)]


def saved_bytes(mode, layers, amp, checkpointing=False):
    model = model_of(mode, layers, "mean", CONFIG)
    model.bert.encoder.gradient_checkpointing = checkpointing
    saved = SavedTensors(model)
    ids = torch.randint(1, 60, (B, S), generator=torch.Generator().manual_seed(0))
    with saved.counting(), autocast(amp, torch.device("cpu")):
        logits = model(ids, None, torch.zeros_like(ids))
    logits.sum().backward()
    return round(saved.mib * 2**20)


@pytest.mark.parametrize("amp", SIZE)
@pytest.mark.parametrize(("mode", "layers"), COUNTED)
def test_what_is_kept_is_a_formula(mode, layers, amp):
    """For every token, in the type of the product, 8 H + I numbers; without the attention's result,
    if the weight that it is multiplied by neither trains nor is adapted, 7 H + I. For every pair of
    tokens of a sentence a weight; a byte for whatever dropout may drop; and two fp32 numbers for
    each norm. DoRA's outputs are among these."""
    tokens, pairs, size = B * S, B * N * S * S, SIZE[amp]
    kept = (7 if layers == "attn-only" else 8) * H + WIDE
    expected = L * (tokens * (kept * size + 2 * H + 2 * 2 * 4) + pairs * (size + 1))
    # beside it: weights in the type of the product, of each layer, and what does not grow with
    # layers: the embeddings' norm, the pooled texts
    weights = L * (4 * H * H + 2 * H * WIDE)
    beside = weights * (4 if amp == "off" else 4 + 2) + 8 * tokens * H
    assert expected <= saved_bytes(mode, layers, amp) <= expected + beside


@pytest.mark.parametrize("used", KERNELS)
@pytest.mark.parametrize(("mode", "layers"), MODES)
def test_with_checkpointed_layers_gradients_are_the_same_and_less_is_kept(mode, layers, used):
    with kernels(used):
        usual, less = (saved_bytes(mode, layers, "bf16", each) for each in (False, True))
        assert less <= (usual if mode == "head" else usual / 2), "of a head nothing runs again"
        model, steps, calls = model_of(mode, layers, "mean", CONFIG), [], []
        for checkpointing in (False, True):
            torch.manual_seed(3)
            model.bert.encoder.gradient_checkpointing = checkpointing
            steps.append({name: value.clone() for name, value in step(model, True, "off")})
    torch.testing.assert_close(*steps, rtol=0, atol=0)
    model.bert.encoder.layer[0].register_forward_pre_hook(lambda *_: calls.append(1))
    dict(step(model.eval(), True, "off"))
    assert len(calls) == 1, "in evaluation each layer runs once"


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
    assert products.times(drawn(3, 4), drawn(5, 4)).shape == (3, 5)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(activation, bias):
    layer = Linear(6, 5, bias=bias).double()
    weights = [w.detach() for w in layer.parameters()]

    def run(x, *weights):
        given = dict(zip(("weight", "bias"), weights, strict=False))
        return torch.func.functional_call(layer, given, (x, activation))

    by_torch = kernels("reference")(run)
    x = drawn(2, 3, 6, dtype=torch.float64)
    same_gradients(run, by_torch, x, *weights)
    same_gradients(lambda *w: run(x, *w), lambda *w: by_torch(x, *w), *weights)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", [None, LENGTHS[:, None] > torch.arange(9)])
@pytest.mark.parametrize(("p", "first_only"), [(0.0, False), (0.5, False), (0.5, True)])
def test_a_softmax_computed_again_has_the_same_gradients(p, first_only, mask, dtype):
    gradients = []
    for recompute in (False, True):
        qkv = drawn(4, 9, 18, dtype=dtype).requires_grad_()
        torch.manual_seed(3)
        attention(qkv, mask, 2, p, first_only, recompute).square().sum().backward()
        gradients.append(qkv.grad)
    assert torch.equal(*gradients)


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


def test_dropout_is_for_training_alone_and_of_all_or_of_no_texts_no_error(monkeypatch):
    norm, x, y = nn.LayerNorm(6), drawn(2, 5, 6), drawn(2, 5, 6, seed=1)
    torch.testing.assert_close(add_and_normalise(x, y, norm, 1.0, training=True), norm(x))
    assert not attention(drawn(2, 5, 12).requires_grad_(), None, 2, 1.0).any()
    none = torch.empty(0, 4, 6, requires_grad=True)
    y = attention(Linear(6, 18)(none, "gelu"), None, 2, 0.1)
    add_and_normalise(y, none, norm, 0.1, training=True).sum().backward()
    assert none.grad.shape == none.shape

    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert not dropout(x, 1.0, training=True).any()
    monkeypatch.setattr(dropout_kernel, "keep_mask", lambda like, p: torch.ones_like(like))
    torch.testing.assert_close(dropout(x, 0.2, training=True), x / 0.8)


def test_plain_ends_with_its_block():
    with kernels("reference"):
        assert is_reference()
        with kernels("reference"):
            pass
        assert is_reference()
    with pytest.raises(ZeroDivisionError), kernels("reference"):
        raise ZeroDivisionError
    assert not is_reference()


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
