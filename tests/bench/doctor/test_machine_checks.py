"""Checks of the machine, of clocks, memory and products: each verdict both ways."""

import itertools
import mmap
import os
import re
import resource
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from bench.doctor.check import FAILED, OK, Context, SkipError
from bench.doctor.checks import cpu, host_memory, products, software
from bench.doctor.checks import steps as step_checks
from bench.machine import memory
from bench.worker.probes import memory as probes
from bench.worker.probes import steps
from minbert.kernels.products import times

HERE = Context("cpu", 2, "bf16", Path())


@pytest.mark.parametrize(("version", "most", "stat", "address_space", "mib", "limit"), [
    (2, f"{2**28}", "inactive_file 104857600", None, 228, "left by the control group's limit"),
    (1, f"{2**28}", "inactive_file 7\ntotal_inactive_file 104857600", None, 228,
     "left by the control group's limit"),
    (2, "max", "inactive_file 0", None, 512, "free on this machine"),
    (2, "max", "inactive_file 0", 2**20, 1, "allowed by the limit on address space (ulimit)"),
])  # fmt: skip
def test_the_least_limit(monkeypatch, tmp_path, version, most, stat, address_space, mib, limit):
    (tmp_path / "memory").mkdir()
    *files, _ = memory._FILES[version == 1]
    for name, text in zip(files, (most, f"{2**27}", stat), strict=True):
        (tmp_path / name).write_text(f"{text}\n")
    limits = {resource.RLIMIT_AS: address_space or resource.RLIM_INFINITY}
    soft = lambda of: (limits.get(of, resource.RLIM_INFINITY),) * 2  # noqa: E731
    monkeypatch.setattr(memory.resource, "getrlimit", soft)
    machine = SimpleNamespace(available=512 * 2**20)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: machine)
    assert memory.available_mib(tmp_path) == (mib, limit)
    monkeypatch.setattr(software, "available_mib", lambda: (2000.0 + mib, limit))
    finding = software.memory(HERE)
    assert finding.verdict == (OK if mib > 48 else FAILED)
    assert f"{2000 + mib:,} MiB are {limit}" in finding.summary


def load(monkeypatch, *windows):
    """Make each window's products take so long, one after another and again from the first."""
    durations = itertools.cycle(windows)
    monkeypatch.setattr(cpu, "product_seconds", lambda _s, _threads: [next(durations)])


@pytest.mark.parametrize(
    ("threads", "alone", "together", "quota", "allowed", "ran", "verdict", "says"),
    [
        (2, 2.0, 1.0, None, 2, 1.0, OK, "2.00 times as fast"),
        (2, 2.0, 1.5, None, 2, 1.0, FAILED, "1.33 times"),
        (2, 2.0, 1.0, 1, 2, 1.0, FAILED, "quota allows 1"),
        (2, 2.0, 1.0, None, 1, 1.0, FAILED, "affinity allows 1"),
        (2, 2.0, 1.0, None, 2, 0.5, FAILED, "run for 50% of the time"),
        (4, 4.0, 2.2, None, 4, 4.0, FAILED, "1.82 times"),  # each has to gain
        (128, 10.0, 1.4, None, 128, 16.0, OK, f"{cpu.MOST} threads"),  # of many some
    ],
)
def test_cores(monkeypatch, threads, alone, together, quota, allowed, ran, verdict, says):
    load(monkeypatch, alone, together)
    used: list[int] = []
    counters = ({"seconds": 10.0 * n, "own_cpu_s": 20.0 * ran * n} for n in itertools.count())
    monkeypatch.setattr(cpu, "read_counters", lambda: next(counters))
    monkeypatch.setattr(cpu, "cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(allowed)))
    monkeypatch.setattr(cpu.torch, "set_num_threads", used.append)
    finding = cpu.cores(Context("cpu", threads, "bf16", Path()))
    assert (finding.verdict, bool(finding.remedy)) == (verdict, verdict == FAILED)
    assert says in finding.summary
    assert (min(used), max(used)) == (1, min(threads, cpu.MOST))


class Watch:
    """A machine with given activity, and given doubts."""

    def __init__(self, doubts=None, **activity):
        usual = dict.fromkeys(("waited", "stolen", "foreign_cores", "quota_throttled_s"), 0.0)
        self.report, self.doubts, self.look = {"cpu": usual | activity}, doubts or {}, mock.Mock()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


QUIET, BUSY = Watch(waited=0.01), Watch(waited=0.9, foreign_cores=1.0)


@pytest.mark.parametrize(("windows", "verdict", "says"), [
    ([QUIET, BUSY, QUIET], OK, ""),  # now and then
    ([QUIET, BUSY, BUSY], FAILED, ""),
    ([Watch(waited=0.11, foreign_cores=1.0)], FAILED, "other programs keep 1.0 cores busy"),
    ([Watch(stolen=0.11)], FAILED, "11% of the cores' time went to other guests"),
    ([Watch(waited=0.5, foreign_cores=None)], FAILED, ""),
    ([Watch(waited=0.5, foreign_cores=0.2)], None, r"waited 0.50 s for a core .* see cores"),
    ([Watch(waited=None, stolen=None)], None, "does not count"),
])  # fmt: skip
def test_disturbance(monkeypatch, windows, verdict, says):
    load(monkeypatch, 0.01)
    watches = itertools.cycle(windows)
    monkeypatch.setattr(cpu, "MachineWatch", lambda: next(watches))
    with pytest.raises(SkipError, match=says) if verdict is None else nullcontext():
        finding = cpu.disturbance(HERE)
        assert (finding.verdict, says in finding.summary) == (verdict, True)


@pytest.mark.parametrize(("seconds", "doubts", "verdict"), [
    ([0.0100, *[0.0116] * 9], {}, OK),
    ([0.0100, *[0.0119] * 10], {}, FAILED),
    ([0.0100], {"throttled": "cores were slowed 9 times by heat"}, FAILED),
])  # fmt: skip
def test_frequency(monkeypatch, seconds, doubts, verdict):
    load(monkeypatch, 0.01, *seconds)
    monkeypatch.setattr(cpu, "MachineWatch", lambda: Watch(doubts))
    finding = cpu.frequency(HERE)
    assert finding.verdict == verdict
    assert all(reason in finding.summary for reason in doubts.values())


@pytest.mark.parametrize(("enabled", "tunables", "after", "expected"), [
    ("always [madvise] never", "glibc.malloc.hugetlb=1", 14, OK),
    ("always [madvise] never", "glibc.malloc.hugetlb=1", 13, FAILED),
    ("always madvise [never]", "glibc.malloc.hugetlb=1", 8, "turned huge pages off"),
    ("", "glibc.malloc.hugetlb=1", 8, "has no transparent huge pages"),
    ("[always] madvise never", "glibc.malloc.mmap_max=0", 8, "without them"),
])  # fmt: skip
def test_huge_pages(monkeypatch, tmp_path, enabled, tunables, after, expected):
    """With 10 MiB of huge pages beforehand, and a block of 8."""
    texts = iter(f"Rss: 1 kB\nAnonHugePages:   {mib * 1024} kB\n" for mib in (10, after))
    files = {host_memory._ENABLED: lambda: enabled, host_memory._PAGES: lambda: next(texts)}
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    monkeypatch.setattr(host_memory, "text_or_empty", lambda path: files[path]())
    monkeypatch.setattr(host_memory, "BLOCK_MIB", 8)
    is_known = expected in (OK, FAILED)
    with nullcontext() if is_known else pytest.raises(SkipError, match=expected):
        assert host_memory.huge_pages(HERE).verdict == expected


NO_LIBRARY = mock.Mock(side_effect=OSError("libtorch.so: gone"))
VERSIONS = ["numpy>=99", "not-there>=1", "pytest>=99; extra == 'test'", "pandas>=2"]


@pytest.mark.parametrize(("changes", "says"), [
    ({"torch.get_num_threads": lambda: 4}, "torch uses 4 threads, and not 2"),
    ({"torch.get_float32_matmul_precision": lambda: "medium"},
     "fp32 products have precision medium"),
    ({"torch.backends.mkldnn": mock.Mock(**{"is_available.return_value": False})}, "lacks oneDNN"),
    ({"bench.worker.process.import_all": NO_LIBRARY}, "OSError: libtorch.so: gone"),
    ({software.DROPPED[0]: "1"}, f"workers inherit {software.DROPPED[0]}, which"),
    ({"importlib.metadata.requires": lambda _name: VERSIONS,
      "importlib.metadata.metadata": lambda _name: {"Requires-Python": ">=3.99"}},
     r"^Python \S+ is not >=3\.99; numpy \S+ is not >=99; not-there is not installed$"),
])  # fmt: skip
def test_software_that_is_wrong_is_named(monkeypatch, changes, says):
    for name in software.DROPPED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for name, value in changes.items():
        if value == "1":
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.setattr(name, value)
    finding = software.check(HERE)
    assert finding.verdict == FAILED
    assert re.search(says, finding.summary)


class Time:
    """A clock of sleeps and waits for a GPU, whose own clock is raised after a while."""

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


@pytest.mark.parametrize(("device", "factor", "change", "verdict"), [
    ("cpu", 1.0, lambda ms: ms, OK),
    ("cpu", 1.0, lambda ms: 0.98 * ms, FAILED),
    ("cpu", 1.0, lambda ms: 1.02 * ms, FAILED),
    ("cpu", 1.0, lambda ms, left=[3]: ms + (left.pop() if left else 0), OK),
    ("cpu", 1.0, lambda _ms: 50.0, FAILED),  # right for the shorter sleep, and always the same
    ("cuda:0", 1.0, lambda ms: ms, OK),
    ("cuda:0", 0.9, lambda ms: ms, FAILED),
])  # fmt: skip
def test_the_step_clock(monkeypatch, device, factor, change, verdict):
    time, real = Time(factor), steps.StepClock._elapsed_ms
    for module in (step_checks, steps):
        monkeypatch.setattr(module, "time", time)
    monkeypatch.setattr(torch.cuda, "_sleep", time.hold)
    monkeypatch.setattr(torch.cuda, "synchronize", time.synchronize)
    monkeypatch.setattr(torch.cuda, "Event", time.event)
    monkeypatch.setattr(steps.StepClock, "_elapsed_ms", lambda *of: change(real(*of)))
    finding = step_checks.step_clock(replace(HERE, device=device))
    assert (finding.verdict, bool(finding.remedy)) == (verdict, verdict == FAILED)


@pytest.mark.parametrize(("missed", "says"), [
    ("", ""), ("reset", "peak after reset"), ("RssAnon", "anon rise 23"),
    ("VmRSS", "rss rise 23"), ("VmHWM", "rss peak rise 2"),
])  # fmt: skip
def test_memory_counters(monkeypatch, missed, says):
    """Right, with a peak that is not reset, and with a counter that misses a tenth."""
    real = probes._status
    first = real().get(missed, 0.0)

    def status():
        values = real()
        lower = {missed: first + 0.9 * (values[missed] - first)} if first else {}
        return values | lower

    monkeypatch.setattr(probes, "_status", status)
    if missed == "reset":
        monkeypatch.setattr(host_memory, "forget_peak", lambda: None)
        monkeypatch.setattr(probes, "forget_peak", lambda: None)
    finding = host_memory.counters(HERE)
    assert (finding.verdict, bool(finding.remedy)) == ((FAILED, True) if says else (OK, False))
    assert says in finding.summary


def test_without_counters_memory_is_not_known(monkeypatch):
    monkeypatch.setattr(probes, "_status", dict)
    monkeypatch.setattr(host_memory, "small_trainer", lambda *_: mock.Mock())
    for check in (host_memory.counters, host_memory.allocator):
        with pytest.raises(SkipError, match="does not report"):
            check(HERE)


@pytest.mark.parametrize(("kept_mib", "steps", "new_pages", "verdict"), [
    (0, 0, 100, OK), (1, 99, 100, FAILED), (4, 12, 100, OK), (0, 0, 3000, FAILED),
])  # fmt: skip
def test_the_allocator(monkeypatch, kept_mib, steps, new_pages, verdict):
    """The first steps, or all, keep memory."""
    faults, kept = iter(range(0, 10**9, new_pages)), []

    def step(_batch):
        if len(kept) < steps:
            kept.append(mmap.mmap(-1, kept_mib * 2**20, flags=mmap.MAP_PRIVATE))
            kept[-1].write(b"\1" * len(kept[-1]))

    monkeypatch.setattr(host_memory, "small_trainer", lambda *_: SimpleNamespace(step=step))
    usage = lambda _who: SimpleNamespace(ru_minflt=next(faults))  # noqa: E731
    monkeypatch.setattr(host_memory.resource, "getrusage", usage)
    assert host_memory.allocator(HERE).verdict == verdict


right = cache(products._error)


@pytest.mark.parametrize(("step", "half", "wrong", "verdict", "says"), [
    (100.0, 2.0, {}, OK,
     "fp32 100 GFLOP/s in a step, 50% of a large; bf16 200 GFLOP/s in a step"),
    (10.0, 2.0, {}, FAILED, "5% of a large"),
    (100.0, 0.5, {}, OK, "bf16 is slower than fp32 here: it is emulated"),
    (100.0, 2.0, {torch.float32: 1 + 2e-5}, FAILED, "wrong in fp32 by"),
    (100.0, 2.0, {torch.bfloat16: torch.nan}, FAILED, "wrong in bf16 by nan"),
])  # fmt: skip
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
