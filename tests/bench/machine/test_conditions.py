"""Conditions, which are found without torch; the environment of a worker, and its cores."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import grimp
import pytest
from packaging.version import Version

from bench.common.errors import InputError
from bench.machine import conditions, environment
from bench.machine.conditions import Conditions, cpu_quota, find_conditions, find_slots
from bench.machine.cores import Threads, equal_shares, threads_near, usable_cores
from bench.machine.environment import DROPPED, SET, command_line, recorded, worker_environment
from bench.machine.version import _OF_PARENT, code_version, measuring
from bench.plan.cell import ABOUT
from tests.experiments.faults.gpu import FakeCuda, FakeGpu, FakeNvml

ROOT = Path(__file__).parents[3]


def test_what_is_a_condition_and_that_old_ids_stay():
    """Neither the commit nor the number of a GPU is one."""
    alone = Conditions(
        "cpu", "Xeon", "Xeon, 2 cores, 16 GiB", 2, "2.9.0", measurement_version=6, code_version="1"
    )
    assert alone.conditions_id == "c8027cc3"
    assert alone.columns()["sharing"] is None
    first = replace(alone, device="cuda:0")
    on_gpu = replace(alone, device="cuda:1", cuda_version="13.0")
    assert on_gpu.conditions_id == "9d1f5494"
    assert replace(alone, code_version="other").conditions_id == alone.conditions_id
    assert replace(first, device="cuda:1").conditions_id == first.conditions_id
    others = [
        first, on_gpu, replace(alone, threads=99), replace(alone, environment="KMP_BLOCKTIME=0"),
        replace(alone, sharing="2 workers"), replace(alone, sharing="4 workers"),
    ]  # fmt: skip
    assert len({each.conditions_id for each in (alone, *others)}) == 7


def found_on(monkeypatch, device, *gpus, **variables):
    """The conditions on a machine with some GPUs, torch for CUDA 13.0 and inherited variables."""
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"], **variables})
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(*gpus))
    monkeypatch.setattr(conditions, "torch_build", lambda: ("2.9.0+cu130", "13.0"))
    monkeypatch.setattr(conditions, "code_version", lambda: "1")
    monkeypatch.setattr("bench.machine.devices.check_gpu", FakeCuda(*gpus))
    return find_conditions(device)


def test_on_a_gpu_cuda_and_inherited_variables_are_conditions(monkeypatch):
    gpus = FakeGpu("GPU-0"), FakeGpu("GPU-1", "Tesla T4", (7, 5))
    variables = {"PYTORCH_CUDA_ALLOC_CONF": "of:1", "MALLOC_ARENA_MAX": "of:1"}
    target = found_on(monkeypatch, "cuda:1", *gpus, **variables)
    assert target.conditions.columns() | {
        "device": "cuda:1", "device_name": "Tesla T4, driver 580.65",
        "torch_version": "2.9.0+cu130", "cuda_version": "13.0",
        "environment": "MALLOC_ARENA_MAX=of:1 PYTORCH_CUDA_ALLOC_CONF=of:1",
    } == target.conditions.columns()  # fmt: skip
    assert (target.device_name, target.conditions.worker_device) == ("GPU-1", "cuda:0")
    assert (target.amp_on, target.device.has_bf16) == ("fp16", False)
    assert found_on(monkeypatch, "cuda:0", *gpus).amp_on == "bf16"
    target = found_on(monkeypatch, "cpu", *gpus, PYTORCH_CUDA_ALLOC_CONF="of:1")
    assert (target.conditions.cuda_version, target.conditions.environment) == (None, None)
    assert target.conditions.worker_device == target.device_name == "cpu"
    assert target.amp_on == "bf16"


def lanes_on(monkeypatch, device, *gpus, jobs=1, cores=8, **variables):
    found_on(monkeypatch, "cpu", *gpus, **variables)
    monkeypatch.setattr(conditions, "usable_cores", lambda: [frozenset([i]) for i in range(cores)])
    monkeypatch.setattr(conditions, "cpu_quota", lambda: None)
    monkeypatch.setattr("psutil.cpu_count", lambda logical: cores)
    return find_slots(device, jobs)


def test_each_gpu_has_cores_near_it_and_what_is_shared_is_recorded(monkeypatch):
    gpus = FakeGpu("GPU-0", near=range(4, 8)), FakeGpu("GPU-1", near=range(4))
    first, second = lanes_on(monkeypatch, "all", *gpus)
    assert (first.cores, second.cores) == (frozenset(range(4, 8)), frozenset(range(4)))
    assert (first.gpu, second.gpu) == ("GPU-0", "GPU-1")
    assert (first.conditions.device, second.conditions.device) == ("cuda:0", "cuda:1")
    assert (first.conditions.threads, first.conditions.sharing) == (4, "2 workers")
    assert first.conditions.conditions_id == second.conditions.conditions_id
    (alone,) = lanes_on(monkeypatch, "all", gpus[0])
    assert alone == lanes_on(monkeypatch, "cuda:0", *gpus)[0]
    assert (alone.conditions.threads, alone.conditions.sharing, alone.cores) == (8, None, set())


def test_jobs_share_the_cores_of_the_cpu_and_others_workers_are_recorded(monkeypatch):
    lanes = lanes_on(monkeypatch, "auto", jobs=3)
    assert [lane.cores for lane in lanes] == [{0, 1}, {2, 3}, {4, 5}]
    assert {lane.conditions.threads for lane in lanes} == {2}
    assert {lane.conditions.sharing for lane in lanes} == {"3 workers"}
    assert {lane.device_name for lane in lanes} == {"cpu"}
    monkeypatch.setattr(conditions, "cpu_quota", lambda: 3)
    assert {lane.conditions.threads for lane in find_slots("cpu", 3)} == {1}
    with pytest.raises(InputError, match="--jobs 4: 4 workers need a core each, and 3 can be"):
        find_slots("cpu", 4)
    with pytest.raises(InputError, match="--jobs is for the CPU, and --device auto is a GPU"):
        lanes_on(monkeypatch, "auto", FakeGpu("GPU-0"), jobs=2)
    monkeypatch.undo()
    (lane,) = lanes_on(monkeypatch, "cpu", cores=2, **{conditions.WORKERS: "2"})
    assert (lane.conditions.sharing, lane.conditions.threads) == ("2 workers", 2)
    assert lane.device_name == "cpu [0, 1]"
    monkeypatch.setattr(conditions, "cpu_quota", lambda: 2)
    assert find_conditions("cpu").conditions.threads == 1
    monkeypatch.setitem(os.environ, conditions.WORKERS, "two")
    with pytest.raises(InputError, match="MINBERT_BENCH_WORKERS='two' is no number of workers"):
        find_conditions("cpu")


@pytest.mark.parametrize(("files", "cores"), [
    ({"cpu.max": "50000 100000\n"}, 1),
    ({"cpu.max": "max 100000\n"}, None),
    ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
])  # fmt: skip
def test_a_quota_limits_the_cores(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == cores


def test_the_build_is_that_of_torch_and_not_of_the_package(tmp_path, monkeypatch):
    """The metadata of a wheel can lack what follows the +, as those of PyPI do."""
    import torch

    assert conditions.torch_build() == (torch.__version__, torch.version.cuda)
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(conditions, "find_spec", lambda _: spec)
    monkeypatch.setattr(conditions.metadata, "version", lambda _: "2.9.0")
    cuda = "__version__ = '2.9.0+cu130'\ncuda: Optional[str] = '13.0'"
    cpu = "__version__ = '2.9.0+cpu'\ncuda: Optional[str] = None"
    for lines, build in (
        (cuda, ("2.9.0+cu130", "13.0")), (cpu, ("2.9.0+cpu", None)),
        ("cuda = '12.8'", ("2.9.0", "12.8")),
    ):  # fmt: skip
        (tmp_path / "version.py").write_text(f"from typing import Optional\n{lines}\n")
        assert conditions.torch_build() == build


FILES = ("adapters/x.py", "minbert/x.py", "bench/plan/job.py", "bench/results/row.py")


@pytest.fixture
def checkout(tmp_path):
    """A temporary git repository with the files whose version is asked for, and others."""
    git(tmp_path, "init", "--quiet")
    for name in (*FILES, "README.md", "bench/report/x.py", "tests/x.py"):
        write(tmp_path, name, "1\n")
    write(tmp_path, "bench/worker/__main__.py", "def main():\n    from bench.plan import job\n")
    return tmp_path


def write(folder, name, text):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def git(folder, *arguments):
    argv = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    done = subprocess.run(argv, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder):
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "a change")
    return git(folder, "rev-parse", "HEAD")[:10]


def test_a_change_of_what_measures_is_another_version(checkout, monkeypatch):
    releases = {
        "0.1.0": "0.1.0", "0.1.0.dev1951": "0.1.0", "0.1.0.post1.dev3": "0.1.0",
        "0.2.0rc1": "0.2.0rc1",
    }  # fmt: skip

    def by_package():
        """The code's version where each version of the package is installed."""
        for installed in releases:
            with monkeypatch.context() as patch:
                patch.setattr(metadata, "version", lambda _name, of=installed: of)
                yield code_version(checkout)

    package = Version(metadata.version("minbert-bench")).base_version
    assert code_version(checkout) == package, "nothing is committed"
    assert [*by_package()] == [*releases.values()]
    first = commit(checkout)
    clean = code_version(checkout)
    assert clean == f"{package}+g{first}"
    assert [*by_package()] == [f"{release}+g{first}" for release in releases.values()]
    for name in ("README.md", "bench/report/x.py", "tests/x.py", "runs.csv"):
        write(checkout, name, "2\n")
    assert code_version(checkout) == clean
    commit(checkout)
    git(checkout, "config", "core.abbrev", "40")
    assert code_version(checkout) == clean, "whatever git abbreviates to"
    versions = {clean}
    for name in ("bench/worker/x.py", FILES[3], FILES[2]):
        for text in ("2\n", "3\n"):
            write(checkout, name, text)
            versions.add(code_version(checkout))
    assert len(versions) == 7, "other changes are another version"
    assert all(version.startswith(f"{clean}-dirty.") for version in versions - {clean})
    second = commit(checkout)
    assert code_version(checkout) == clean.replace(first, second)
    shutil.rmtree(checkout / ".git")
    assert code_version(checkout) == package


_IMPORTED = """
import json, pkgutil, sys
import adapters, bench.worker.probes, bench.worker, minbert
import bench.worker.__main__
from bench.worker.process import import_all
import_all()
from adapters.injection import layer_class
from adapters.methods import METHODS
layers = [layer_class(mode) for mode, method in METHODS.items() if method.layer]
for package in (bench.worker.probes, bench.worker):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        __import__(module.name)
ours = {"adapters", "bench", "minbert"}
print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] in ours]))
"""


def source(module):
    path = Path(*module.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")


def test_the_version_is_of_all_that_a_worker_imports_and_of_little_else():
    printed = subprocess.check_output([sys.executable, "-c", _IMPORTED])
    imported = {Path(name).relative_to(ROOT) for name in json.loads(printed)}
    imported |= {Path("bench", "engines", f"{name}.py") for name in ABOUT["engine"].values}
    graph = grimp.build_graph(
        "adapters", "bench", "minbert", exclude_type_checking_imports=True, cache_dir=None
    )
    before = set()
    while before != imported:  # what they import within functions, too
        before = set(imported)
        for module in sorted(graph.modules):
            if source(module) in before:
                imported |= set(map(source, graph.find_modules_directly_imported_by(module)))
    tables = re.compile(r'read_tables\(__file__, "(.+?)"\)')
    texts = {path: (ROOT / path).read_text() for path in imported}
    imported |= {path.parent / name for path in texts for name in tables.findall(texts[path])}
    listed = set(map(Path, measuring()))
    assert {path for path in imported if not {path, *path.parents} & listed} == set()
    of_peft = {Path("bench/plan", name) for name in ("adapter_configs.py", "adapter_methods.toml")}
    others = listed - set(map(Path, _OF_PARENT)) - imported - of_peft
    assert {path for path in others if path.suffix in (".py", ".toml")} == set()
    for folder in filter(Path.is_dir, map(ROOT.joinpath, listed)):
        files = {path.relative_to(ROOT) for path in folder.rglob("*.py")}
        assert 2 * len(files & imported) > len(files), f"name the files of {folder} one by one"
    assert all((ROOT / name).exists() for name in listed)


TUNABLES = "GLIBC_TUNABLES"


def test_what_a_worker_inherits_or_a_command_by_hand_sets_and_what_is_recorded():
    """The allocator keeps memory unless a user tells it something."""
    assert not {*DROPPED} & worker_environment(dict.fromkeys(DROPPED, "1"), 1).keys()
    assert recorded(dict.fromkeys(DROPPED, "1"), on_gpu=True) is None
    for name, on_cpu in (("TORCH_CUDNN_V8_API_DISABLED", None), ("MKL_CBWR", "MKL_CBWR=1")):
        assert worker_environment({name: "1"}, 1)[name] == "1"
        assert recorded({name: "1"}, on_gpu=True) == f"{name}=1"
        assert recorded({name: "1"}, on_gpu=False) == on_cpu
    others = {
        "HOME": "/home/x", "PATH": "/bin", "TORCHINDUCTOR_CACHE_DIR": "/c", "KMP_AFFINITY": "",
        "KMP_INIT_AT_FORK": "FALSE",  # by scikit-learn
    }  # fmt: skip
    assert recorded(dict.fromkeys(SET[:-1], "7") | others, on_gpu=True) is None
    usual = worker_environment({}, 1)[TUNABLES]
    assert "glibc.malloc.trim_threshold" in usual
    assert recorded({}, on_gpu=False) is None
    of_users = {TUNABLES: "glibc.malloc.arena_max=1"}
    assert worker_environment(of_users, 1)[TUNABLES] == of_users[TUNABLES]
    assert recorded(of_users, on_gpu=False) == f"{TUNABLES}={of_users[TUNABLES]}"
    other = "glibc.cpu.x86_shstk=off"
    assert worker_environment({TUNABLES: other}, 1)[TUNABLES] == f"{other}:{usual}"
    assert TUNABLES not in worker_environment({}, 1, tuned=False)
    given = worker_environment({"HOME": "/x", "OMP_NUM_THREADS": "7"}, 2, "GPU-8932")
    assert given["HOME"] == "/x"
    assert given["OMP_NUM_THREADS"] == given["MKL_NUM_THREADS"] == "2"
    line = command_line(given, ["sh", "-c", "env; echo $0", "a folder"])
    printed = subprocess.check_output(["/bin/sh", "-c", line], env={"PATH": "/usr/bin:/bin"})
    lines = printed.decode().splitlines()
    assert lines[-1] == "a folder"
    assert {f"{name}={given[name]}" for name in SET} <= set(lines)
    assert "HOME" not in line


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


def test_the_page_on_measuring_has_each_variable_and_what_becomes_of_it():
    page = Path(__file__).parents[3] / "docs" / "measuring.md"
    text = page.read_text(encoding="utf-8").partition("## Inherited variables")[2]
    fates = "set|dropped|recorded|recorded on a GPU"
    rows = re.findall(rf"^\| (.*) \| ({fates}) \|", text, re.MULTILINE)
    documented = {name: fate for names, fate in rows for name in re.findall(r"`([\w*]+)`", names)}
    kinds = {
        "recorded": environment.RECORDED, "set": SET, "dropped": DROPPED,
        "recorded on a GPU": environment.RECORDED_ON_GPU,
    }  # fmt: skip
    assert documented == {name: fate for fate, names in kinds.items() for name in names}


def cores(*pairs):
    return list(map(frozenset, pairs))


def test_hardware_threads_of_a_core_are_together_and_some_are_near_a_gpu(tmp_path, monkeypatch):
    for number in range(8):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cores(tmp_path) == cores((0, 4), (1, 5), (2, 6), (3, 7))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 7})
    assert usable_cores(tmp_path) == cores((0, 4), (1,), (7,))
    assert usable_cores(tmp_path / "none") == cores((0,), (1,), (4,), (7,))
    gpu = FakeGpu("GPU-0", near=range(60, 70))  # bits of NVML's words
    calls = "nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetCpuAffinity"
    for errors in ({}, *({call: 3} for call in calls)):  # without an answer no thread is near
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(gpu, errors=errors))
        assert threads_near("GPU-0") == frozenset(() if errors else gpu.near)


LOW, HIGH, ALL = frozenset({0, 1, 4, 5}), frozenset({2, 3, 6, 7}), frozenset(range(8))
UNKNOWN: Threads = frozenset()


@pytest.mark.parametrize(("near", "shares"), [
    ([UNKNOWN] * 3, [{0, 4}, {1, 5}, {2, 6}]),
    ([HIGH, LOW, HIGH, LOW], [{2, 6}, {0, 4}, {3, 7}, {1, 5}]),
    # one near one side and two near the other: all have as much as each of these
    ([LOW, HIGH, HIGH], [{0, 4}, {2, 6}, {3, 7}]),
    # more on a side than it has cores, sides that overlap, and one that is not known
    ([HIGH, HIGH, HIGH, LOW], [{0, 4}, {1, 5}, {2, 6}, {3, 7}]),
    ([ALL, LOW], [{0, 1, 4, 5}, {2, 3, 6, 7}]),
    ([UNKNOWN] * 5, [set()] * 5),
])  # fmt: skip
def test_shares_are_equal_disjoint_and_near(near, shares):
    assert equal_shares(cores((0, 4), (1, 5), (2, 6), (3, 7)), near) == shares
