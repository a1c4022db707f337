"""Probes against known quantities: a sleep, an allocation, a spin, a counter; and replays."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench.worker.probes import replay as replaying
from bench.worker.probes.machine import MachineWatch, doubts_of, energy, read_counters, summarise
from bench.worker.probes.memory import Phases, SavedTensors, owned_mib
from bench.worker.probes.replay import agree, choose, is_enough, replay, warm_from
from bench.worker.probes.steps import StepClock
from minbert.training.optimizer import AdamW, ParameterGroup

MIB = 2**20


def test_a_phase_or_watch_that_is_entered_again_takes_as_long_as_both_times():
    names = []
    phases = Phases(names.append)
    for _ in range(2):
        with phases.phase("sleep"):
            time.sleep(0.05)
    with suppress(ZeroDivisionError), phases.phase("fails"):
        time.sleep(0.02)
        raise ZeroDivisionError
    assert names == ["sleep", "sleep", "fails"]
    assert 0.1 <= phases.seconds["sleep"] < 2
    assert phases.seconds["fails"] >= 0.02
    assert phases.peak.rss_mib is not None
    watch = MachineWatch()
    for _ in range(2):
        with watch:
            time.sleep(0.05)
        time.sleep(0.2)
    assert 0.1 <= watch.report["cpu"]["seconds"] < 0.3


_PHASES = f"""
import numpy as np, sys
from bench.worker.probes.memory import Phases, resident_now
before, phases = resident_now(), Phases()
for name, mib in (("large", 300), ("small", 20)):
    with phases.phase(name):
        np.ones(mib * {MIB}, dtype=np.uint8)
with phases.phase("map"):
    file = np.memmap(sys.argv[1], dtype=np.uint8, mode="r")
    assert file[::4096].sum() > 0
large, small, mapped = phases.peaks.values()
assert phases.peak == large
print(large.anon_mib - small.anon_mib, mapped.rss_mib - before.rss_mib)
print(mapped.anon_mib - before.anon_mib)
"""


def test_each_phase_has_its_own_peak_and_mapped_files_are_not_anonymous(tmp_path):
    """In a process of its own: that of the tests may give memory back between the phases."""
    (tmp_path / "mapped").write_bytes(b"x" * (100 * MIB))
    argv = [sys.executable, "-c", _PHASES, str(tmp_path / "mapped")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    allocated, resident, anonymous = map(float, done.stdout.split())
    assert 270 <= allocated <= 290
    assert resident >= 95
    assert anonymous <= 20


def test_memory_is_counted_by_its_owner_and_saved_tensors_without_weights():
    layer = nn.Linear(1024, 1024, bias=False)
    optimizer = AdamW([ParameterGroup([layer.weight], 1e-3, 0.0)])
    layer(torch.ones(2, 1024)).sum().backward()
    optimizer.step()
    found = owned_mib(layer, optimizer)
    assert found["weights_mib"] == found["gradients_mib"] == 4.0
    assert found["optimizer_mib"] == pytest.approx(8.0, abs=1e-4)
    layer = nn.Linear(1024, 512)
    x = torch.ones(256, 1024)
    saved = SavedTensors(layer)
    with saved.counting():
        layer(x)
    assert saved.mib == 1.0  # x, 256 · 1024 · 4 bytes; the weight is there anyway
    saved = SavedTensors(layer)
    with saved.counting():
        layer(layer(x).expand(2, 256, 512).reshape(512, 512).repeat(1, 2)).exp()
    assert saved.mib == pytest.approx(1.0 + 2.0 + 1.0)  # x, the second input, what exp keeps


@pytest.mark.parametrize(("rises", "clocks", "expected"), [
    ({"ran_s": 20.0, "waited_s": 0.8, "stolen_s": 0.5, "quota_throttled_s": 0.05}, [], []),
    ({"ran_s": 20.0, "waited_s": 1.2, "stolen_s": 1.5}, [], ["disturbed", "disturbed"]),
    ({"quota_throttled_s": 0.3, "thermal_throttles": 2}, [], ["throttled", "throttled"]),
    ({"seconds": 3600.0, "thermal_throttles": 2.0, "quota_throttled_s": 3.0}, [], []),
    ({}, [3000.0, 2000.0, 2000.0], ["throttled"]),
    ({}, [3000.0, 3000.0, 2000.0], []),
])  # fmt: skip
def test_doubts_follow_from_counters(rises, clocks, expected):
    activity = summarise({"seconds": 10.0, "own_cpu_s": 20.0} | rises, 2, clocks)
    assert [flag for flag, _ in doubts_of(activity)] == expected
    activity = summarise({"seconds": 10.0, "busy_s": 25.0, "own_cpu_s": 10.0}, cores=4)
    assert activity["foreign_cores"] == pytest.approx(1.5)


def test_spinning_neighbours_disturb():
    if "ran_s" not in read_counters():
        pytest.skip("this kernel does not count the time that processes wait for a core")
    spin = "while True: pass"
    argv, cores = [sys.executable, "-S", "-c", spin], len(os.sched_getaffinity(0))
    others = [subprocess.Popen(argv) for _ in range(2 * cores)]
    try:
        time.sleep(0.3)
        with MachineWatch() as watch:
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                pass
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert "disturbed" in watch.doubts
    assert watch.report["cpu"]["foreign_cores"] > 0.5


def rapl(folder, number, now, end=1000):
    package = folder / f"intel-rapl:{number}"
    package.mkdir(exist_ok=True)
    (package / "energy_uj").write_text(f"{now}\n")
    (package / "max_energy_range_uj").write_text(f"{end}\n")


def test_energy_is_the_rise_of_the_counters_past_their_end_too(tmp_path):
    rapl(tmp_path, 0, 100)
    rapl(tmp_path, 1, 900)
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of package 0, counted there
    with energy(powercap=tmp_path) as drawn:
        rapl(tmp_path, 0, 350)
        rapl(tmp_path, 1, 50)
    assert drawn.joules == pytest.approx((250 + 150) / 1e6)
    assert drawn.source == "rapl"
    with energy(powercap=tmp_path / "none") as drawn:
        pass
    assert (drawn.joules, drawn.source) == (None, None)


STEADY, TOKENS = [10.0, 20.0, 30.0, 40.0], [1, 2, 3, 4]


def times(factor):
    return [factor * ms for ms in STEADY]


def test_full_batches_are_replayed_until_steady_or_to_the_end_of_budget_or_passes():
    tokens = [500, 100, 900, 300, 700, 200, 400, 600, 800, 50]
    examples = [64] * 9 + [7]
    chosen = choose(tokens, examples)
    assert [tokens[index] for index in chosen] == [200, 400, 600, 800]
    assert choose([30], [3]) == [0]
    assert choose([30, 20], [3, 3]) == [1, 0]
    assert warm_from([times(3), times(1.5), times(1.1), times(1.08), times(1)]) == (3, True)
    late = [*(times(2**n) for n in range(replaying.WARMUP_PASSES)), *[times(1)] * 6]
    for drifting in ([times(3)], late):
        assert warm_from(drifting) == (replaying.WARMUP_PASSES, False)
    enough = replaying.WARMUP_PASSES + replaying.TIMED_PASSES
    assert is_enough(late[:enough], TOKENS, 0)
    assert not is_enough(late[: enough - 1], TOKENS, 0)
    steady = [times(1)] * 30
    taken = next(n for n in range(1, 30) if is_enough(steady[:n], TOKENS, 100))
    assert taken == 1 + replaying.TIMED_PASSES
    noisy = [times(1), times(1), *(times(1.3 - 0.3 * (n % 2)) for n in range(30))]
    fewest = noisy[: 1 + replaying.TIMED_PASSES]
    spent_s = sum(map(sum, fewest[1:])) / 1000
    assert not is_enough(fewest, TOKENS, spent_s + 0.001)
    assert is_enough(fewest, TOKENS, spent_s - 0.001)
    assert is_enough(noisy[: 1 + replaying.MOST_PASSES], TOKENS, 100)


@pytest.mark.parametrize(("other", "alike"), [
    (times(1.04), True),
    (times(1.07), False),
    ([10.0, 20.0, 30.0, 46.0], False),  # the mean is 6% off
    ([20.0, 20.0, 20.0, 40.0], False),  # the mean is the same, a quartile is not
])  # fmt: skip
def test_passes_agree_in_mean_and_quartiles(other, alike):
    assert agree(STEADY, other) is alike
    assert agree(other, STEADY) is alike


def batch(ms):
    return SimpleNamespace(tokens=int(ms), padded=int(ms), labels=[0, 1], ms=ms)


@pytest.mark.parametrize(("tokens", "marks", "times"), [
    ((5,), (0.0, 0.02, 0.06, 0.07), (70, 20, 40)),
    ((5, 7), (0.0, 1.0, 3.0, 4.0, 7.0, 7.5), (7500, 2000, 5000)),  # the sums of their passes
])  # fmt: skip
def test_parts_of_a_step_are_timed_where_they_are_marked(tokens, marks, times, monkeypatch):
    stub = SimpleNamespace(perf_counter=iter(marks).__next__)
    monkeypatch.setattr("bench.worker.probes.steps.time", stub)
    clock = StepClock(torch.device("cpu"))
    with clock.step(*map(batch, tokens)):
        for _ in marks[1:-1]:
            clock.mark()
    (step,) = clock.steps()
    sizes = (sum(tokens), sum(tokens), 2 * len(tokens))
    assert (step.tokens, step.padded, step.examples) == sizes
    assert (step.ms, step.forward_ms, step.backward_ms) == pytest.approx(times)


def test_steps_are_timed_and_nothing_else_is():
    done = []

    def slow_listener(number):
        done.append(number)
        time.sleep(0.01)

    def step(one):
        time.sleep(one.ms / 1000)

    batches, clock = [[batch(20)], [batch(40)]], StepClock(torch.device("cpu"))
    found = replay(step, batches, clock, budget_s=0, on_step=slow_listener)
    assert [(step.tokens, step.examples) for step in found.passes[0]] == [(20, 2), (40, 2)]
    assert done == list(range(1, 2 * len(found.passes) + 1))
    for one, other in found.passes:
        assert 20 <= one.ms < 200
        assert 40 <= other.ms < 200
        assert one.forward_ms is one.backward_ms is None
    assert min(one.ms for one, _ in found.passes) < 29, "a listener's 10 ms are in a step's time"
