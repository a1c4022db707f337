"""The environment of a worker, and its cores."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.machine.cores import Threads, equal_shares, threads_near, usable_cores
from bench.machine.environment import (
    DROPPED,
    RECORDED,
    RECORDED_ON_GPU,
    SET,
    command_line,
    recorded,
    worker_environment,
)
from tests.experiments.faults.fake_driver import FakeGpu, FakeNvml

TUNABLES = "GLIBC_TUNABLES"


def test_what_a_worker_inherits_and_what_of_it_is_recorded():
    assert not {*DROPPED} & worker_environment(dict.fromkeys(DROPPED, "1"), 1).keys()
    assert recorded(dict.fromkeys(DROPPED, "1"), on_gpu=True) is None
    inherited = {"CUDA_VISIBLE_DEVICES": "0,1", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    seen = {"CUDA_VISIBLE_DEVICES": "GPU-8932", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert seen.items() <= worker_environment(inherited, 1, "GPU-8932").items()
    assert worker_environment(inherited, 1)["CUDA_VISIBLE_DEVICES"] == ""
    for name, on_cpu in (("TORCH_CUDNN_V8_API_DISABLED", None), ("MKL_CBWR", "MKL_CBWR=1")):
        assert worker_environment({name: "1"}, 1)[name] == "1"
        assert recorded({name: "1"}, on_gpu=True) == f"{name}=1"
        assert recorded({name: "1"}, on_gpu=False) == on_cpu
    others = {
        "HOME": "/home/x", "PATH": "/bin", "TORCHINDUCTOR_CACHE_DIR": "/c", "KMP_AFFINITY": "",
        "KMP_INIT_AT_FORK": "FALSE",  # by scikit-learn
    }  # fmt: skip
    assert recorded(dict.fromkeys(SET[:-1], "7") | others, on_gpu=True) is None


def test_records_are_sorted_and_hold_no_path_or_secret():
    inherited = {
        "OMP_PROC_BIND": "spread, close\n",
        "LD_PRELOAD": "/home/somebody/lib/libjemalloc.so.2:/usr/lib/libmimalloc.so /opt/x/y.so",
        "KMP_BLOCKTIME": "0",
        "MKL_CBWR": "\udcff",
    }
    assert recorded(inherited, on_gpu=False) == (
        "KMP_BLOCKTIME=0 LD_PRELOAD='libjemalloc.so.2:libmimalloc.so y.so' "
        r"MKL_CBWR=sha256:c840d0dd0ec7 OMP_PROC_BIND='spread, close'"
    )
    shown = ("512m", "AVX2,STRICT", "granularity=fine,compact,1,0")
    shown += ("expandable_segments:True,max_split_size_mb:128",)
    for value in shown:
        assert value in str(recorded({"TORCHINDUCTOR_ANY": value}, on_gpu=False))
    for value in ("hunter2", "sk-Zm9vYmFy", "redis://user:hunter2@host"):
        text = recorded({"TORCHINDUCTOR_ANY": value}, on_gpu=False)
        assert re.fullmatch("TORCHINDUCTOR_ANY=sha256:[0-9a-f]{12}", str(text))
        assert text == recorded({"TORCHINDUCTOR_ANY": value}, on_gpu=False)


def test_a_command_by_hand_sets_what_a_worker_is_given():
    given = worker_environment({"HOME": "/x", "OMP_NUM_THREADS": "7"}, 2, "GPU-8932")
    assert given["HOME"] == "/x"
    assert given["OMP_NUM_THREADS"] == given["MKL_NUM_THREADS"] == "2"
    line = command_line(given, ["sh", "-c", "env; echo $0", "a folder"])
    printed = subprocess.check_output(["/bin/sh", "-c", line], env={"PATH": "/usr/bin:/bin"})
    lines = printed.decode().splitlines()
    assert lines[-1] == "a folder"
    assert {f"{name}={given[name]}" for name in SET} <= set(lines)
    assert "HOME" not in line


def test_the_page_on_measuring_has_each_variable_and_what_becomes_of_it():
    page = Path(__file__).parents[3] / "docs" / "measuring.md"
    text = page.read_text(encoding="utf-8").partition("## Inherited variables")[2]
    fates = "set|dropped|recorded|recorded on a GPU"
    rows = re.findall(rf"^\| (.*) \| ({fates}) \|", text, re.MULTILINE)
    documented = {name: fate for names, fate in rows for name in re.findall(r"`([\w*]+)`", names)}
    kinds = {
        "recorded": RECORDED, "set": SET, "dropped": DROPPED, "recorded on a GPU": RECORDED_ON_GPU,
    }  # fmt: skip
    assert documented == {name: fate for fate, names in kinds.items() for name in names}


def test_the_allocator_keeps_memory_unless_a_user_tells_it_something():
    usual = worker_environment({}, 1)[TUNABLES]
    assert "glibc.malloc.trim_threshold" in usual
    assert recorded({}, on_gpu=False) is None
    of_users = {TUNABLES: "glibc.malloc.arena_max=1"}
    assert worker_environment(of_users, 1)[TUNABLES] == of_users[TUNABLES]
    assert recorded(of_users, on_gpu=False) == f"{TUNABLES}={of_users[TUNABLES]}"
    other = "glibc.cpu.x86_shstk=off"
    assert worker_environment({TUNABLES: other}, 1)[TUNABLES] == f"{other}:{usual}"
    assert TUNABLES not in worker_environment({}, 1, tuned=False)


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
