"""The work of a step, counted and calculated by hand, and the timing of products."""

from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from adapters.injection import inject
from bench.worker.probes import products
from bench.worker.probes.counting import measure_work
from bench.worker.probes.memory import SavedTensors, measure_activations
from bench.worker.probes.products import Products, measure_products, required
from minbert.data.batches import Batch
from minbert.kernels.reference import kernels
from minbert.model.classifier import BertClassifier, initialise
from minbert.model.config import BertConfig

H, W, B, R, C = 32, 64, 8, 4, 5
LENGTHS = [5, 9, 7, 10, 11, 12, 20, 26]
T = sum(LENGTHS)
CONFIG = BertConfig(
    hidden_size=H, num_hidden_layers=2, num_attention_heads=2, intermediate_size=W, vocab_size=50
)
SQUARE, WIDE = 2 * T * H * H, 2 * T * H * W
LAYER = 4 * SQUARE + 2 * WIDE
HEAD = 2 * B * H * C
CPU = torch.device("cpu")


def batch():
    real = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]  # [B, S]
    ids = torch.randint(1, 50, real.shape, generator=torch.Generator().manual_seed(0)) * real
    return Batch(ids, real.long(), None, torch.zeros(B, dtype=torch.int64), T)


def model(mode, layers, rank, pooling, **more):
    built = BertClassifier(CONFIG, C, pooling=pooling, dropout=0.1, head=more.pop("head", "linear"))
    initialise(built, 0)
    more = {"new_pooler": False} | more
    inject(built, mode=mode, layers=layers, rank=rank, alpha=1.0, seed=0, **more)
    return built


def products_of(mode="full", layers=None, rank=None, pooling="mean", amp="off", **more):
    return required(model(mode, layers, rank, pooling, **more), [batch()], amp, CPU)


def thin(outputs, inputs, *, dx=True, rows=T):
    """FLOPs of an adapter: X Aᵀ, dA; P, dB; and the update, merged or as a branch."""
    always = 2 * 2 * rows * R * inputs + 2 * 2 * rows * R * outputs
    branch = 2 * rows * R * outputs + (2 * rows * R * inputs if dx else 0)
    return always + min(2 * outputs * inputs * R, branch)


AT_FIRST = (2 * SQUARE + 2 * WIDE) * B // T
LAST, POOLER = 2 * SQUARE + AT_FIRST, 2 * B * H * H
"""Of a layer whose first token alone is read, and of a pooler."""
BASE = 2 * LAYER + (2 * LAYER - 3 * SQUARE) + 3 * HEAD
"""Of adapters: no gradients of weights, nor of the first layer's input."""
ADAPTED = {"mode": "lora", "layers": "all-lin-only", "rank": R}
BOTH_LAYERS = (
    3 * thin(H, H, dx=False) + thin(H, H) + thin(W, H) + thin(H, W)
    + 4 * thin(H, H) + thin(W, H) + thin(H, W)
)  # fmt: skip


@pytest.mark.parametrize(("settings", "expected"), [
    ({}, 3 * 2 * LAYER + 3 * HEAD),
    ({"mode": "head"}, 2 * LAYER + 2 * HEAD),
    (ADAPTED, BASE + BOTH_LAYERS),
    (ADAPTED | {"mode": "dora"}, BASE + BOTH_LAYERS),
    (ADAPTED | {"layers": "attn-only"}, BASE + 3 * thin(H, H, dx=False) + 3 * thin(H, H)),
    (ADAPTED | {"layers": "attn"},  # the rest trains, with gradients of weights
     2 * 2 * LAYER + 2 * (SQUARE + 2 * WIDE) + 3 * HEAD + 6 * thin(H, H)),
    ({"pooling": "pooler"}, 3 * (LAYER + LAST + POOLER) + 3 * HEAD),
    ({"mode": "head", "pooling": "pooler"}, LAYER + LAST + POOLER + 2 * HEAD),
    ({"mode": "head", "pooling": "pooler", "new_pooler": True},
     LAYER + LAST + 2 * POOLER + 3 * HEAD),
])  # fmt: skip
def test_operations_are_those_counted_by_hand(settings, expected):
    assert products_of(**settings).flops == expected


def test_other_kernels_and_half_precision_require_the_same_products_and_batches_their_mean():
    adapted = ADAPTED | {"layers": "all-lin", "pooling": "pooler"}
    fast = products_of(**adapted)
    assert products_of(**adapted, amp="bf16") == fast
    with kernels("reference"):
        assert products_of(**adapted) == fast
    one = batch()
    few = Batch(one.input_ids[:4], one.attention_mask[:4], None, one.labels[:4], sum(LENGTHS[:4]))
    both = required(model("head", None, None, "mean"), [few, one], "off", CPU)
    assert {rows for _, rows, *_ in both.wide} == {round((T + few.tokens) / 2), 6}


def test_products_of_the_fewest_operations_are_timed_at_the_speed_of_each_shape(monkeypatch):
    for tokens in (15, 17):  # an update is merged above i o / (i + o), 16 in a layer of width 32
        call, counted = products._Call(H, H, R, dx=True, dw=False), Products()
        counted.add(call, tokens)
        update = counted.thin_flops - 8 * tokens * R * H
        assert update == (2 * H * H * R if tokens > 16 else 4 * tokens * R * H)
    forward, dw = ("forward", 100, 10, 10), ("dw", 100, 10, 10)
    counted = Products(Counter({forward: 1, dw: 2, ("dx", 1, 10, 10): 1}), thin_flops=2_000)
    assert counted.major == [forward, dw], "the third is 0.3% of all operations"
    expected_ms = (20_000 / 2e9 + 40_000 / 1e9) * 1000 * 62_200 / 60_000
    assert counted.milliseconds({forward: 2.0, dw: 1.0}) == pytest.approx(expected_ms)
    # on a GPU without launch and wait
    calls = mock.Mock()
    calls.Event.return_value.elapsed_time.return_value = 8.0  # ms of a repeat
    for name in ("_sleep", "Event"):
        monkeypatch.setattr(torch.cuda, name, getattr(calls, name))
    launches = products._LAUNCHES
    seconds = products._fastest_s(calls.product, torch.device("cuda"))
    assert seconds == pytest.approx(0.008 / launches)
    names = [name for name, *_ in calls.mock_calls if name != "Event"]
    repeat = ["_sleep", "Event().record", *["product"] * launches]
    repeat += [f"Event().{name}" for name in ("record", "synchronize", "elapsed_time")]
    assert names == ["product", *repeat * products._MIN_REPEATS], "the first time it is compiled"


def test_measuring_changes_neither_weights_nor_gradients(monkeypatch):
    trained = model("lora", "all-lin", R, "pooler")
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    assert measure_products(trained, [batch()], "off", CPU)["products_ms"] > 0
    monkeypatch.setattr(products, "measure_gflops", lambda shapes, *_: dict.fromkeys(shapes, 0.5))
    expected_ms = required(trained, [batch()], "off", CPU).flops / 0.5e9 * 1000
    measured = measure_products(trained, [batch()], "off", CPU)["products_ms"]
    assert measured == pytest.approx(expected_ms / T * 1000)
    after = trained.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in trained.parameters())
    assert not any(module._forward_hooks for module in trained.modules())


def test_a_cell_that_trained_is_no_oom_because_measuring_had_no_memory(monkeypatch):
    """Other errors than of products are raised, and random numbers are afterwards as before."""
    built = model("head", None, None, "mean")
    trained = SimpleNamespace(optimizer=mock.Mock(), model=built, device=CPU, amp="off")
    for error in (MemoryError(), ValueError("an unknown architecture")):
        monkeypatch.setattr(products, "required", mock.Mock(side_effect=error))
        assert measure_products(built, [batch()], "off", CPU) == {}
    before = torch.get_rng_state()
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("no")):

        def fail(*_, error=error):
            torch.rand(3)
            raise error

        monkeypatch.setattr(SavedTensors, "counting", fail)
        is_other = type(error) is RuntimeError
        with pytest.raises(RuntimeError, match="no") if is_other else nullcontext():
            assert measure_work(fail, CPU) == {}
        with pytest.raises(RuntimeError, match="no") if is_other else nullcontext():
            assert measure_activations(trained, batch()) == {}
    assert torch.equal(torch.get_rng_state(), before)
