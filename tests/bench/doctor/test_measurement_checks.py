"""Checks of clocks, memory and products: right, and wrong in each way that they look for."""

import mmap
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from bench.doctor.check import FAILED, OK, Context, SkipError
from bench.doctor.checks import host_memory, products, step_clock
from bench.worker.probes import memory, steps
from minbert.kernels.products import times

HERE = Context("cpu", 2, "bf16", Path())


class Time:
    """A clock that moves only while somebody sleeps or waits for a GPU. The GPU needs a millisecond
    for 10⁶ cycles once its own clock is raised; the host queues."""

    def __init__(self, factor=1.0, raised_after_s=1.003):
        self.now, self.factor, self.queued_until = 1000.0, factor, 0.0
        self.raised_at = self.now + raised_after_s

    def sleep(self, seconds):
        self.now += seconds

    def perf_counter(self):
        return self.now

    def monotonic_ns(self):
        return round(self.now * 1e9)

    def hold(self, cycles):
        begun = max(self.queued_until, self.now)
        self.queued_until = begun + cycles / (1e9 if begun >= self.raised_at else 0.3e9)

    def synchronize(self, _device=None):
        self.now = max(self.now, self.queued_until)

    def event(self, **_):
        event = SimpleNamespace(at=None)
        event.record = lambda: setattr(event, "at", max(self.queued_until, self.now))
        event.elapsed_time = lambda end: self.factor * (end.at - event.at) * 1000
        return event


@pytest.mark.parametrize(
    ("device", "factor", "change", "verdict"),
    [
        ("cpu", 1.0, lambda ms: ms, OK),
        ("cpu", 1.0, lambda ms: 0.98 * ms, FAILED),
        ("cpu", 1.0, lambda ms: 1.02 * ms, FAILED),
        ("cpu", 1.0, lambda ms, left=[3]: ms + (left.pop() if left else 0), OK),
        ("cpu", 1.0, lambda _ms: 50.0, FAILED),  # right for the shorter sleep, and always the same
        ("cuda:0", 1.0, lambda ms: ms, OK),
        ("cuda:0", 0.9, lambda ms: ms, FAILED),
    ],
)
def test_the_step_clock(monkeypatch, device, factor, change, verdict):
    time, real = Time(factor), steps.StepClock._elapsed_ms
    for module in (step_clock, steps):
        monkeypatch.setattr(module, "time", time)
    monkeypatch.setattr(torch.cuda, "_sleep", time.hold)
    monkeypatch.setattr(torch.cuda, "synchronize", time.synchronize)
    monkeypatch.setattr(torch.cuda, "Event", time.event)
    monkeypatch.setattr(steps.StepClock, "_elapsed_ms", lambda *of: change(real(*of)))
    finding = step_clock.check(replace(HERE, device=device))
    assert (finding.verdict, bool(finding.remedy)) == (verdict, verdict == FAILED)


@pytest.mark.parametrize(
    ("missed", "says"),
    [
        ("", ""),
        ("reset", "peak after reset"),
        ("RssAnon", "anon rise 23"),
        ("VmRSS", "rss rise 23"),
        ("VmHWM", "rss peak rise 2"),
    ],
)
def test_memory_counters(monkeypatch, missed, says):
    """Right, with a peak that is not reset, and with a counter that misses a tenth."""
    real = memory._status
    first = real().get(missed, 0.0)

    def status():
        values = real()
        lower = {missed: first + 0.9 * (values[missed] - first)} if first else {}
        return values | lower

    monkeypatch.setattr(memory, "_status", status)
    if missed == "reset":
        monkeypatch.setattr(host_memory, "forget_peak", lambda: None)
        monkeypatch.setattr(memory, "forget_peak", lambda: None)
    finding = host_memory.counters(HERE)
    assert (finding.verdict, bool(finding.remedy)) == ((FAILED, True) if says else (OK, False))
    assert says in finding.summary


def test_without_counters_memory_is_not_known(monkeypatch):
    monkeypatch.setattr(memory, "_status", dict)
    monkeypatch.setattr(host_memory, "small_trainer", lambda *_: mock.Mock())
    for check in (host_memory.counters, host_memory.allocator):
        with pytest.raises(SkipError, match="does not report"):
            check(HERE)


@pytest.mark.parametrize(
    ("kept_mib", "steps", "new_pages", "verdict"),
    [(0, 0, 100, OK), (1, 99, 100, FAILED), (4, 12, 100, OK), (0, 0, 3000, FAILED)],
)
def test_the_allocator(monkeypatch, kept_mib, steps, new_pages, verdict):
    """The first steps, or all, keep memory."""
    faults, kept = iter(range(0, 10**9, new_pages)), []

    def step(_batch):
        if len(kept) < steps:
            kept.append(mmap.mmap(-1, kept_mib * 2**20, flags=mmap.MAP_PRIVATE))
            kept[-1].write(b"\1" * len(kept[-1]))

    trainer = SimpleNamespace(step=step)
    monkeypatch.setattr(host_memory, "small_trainer", lambda *_: trainer)
    monkeypatch.setattr(
        host_memory.resource, "getrusage", lambda _who: SimpleNamespace(ru_minflt=next(faults))
    )
    assert host_memory.allocator(HERE).verdict == verdict


right = cache(products._error)


@pytest.mark.parametrize(
    ("step", "half", "wrong", "verdict", "says"),
    [
        (100.0, 2.0, {}, OK,
         "fp32 100 GFLOP/s in a step, 50% of a large; bf16 200 GFLOP/s in a step"),
        (10.0, 2.0, {}, FAILED, "5% of a large"),
        (100.0, 0.5, {}, OK, "bf16 is slower than fp32 here: it is emulated"),
        (100.0, 2.0, {torch.float32: 1 + 2e-5}, FAILED, "wrong in fp32 by"),
        (100.0, 2.0, {torch.bfloat16: torch.nan}, FAILED, "wrong in bf16 by nan"),
    ],
)  # fmt: skip
def test_products(monkeypatch, step, half, wrong, verdict, says):
    def measure(shapes, amp, _device):
        factor = 1.0 if amp == "off" else half
        return {s: factor * (200.0 if s == products._LARGE else step) for s in shapes}

    def patched(x, weight, bias=None):
        y = times(x, weight, bias)
        return y * wrong.get(y.dtype, 1)

    monkeypatch.setattr(products, "measure_gflops", measure)
    if wrong:
        monkeypatch.setattr(products, "times", patched)
    else:
        monkeypatch.setattr(products, "_error", right)
    finding = products.check(HERE)
    assert finding.verdict == verdict
    assert says in finding.summary
