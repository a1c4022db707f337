"""Physical cores and shares of them: tables of a machine's hardware threads, and NVML's answers."""

import os
import sys

import pytest

from bench.machine.cores import Threads, equal_shares, threads_near, usable_cores
from tests.experiments.faults.fake_driver import FakeGpu, FakeNvml

UUID = "GPU-0"


def cores(*pairs):
    return list(map(frozenset, pairs))


def test_hardware_threads_of_a_core_are_together(tmp_path, monkeypatch):
    for number in range(8):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cores(tmp_path) == cores((0, 4), (1, 5), (2, 6), (3, 7))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 7})
    assert usable_cores(tmp_path) == cores((0, 4), (1,), (7,))
    assert usable_cores(tmp_path / "none") == cores((0,), (1,), (4,), (7,))


def test_threads_near_a_gpu_are_the_bits_of_nvmls_words(monkeypatch):
    gpu = FakeGpu(UUID, near=range(60, 70))
    calls = "nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetCpuAffinity"
    for errors in ({}, *({call: 3} for call in calls)):  # without an answer no thread is near
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(gpu, errors=errors))
        assert threads_near(UUID) == frozenset(() if errors else gpu.near)


FOUR = cores((0, 4), (1, 5), (2, 6), (3, 7))
LOW, HIGH, ALL = frozenset({0, 1, 4, 5}), frozenset({2, 3, 6, 7}), frozenset(range(8))
UNKNOWN: Threads = frozenset()


@pytest.mark.parametrize(
    ("near", "shares"),
    [
        ([UNKNOWN] * 3, [{0, 4}, {1, 5}, {2, 6}]),
        ([HIGH, LOW, HIGH, LOW], [{2, 6}, {0, 4}, {3, 7}, {1, 5}]),
        # one near one side and two near the other: all have as much as each of these
        ([LOW, HIGH, HIGH], [{0, 4}, {2, 6}, {3, 7}]),
        # more on a side than it has cores, sides that overlap, and one that is not known
        ([HIGH, HIGH, HIGH, LOW], [{0, 4}, {1, 5}, {2, 6}, {3, 7}]),
        ([ALL, LOW], [{0, 1, 4, 5}, {2, 3, 6, 7}]),
        ([UNKNOWN] * 5, [set()] * 5),
    ],
)
def test_shares_are_equal_disjoint_and_near(near, shares):
    assert equal_shares(FOUR, near) == shares
