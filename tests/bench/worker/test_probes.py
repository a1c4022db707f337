"""Probes against known quantities: a sleep, an allocation, a spin, a counter."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.worker.probes.energy import energy
from bench.worker.probes.machine import MachineWatch, State, read_state, watched
from bench.worker.probes.memory import SavedTensors, owned_mib, resident_now, resident_peak
from bench.worker.probes.phases import Phases
from minbert.training.optimizer import AdamW, Group

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells these")
MIB = 2**20


def test_a_phase_takes_as_long_as_its_sleeps() -> None:
    told: list[str] = []
    phases = Phases(told.append)
    for _ in range(2):
        with phases.phase("sleep"):
            time.sleep(0.05)
    with phases.phase("nothing"):
        pass
    assert told == ["sleep", "sleep", "nothing"]
    assert 0.1 <= phases.seconds["sleep"] < 2
    assert phases.seconds["nothing"] < 0.05


def test_a_phase_that_fails_is_measured_too() -> None:
    phases = Phases()

    def fail() -> None:
        with phases.phase("fails"):
            time.sleep(0.02)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert phases.seconds["fails"] >= 0.02
    assert phases.peak.rss_mib is not None


_TWO_PHASES = f"""
import numpy as np
from bench.worker.probes.phases import Phases
phases = Phases()
for name, mib in (("large", 300), ("small", 20)):
    with phases.phase(name):
        np.ones(mib * {MIB}, dtype=np.uint8)
large, small = phases.peaks["large"], phases.peaks["small"]
assert phases.peak == large
print(large.anon_mib - small.anon_mib)
"""


@LINUX
def test_each_phase_has_the_peak_of_its_own_allocations() -> None:
    """In a process of its own: that of the tests may give memory back between the phases."""
    done = subprocess.run(
        [sys.executable, "-c", _TWO_PHASES], capture_output=True, text=True, check=True
    )
    assert 270 <= float(done.stdout) <= 290


@LINUX
def test_mapped_files_are_in_the_resident_set_and_not_anonymous(tmp_path: Path) -> None:
    file = tmp_path / "mapped"
    file.write_bytes(b"x" * (100 * MIB))
    before = resident_now()
    with resident_peak() as peak:
        mapped = np.memmap(file, dtype=np.uint8, mode="r")
        assert mapped[::4096].sum() > 0
    assert peak.rss_mib - before.rss_mib >= 95
    assert peak.anon_mib - before.anon_mib <= 20


def test_memory_is_counted_by_its_owner() -> None:
    layer = nn.Linear(1024, 1024, bias=False)
    optimizer = AdamW([Group([layer.weight], 1e-3, 0.0)])
    layer(torch.ones(2, 1024)).sum().backward()
    optimizer.step()
    found = owned_mib(layer, optimizer)
    assert found["weights_mib"] == found["gradients_mib"] == 4.0
    assert found["optimizer_mib"] == pytest.approx(8.0, abs=1e-4)


def test_saved_tensors_are_those_of_the_backward_pass_without_weights() -> None:
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


def state(**changes: float | None) -> State:
    usual = {
        "at_s": 0.0, "load": 0.5, "waited_s": 0.0, "ran_s": 0.0, "busy_s": 0.0, "stolen_s": 0.0,
        "own_cpu_s": 0.0, "quota_throttled_s": 0.0, "thermal_throttles": 0,
    }  # fmt: skip
    return State(**{**usual, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("after", "flags"),
    [
        ({}, set()),
        ({"waited_s": 0.8}, set()),
        ({"waited_s": 1.2}, {"disturbed"}),
        ({"stolen_s": 1.5}, {"disturbed"}),
        ({"quota_throttled_s": 0.3}, {"throttled"}),
        ({"thermal_throttles": 2}, {"throttled"}),
        ({"quota_throttled_s": 0.05}, set()),
        ({"waited_s": None, "stolen_s": None, "busy_s": None}, set()),
    ],
)
def test_doubts_follow_from_counters(after: dict[str, float | None], flags: set[str]) -> None:
    end = {"at_s": 10.0, "ran_s": 20.0, "busy_s": 20.0, "own_cpu_s": 20.0, **after}
    assert set(watched([(state(), state(**end))], cores=2).doubts) == flags


def test_rare_events_of_a_long_run_are_no_doubt() -> None:
    end = state(at_s=3600.0, ran_s=7200.0, thermal_throttles=2, quota_throttled_s=3.0)
    assert watched([(state(), end)], cores=2).doubts == {}


def test_what_was_between_two_spans_counts_nothing() -> None:
    first = state(), state(at_s=10.0, ran_s=20.0)
    second = (
        state(at_s=50.0, ran_s=90.0, waited_s=30.0),
        state(at_s=60.0, ran_s=110.0, waited_s=30.5),
    )
    found = watched([first, second], cores=2)
    assert (found.seconds, found.waited) == (20.0, pytest.approx(0.5 / 40))


def test_a_watch_that_is_entered_again_tells_of_both_times() -> None:
    watch = MachineWatch()
    for _ in range(2):
        with watch:
            time.sleep(0.05)
        time.sleep(0.2)
    assert 0.1 <= watch.report["cpu"]["seconds"] < 0.3


def test_clocks_that_fell_for_most_of_the_time_are_reported() -> None:
    span = [(state(), state(at_s=10.0))]
    assert set(watched(span, 2, [3000.0, 2000.0, 2000.0]).doubts) == {"throttled"}
    assert watched(span, 2, [3000.0, 3000.0, 2000.0]).doubts == {}


def test_cores_that_others_keep_busy_are_reported() -> None:
    end = state(at_s=10.0, busy_s=25.0, own_cpu_s=10.0)
    assert watched([(state(), end)], cores=4).foreign_cores == pytest.approx(1.5)


@LINUX
def test_spinning_neighbours_disturb() -> None:
    if read_state().ran_s is None:
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


def rapl(folder: Path, number: int, now: int, end: int = 1000) -> None:
    package = folder / f"intel-rapl:{number}"
    package.mkdir(exist_ok=True)
    (package / "energy_uj").write_text(f"{now}\n")
    (package / "max_energy_range_uj").write_text(f"{end}\n")


def test_energy_is_the_rise_of_the_counters_past_their_end_too(tmp_path: Path) -> None:
    rapl(tmp_path, 0, 100)
    rapl(tmp_path, 1, 900)
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of package 0, counted there
    with energy(powercap=tmp_path) as drawn:
        rapl(tmp_path, 0, 350)
        rapl(tmp_path, 1, 50)
    assert drawn.joules == pytest.approx((250 + 150) / 1e6)
    assert drawn.source == "rapl"


def test_energy_that_nobody_counts_is_unknown(tmp_path: Path) -> None:
    with energy(powercap=tmp_path / "none") as drawn:
        pass
    assert drawn.joules is None
    assert drawn.source is None
