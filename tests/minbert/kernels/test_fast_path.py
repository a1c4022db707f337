"""The fast path of a whole model, on a GPU too, against plain torch under autograd (trap 16), and
what it keeps for the backward pass."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from adapters.injection import convert_frozen, inject
from bench.worker.probes.memory import SavedTensors
from minbert.kernels import products, reference
from minbert.kernels.reference import KERNELS, kernels
from minbert.model.classifier import BertClassifier, initialise
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
    """Whether the paths are those of a GPU."""
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


@pytest.mark.parametrize(
    ("mode", "layers"),
    [("head", None), ("bitfit", None), ("lora", "attn"), ("dora", "all-lin-only")],
)
def test_with_frozen_weights_in_half_gradients_are_those_of_rounded_weights(mode, layers):
    """In fp32, of the type of what trains, against the same model of rounded weights in fp32; and
    without adapters of the weights themselves, which autocast rounds."""
    half, rounded = model_of(mode, layers, "pooler"), model_of(mode, layers, "pooler")
    convert_frozen(half, torch.bfloat16)
    if layers is not None:
        convert_frozen(rounded, torch.bfloat16)
        for parameter in rounded.parameters():
            parameter.data = parameter.data.float()
    expected = dict(step(rounded, True, "bf16"))
    found = dict(step(half, True, "bf16"))
    assert {value.dtype for value in found.values()} == {torch.float32}
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


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
