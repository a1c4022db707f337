"""Probes against known quantities: a sleep, an allocation, a spin, a counter."""

import os
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

from bench.worker.probes.machine import MachineWatch, doubts_of, energy, read_counters, summarise
from bench.worker.probes.memory import Phases, SavedTensors, owned_mib, resident_now
from minbert.training.optimizer import AdamW, ParameterGroup

MIB = 2**20


def test_a_phase_takes_as_long_as_its_sleeps_and_one_that_fails_is_measured_too():
    names = []
    phases = Phases(names.append)
    for _ in range(2):
        with phases.phase("sleep"):
            time.sleep(0.05)
    with suppress(ZeroDivisionError), phases.phase("fails"):
        time.sleep(0.02)
        raise ZeroDivisionError
    with phases.phase("nothing"):
        pass
    assert names == ["sleep", "sleep", "fails", "nothing"]
    assert 0.1 <= phases.seconds["sleep"] < 2
    assert phases.seconds["fails"] >= 0.02
    assert phases.seconds["nothing"] < 0.05
    assert phases.peak.rss_mib is not None


_TWO_PHASES = f"""
import numpy as np
from bench.worker.probes.memory import Phases
phases = Phases()
for name, mib in (("large", 300), ("small", 20)):
    with phases.phase(name):
        np.ones(mib * {MIB}, dtype=np.uint8)
large, small = phases.peaks["large"], phases.peaks["small"]
assert phases.peak == large
print(large.anon_mib - small.anon_mib)
"""


def test_each_phase_has_the_peak_of_its_own_allocations():
    """In a process of its own: that of the tests may give memory back between the phases."""
    done = subprocess.run(
        [sys.executable, "-c", _TWO_PHASES], capture_output=True, text=True, check=True
    )
    assert 270 <= float(done.stdout) <= 290


def test_mapped_files_are_in_the_resident_set_and_not_anonymous(tmp_path):
    file = tmp_path / "mapped"
    file.write_bytes(b"x" * (100 * MIB))
    before = resident_now()
    phases = Phases()
    with phases.phase("map"):
        mapped = np.memmap(file, dtype=np.uint8, mode="r")
        assert mapped[::4096].sum() > 0
    peak = phases.peaks["map"]
    assert peak.rss_mib - before.rss_mib >= 95
    assert peak.anon_mib - before.anon_mib <= 20


def test_memory_is_counted_by_its_owner():
    layer = nn.Linear(1024, 1024, bias=False)
    optimizer = AdamW([ParameterGroup([layer.weight], 1e-3, 0.0)])
    layer(torch.ones(2, 1024)).sum().backward()
    optimizer.step()
    found = owned_mib(layer, optimizer)
    assert found["weights_mib"] == found["gradients_mib"] == 4.0
    assert found["optimizer_mib"] == pytest.approx(8.0, abs=1e-4)


def test_saved_tensors_are_those_of_the_backward_pass_without_weights():
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


@pytest.mark.parametrize(
    ("rises", "clocks", "expected"),
    [
        ({}, [], []),
        ({"ran_s": 20.0, "waited_s": 0.8, "stolen_s": 0.5, "quota_throttled_s": 0.05}, [], []),
        ({"ran_s": 20.0, "waited_s": 1.2, "stolen_s": 1.5}, [], ["disturbed", "disturbed"]),
        ({"quota_throttled_s": 0.3, "thermal_throttles": 2}, [], ["throttled", "throttled"]),
        ({"seconds": 3600.0, "thermal_throttles": 2.0, "quota_throttled_s": 3.0}, [], []),
        ({}, [3000.0, 2000.0, 2000.0], ["throttled"]),
        ({}, [3000.0, 3000.0, 2000.0], []),
    ],
)
def test_doubts_follow_from_counters(rises, clocks, expected):
    activity = summarise({"seconds": 10.0, "own_cpu_s": 20.0} | rises, 2, clocks)
    assert [flag for flag, _ in doubts_of(activity)] == expected
    activity = summarise({"seconds": 10.0, "busy_s": 25.0, "own_cpu_s": 10.0}, cores=4)
    assert activity["foreign_cores"] == pytest.approx(1.5)


def test_a_watch_that_is_entered_again_tells_of_both_times():
    watch = MachineWatch()
    for _ in range(2):
        with watch:
            time.sleep(0.05)
        time.sleep(0.2)
    assert 0.1 <= watch.report["cpu"]["seconds"] < 0.3


def test_spinning_neighbours_disturb():
    if "ran_s" not in read_counters():
        pytest.skip("this kernel does not count the time that processes wait for a core")
    spin = "while True: pass"
    others = [
        subprocess.Popen([sys.executable, "-S", "-c", spin])
        for _ in range(2 * len(os.sched_getaffinity(0)))
    ]
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
