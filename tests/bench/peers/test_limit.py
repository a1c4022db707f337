"""The FLOPs of the limit, against calculations by hand, and the timing of its products."""

from dataclasses import replace

import pytest
import torch

from bench.peers import products
from bench.peers.limit import (
    Product,
    Work,
    gflop,
    limit_ms,
    mean_gflops,
    required,
    shapes,
)
from minbert.model.config import BertConfig

H, W, T, B, R, C = 32, 64, 100, 8, 4, 5
CONFIG = BertConfig(
    hidden_size=H, num_hidden_layers=2, num_attention_heads=2, intermediate_size=W, vocab_size=50
)
WORK = Work(
    mode="full", layers=None, rank=None, pooling="mean", new_pooler=False, num_outputs=C,
    tokens=T, texts=B,
)  # fmt: skip
SQUARE, WIDE = 2 * T * H * H, 2 * T * H * W
LAYER = 4 * SQUARE + 2 * WIDE
HEAD = 2 * B * H * C


def flops(**changes) -> int:
    return sum(product.flops for product in required(CONFIG, replace(WORK, **changes)))


def thin(outputs: int, inputs: int, *, dx: bool = True, rows: int = T) -> int:
    """FLOPs of an adapter: X Aᵀ, dA; P, dB; and the update, merged or as a branch."""
    always = 2 * 2 * rows * R * inputs + 2 * 2 * rows * R * outputs
    branch = 2 * rows * R * outputs + (2 * rows * R * inputs if dx else 0)
    return always + min(2 * outputs * inputs * R, branch)


def adapted(**changes) -> int:
    return flops(mode="lora", layers="all-lin-only", rank=R, **changes)


def test_full_fine_tuning_takes_three_products_of_each_weight() -> None:
    assert flops() == 3 * 2 * LAYER + 3 * HEAD


def test_a_trained_head_needs_no_gradient_of_inputs() -> None:
    assert flops(mode="head") == 2 * LAYER + 2 * HEAD


def test_adapters_need_no_gradient_of_weights_or_of_the_first_layers_input() -> None:
    base = 2 * LAYER + (2 * LAYER - 3 * SQUARE) + 3 * HEAD
    first = 3 * thin(H, H, dx=False) + thin(H, H) + thin(W, H) + thin(H, W)
    second = 4 * thin(H, H) + thin(W, H) + thin(H, W)
    assert adapted() == base + first + second
    assert flops(mode="dora", layers="all-lin-only", rank=R) == adapted()


def test_layers_without_adapters_pass_gradients_on() -> None:
    base = 2 * LAYER + (2 * LAYER - 3 * SQUARE) + 3 * HEAD
    thins = 3 * thin(H, H, dx=False) + 3 * thin(H, H)
    assert flops(mode="lora", layers="attn-only", rank=R) == base + thins


def test_a_trained_base_needs_gradients_of_weights() -> None:
    base = 2 * 2 * LAYER + 2 * (SQUARE + 2 * WIDE) + 3 * HEAD
    assert flops(mode="lora", layers="attn", rank=R) == base + 6 * thin(H, H)


def test_a_pooler_reads_only_cls() -> None:
    at_cls = (2 * SQUARE + 2 * WIDE) * B // T
    last = 2 * SQUARE + at_cls
    pooler = 2 * B * H * H
    assert flops(pooling="pooler") == 3 * (LAYER + last + pooler) + 3 * HEAD
    assert flops(mode="head", pooling="pooler") == LAYER + last + pooler + 2 * HEAD
    trained = flops(mode="head", pooling="pooler", new_pooler=True)
    assert trained == LAYER + last + 2 * pooler + 3 * HEAD


@pytest.mark.parametrize(("tokens", "merged"), [(15, False), (17, True)])
def test_an_update_is_merged_if_that_takes_fewer_operations(tokens: int, merged: bool) -> None:
    products = required(CONFIG, replace(WORK, mode="lora", layers="attn", rank=R, tokens=tokens))
    # more than i o / (i + o) tokens: 16 in a layer of width 32
    assert (Product("forward", H, H, R, thin=True) in products) is merged


def test_the_limit_is_the_time_at_the_speed_of_each_shape() -> None:
    products = [
        Product("forward", 100, 10, 10), Product("dw", 100, 10, 10),
        Product("forward", 100, 1, 10, thin=True),
    ]  # fmt: skip
    speeds = {("forward", 100, 10, 10): 2.0, ("dw", 100, 10, 10): 1.0}
    wide_ms = 20_000 / 2e9 * 1000 + 20_000 / 1e9 * 1000
    assert limit_ms(products, speeds) == pytest.approx(wide_ms * 42 / 40)
    assert gflop(products) == pytest.approx(42_000 / 1e9)
    assert mean_gflops(products, speeds) == pytest.approx(40_000 / wide_ms * 1000 / 1e9)
    assert shapes(products) == list(speeds)


class Gpu:
    """A fake GPU with a given time per product; a launch takes the CPU 5 µs, waiting 15 µs more.

    Its events and the CPU share one clock.
    """

    def __init__(self, product_s: float) -> None:
        self.cpu_s = self.busy_until_s = 0.0
        self.product_s = product_s

    def product(self) -> None:
        self.cpu_s += 5e-6
        self._take(self.product_s)

    def sleep(self, cycles: int) -> None:
        self._take(cycles / 2e9)

    def _take(self, seconds: float) -> None:
        self.busy_until_s = max(self.busy_until_s, self.cpu_s) + seconds

    def synchronize(self, _device: object = None) -> None:
        self.cpu_s = max(self.busy_until_s, self.cpu_s) + 15e-6

    def event(self, *, enable_timing: bool) -> "Event":
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.time_s = gpu, 0.0

    def record(self) -> None:
        self.time_s = max(self.gpu.busy_until_s, self.gpu.cpu_s)

    def synchronize(self) -> None:
        self.gpu.synchronize()

    def elapsed_time(self, other: "Event") -> float:
        return (other.time_s - self.time_s) * 1000


@pytest.mark.parametrize("product_s", [2e-6, 10e-6])
def test_a_gpus_product_is_timed_without_launch_and_wait(
    monkeypatch: pytest.MonkeyPatch, product_s: float
) -> None:
    gpu = Gpu(product_s)
    monkeypatch.setattr(torch.cuda, "_sleep", gpu.sleep)
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "synchronize", gpu.synchronize)
    monkeypatch.setattr(products.time, "perf_counter", lambda: gpu.cpu_s)
    fastest_s = products._fastest_s(gpu.product, torch.device("cuda"))
    assert fastest_s == pytest.approx(product_s, rel=0.01)
    assert gpu.cpu_s < 1.2, "little overhead"
