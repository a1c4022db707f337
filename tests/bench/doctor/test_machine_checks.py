"""Checks of the machine, with counters and loads that are made up: each verdict both ways."""

import itertools
import os
import resource
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.doctor.check import FAILED, OK, Context, SkipError
from bench.doctor.checks import cpu, host_memory, memory_limit, software

HERE = Context("cpu", 2, "bf16", Path())


@pytest.mark.parametrize(("free", "verdict"), [(2048.0, OK), (2047.0, FAILED)])
def test_memory_for_the_full_grid(
    monkeypatch: pytest.MonkeyPatch, free: float, verdict: str
) -> None:
    monkeypatch.setattr(memory_limit, "available_mib", lambda: (free, "free on this machine"))
    finding = memory_limit.check(HERE)
    assert finding.verdict == verdict
    assert f"{free:,.0f} MiB are free on this machine" in finding.summary


@pytest.mark.parametrize(
    ("limit", "use", "stat"),
    [
        ("memory.max", "memory.current", "inactive_file 104857600\n"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes",
         "inactive_file 7\ntotal_inactive_file 104857600\n"),
    ],
)  # fmt: skip
def test_a_control_groups_limit_counts_without_its_cache(
    tmp_path: Path, limit: str, use: str, stat: str
) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / limit).write_text(f"{2**28}\n")
    (tmp_path / use).write_text(f"{2**27}\n")
    (tmp_path / limit).with_name("memory.stat").write_text(stat)
    assert memory_limit.available_mib(tmp_path) == (228.0, "left by the control group's limit")


def test_without_a_limit_the_machines_memory_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1\n")
    assert memory_limit.available_mib(tmp_path)[1] == "free on this machine"


def test_a_limit_of_the_process_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limits = {resource.RLIMIT_AS: 2**20, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(memory_limit.resource, "getrlimit", lambda of: (limits[of], limits[of]))
    assert memory_limit.available_mib(tmp_path) == (
        1.0,
        "allowed by the limit on address space (ulimit)",
    )


def load(monkeypatch: pytest.MonkeyPatch, module: object, *windows: float) -> None:
    """Make each window's products take so long, one after another and again from the first."""
    durations = itertools.cycle(windows)
    monkeypatch.setattr(module, "product_seconds", lambda _s, _threads: [next(durations)])


@pytest.mark.parametrize(
    ("together", "quota", "allowed", "ran", "verdict", "says"),
    [
        (1.0, None, 2, 1.0, OK, "2.00 times as fast"),
        (1.4, None, 2, 0.8, OK, "1.43 times"),
        (1.5, None, 2, 1.0, FAILED, "1.33 times"),
        (1.0, 1, 2, 1.0, FAILED, "quota allows 1"),
        (1.0, None, 1, 1.0, FAILED, "affinity allows 1"),
        (1.0, None, 2, 0.5, FAILED, "run for 50% of the time"),
    ],
)
def test_cores(
    monkeypatch: pytest.MonkeyPatch, together: float, quota: int | None, allowed: int, ran: float,
    verdict: str, says: str,
) -> None:  # fmt: skip
    load(monkeypatch, cpu, 2.0, together)
    counters = ({"seconds": 10.0 * n, "own_cpu_s": 20.0 * ran * n} for n in itertools.count())
    monkeypatch.setattr(cpu, "read_counters", lambda: next(counters))
    monkeypatch.setattr(cpu, "cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(allowed)))
    monkeypatch.setattr(cpu.torch, "set_num_threads", lambda _count: None)
    finding = cpu.cores(HERE)
    assert (finding.verdict, bool(finding.remedy)) == (verdict, verdict == FAILED)
    assert says in finding.summary


@pytest.mark.parametrize(("together", "verdict"), [(1.7, OK), (2.2, FAILED)])
def test_every_thread_has_to_gain(
    monkeypatch: pytest.MonkeyPatch, together: float, verdict: str
) -> None:
    load(monkeypatch, cpu, 4.0, together)
    counters = ({"seconds": 10.0 * n, "own_cpu_s": 160.0 * n} for n in itertools.count())
    threads: list[int] = []
    monkeypatch.setattr(cpu, "read_counters", lambda: next(counters))
    monkeypatch.setattr(cpu, "cpu_quota", lambda: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(4)))
    monkeypatch.setattr(cpu.torch, "set_num_threads", threads.append)
    assert cpu.cores(Context("cpu", 4, "bf16", Path())).verdict == verdict
    assert max(threads) == 4


def test_of_many_threads_some_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    load(monkeypatch, cpu, 10.0, 1.4)
    counters = ({"seconds": 10.0 * n, "own_cpu_s": 160.0 * n} for n in itertools.count())
    threads: list[int] = []
    monkeypatch.setattr(cpu, "read_counters", lambda: next(counters))
    monkeypatch.setattr(cpu, "cpu_quota", lambda: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(128)))
    monkeypatch.setattr(cpu.torch, "set_num_threads", threads.append)
    assert cpu.cores(Context("cpu", 128, "bf16", Path())).verdict == OK
    assert max(threads) == cpu.MOST


class Watch:
    """A machine with given activity, and given doubts."""

    def __init__(self, doubts: dict[str, str] | None = None, **activity: float | None) -> None:
        usual = dict.fromkeys(("waited", "stolen", "foreign_cores", "quota_throttled_s"), 0.0)
        self.report = {"cpu": {**usual, **activity}}
        self.doubts = doubts or {}

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def look(self) -> None:
        pass


def disturbed(monkeypatch: pytest.MonkeyPatch, *windows: Watch):
    load(monkeypatch, cpu, 0.01)
    watches = itertools.cycle(windows)
    monkeypatch.setattr(cpu, "MachineWatch", lambda: next(watches))
    return cpu.disturbance(HERE)


def test_a_disturbance_now_and_then_is_not_one(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet, busy = Watch(waited=0.01), Watch(waited=0.9, foreign_cores=1.0)
    assert disturbed(monkeypatch, quiet, busy, quiet).verdict == OK
    assert disturbed(monkeypatch, quiet, busy, busy).verdict == FAILED


@pytest.mark.parametrize(
    ("activity", "says"),
    [
        ({"waited": 0.11, "foreign_cores": 1.0}, "other programs keep 1.0 cores busy"),
        ({"stolen": 0.11}, "11% of the cores' time went to other guests"),
    ],
)
def test_a_lasting_disturbance_fails(
    monkeypatch: pytest.MonkeyPatch, activity: dict[str, float], says: str
) -> None:
    finding = disturbed(monkeypatch, Watch(**activity))
    assert finding.verdict == FAILED
    assert says in finding.summary


def test_what_a_quota_does_is_no_disturbance(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SkipError, match=r"waited 0.50 s for a core .* see cores"):
        disturbed(monkeypatch, Watch(waited=0.5, foreign_cores=0.2))
    assert disturbed(monkeypatch, Watch(waited=0.5, foreign_cores=None)).verdict == FAILED
    assert disturbed(monkeypatch, Watch(waited=4.0, foreign_cores=1.6)).verdict == FAILED


def test_without_counters_nothing_is_known_of_a_disturbance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SkipError, match="does not count"):
        disturbed(monkeypatch, Watch(waited=None, stolen=None))


@pytest.mark.parametrize(
    ("seconds", "doubts", "verdict"),
    [
        ([0.0100], {}, OK),
        ([0.0100, *[0.0116] * 9], {}, OK),
        ([0.0100, *[0.0119] * 10], {}, FAILED),
        ([0.0100], {"throttled": "cores were slowed 9 times by heat"}, FAILED),
    ],
)
def test_frequency(
    monkeypatch: pytest.MonkeyPatch, seconds: list[float], doubts: dict[str, str], verdict: str
) -> None:
    load(monkeypatch, cpu, 0.01, *seconds)
    monkeypatch.setattr(cpu, "MachineWatch", lambda: Watch(doubts))
    finding = cpu.frequency(HERE)
    assert finding.verdict == verdict
    assert all(reason in finding.summary for reason in doubts.values())


def pages(monkeypatch: pytest.MonkeyPatch, folder: Path, enabled: str, before: int, after: int):
    (folder / "enabled").write_text(enabled)
    monkeypatch.setattr(host_memory, "_ENABLED", folder / "enabled")
    texts = iter(f"Rss: 1 kB\nAnonHugePages:   {mib * 1024} kB\n" for mib in (before, after))
    real = host_memory.text_or_empty
    monkeypatch.setattr(
        host_memory,
        "text_or_empty",
        lambda path: next(texts) if path == host_memory._PAGES else real(path),
    )
    monkeypatch.setattr(host_memory, "BLOCK_MIB", 8)
    return host_memory.huge_pages(HERE)


@pytest.mark.parametrize(("after", "verdict"), [(14, OK), (13, FAILED)])
def test_huge_pages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, after: int, verdict: str
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    assert pages(monkeypatch, tmp_path, "always [madvise] never", 10, after).verdict == verdict


@pytest.mark.parametrize(
    ("enabled", "tunables", "says"),
    [
        ("always madvise [never]", "glibc.malloc.hugetlb=1", "turned huge pages off"),
        ("", "glibc.malloc.hugetlb=1", "has no transparent huge pages"),
        ("[always] madvise never", "glibc.malloc.mmap_max=0", "without them"),
    ],
)
def test_without_huge_pages_the_check_is_skipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, enabled: str, tunables: str, says: str
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    with pytest.raises(SkipError, match=says):
        pages(monkeypatch, tmp_path, enabled, 0, 8)


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Software in which nothing is wrong, whatever the threads of these tests."""
    for name in software.DROPPED:
        monkeypatch.delenv(name, raising=False)
    import torch

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    return monkeypatch


def test_software_that_is_sound(sound: pytest.MonkeyPatch) -> None:
    finding = software.check(HERE)
    assert (finding.verdict, finding.remedy) == (OK, "")


@pytest.mark.parametrize("name", software.DROPPED)
def test_a_variable_that_changes_results_and_reaches_workers(
    sound: pytest.MonkeyPatch, name: str
) -> None:
    sound.setenv(name, "1")
    finding = software.check(HERE)
    assert finding.verdict == FAILED
    assert f"workers inherit {name}, which" in finding.summary


@pytest.mark.parametrize(
    ("function", "value", "says"),
    [
        ("get_num_threads", 4, "torch uses 4 threads, and not 2"),
        ("get_float32_matmul_precision", "medium", "fp32 products have precision medium"),
    ],
)
def test_settings_of_torch_that_are_wrong(
    sound: pytest.MonkeyPatch, function: str, value: object, says: str
) -> None:
    import torch

    sound.setattr(torch, function, lambda: value)
    finding = software.check(HERE)
    assert (finding.verdict, finding.summary) == (FAILED, says)


def test_torch_that_cannot_be_imported(sound: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("libtorch.so: cannot open shared object file")

    sound.setattr("bench.worker.imports.import_all", broken)
    finding = software.check(HERE)
    assert finding.verdict == FAILED
    assert "OSError: libtorch.so: cannot open" in finding.summary


def test_versions_out_of_range_and_libraries_that_are_missing(sound: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=99", "not-there>=1", "pytest>=99; extra == 'test'", "pandas>=2"]
    sound.setattr(metadata, "requires", lambda _name: wanted)
    sound.setattr(metadata, "metadata", lambda _name: {"Requires-Python": ">=3.99"})
    finding = software.check(HERE)
    assert finding.verdict == FAILED
    python, numpy, missing = finding.summary.split("; ")
    assert python.endswith("is not >=3.99")
    assert numpy.startswith("numpy ")
    assert numpy.endswith(" is not >=99")
    assert missing == "not-there is not installed"


def test_a_library_that_is_broken_in_another_way(sound: pytest.MonkeyPatch) -> None:
    import torch

    sound.setattr(torch.backends, "mkldnn", SimpleNamespace(is_available=lambda: False))
    assert "lacks oneDNN" in software.check(HERE).summary
