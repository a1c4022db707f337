"""Conditions are found without torch."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import conditions
from bench.conditions import Found, code_version, cpu_quota, find_conditions, torch_build
from bench.environment import VISIBLE
from tests.faults.fake_driver import FakeCuda, FakeGpu, FakeNvml


def test_identity_leaves_out_commit_and_card_number() -> None:
    here = find_conditions("cpu").conditions
    assert replace(here, code_version="other").conditions_id == here.conditions_id
    assert replace(here, threads=99).conditions_id != here.conditions_id
    first = replace(here, device="cuda:0")
    assert replace(first, device="cuda:1").conditions_id == first.conditions_id
    assert first.conditions_id != here.conditions_id
    assert replace(first, cuda_version="12.8").conditions_id != first.conditions_id
    assert replace(here, environment="KMP_BLOCKTIME=0").conditions_id != here.conditions_id


def found_on(monkeypatch: pytest.MonkeyPatch, device: str, *gpus: FakeGpu) -> Found:
    """The conditions on a machine with some GPUs and torch for CUDA 13.0."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(*gpus))
    monkeypatch.setattr(conditions, "torch_build", lambda: ("2.9.0+cu130", "13.0"))
    monkeypatch.delenv(VISIBLE, raising=False)
    return find_conditions(device, FakeCuda(gpus))


def test_on_a_gpu_cuda_and_inherited_variables_are_conditions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpus = FakeGpu("GPU-0"), FakeGpu("GPU-1", "Tesla T4", (7, 5))
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "MALLOC_ARENA_MAX"):
        monkeypatch.setenv(name, "of:1")
    found = found_on(monkeypatch, "cuda:1", *gpus)
    assert found.conditions.columns() | {
        "device": "cuda:1", "device_name": "Tesla T4, driver 580.65", "tf32": "off",
        "torch_version": "2.9.0+cu130", "cuda_version": "13.0",
        "environment": "MALLOC_ARENA_MAX=of:1 PYTORCH_CUDA_ALLOC_CONF=of:1",
    } == found.conditions.columns()  # fmt: skip
    assert (found.device_name, found.conditions.worker_device) == ("GPU-1", "cuda:0")
    assert (found.amp_on, found.device.has_bf16) == ("fp16", False)
    assert found_on(monkeypatch, "cuda:0", *gpus).amp_on == "bf16"


def test_on_the_cpu_cuda_is_no_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "of:1")
    found = found_on(monkeypatch, "cpu", FakeGpu("GPU-0"))
    assert (found.conditions.cuda_version, found.conditions.environment) == (None, None)
    assert found.conditions.worker_device == found.device_name == "cpu"
    assert found.amp_on == "bf16"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_quota_limits_the_cores(tmp_path: Path, files: dict[str, str], cores: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == cores


def test_build_read_from_files_agrees_with_torch() -> None:
    import torch

    version, cuda = torch_build()
    assert version == torch.__version__
    assert cuda == torch.version.cuda


@pytest.mark.parametrize(
    ("lines", "build"),
    [
        ("__version__ = '2.9.0+cu130'\ncuda: Optional[str] = '13.0'", ("2.9.0+cu130", "13.0")),
        ("__version__ = '2.9.0+cpu'\ncuda: Optional[str] = None", ("2.9.0+cpu", None)),
        ("cuda = '12.8'", ("2.9.0", "12.8")),
    ],
)
def test_the_build_is_that_of_torch_and_not_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, build: tuple[str, str | None]
) -> None:
    """The metadata of a wheel can lack what follows the +, as those of PyPI do."""
    (tmp_path / "version.py").write_text(f"from typing import Optional\n{lines}\n")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(conditions, "find_spec", lambda _: spec)
    monkeypatch.setattr(conditions.metadata, "version", lambda _: "2.9.0")
    assert torch_build() == build


def test_planning_imports_no_torch() -> None:
    code = "import bench.grid, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_dirty_means_that_the_code_differs_not_the_results(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(
            ["git", *who, *arguments],  # noqa: S607
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    assert "+g" not in code_version(tmp_path)
    for name in ("bench", "minbert", "adapters"):
        (tmp_path / name).mkdir()
    code, results = tmp_path / "bench" / "x.py", tmp_path / "runs.csv"
    for file in (code, results, tmp_path / "pyproject.toml"):
        file.write_text("1\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    results.write_text("1\n2\n")
    assert "+g" in code_version(tmp_path)
    assert not code_version(tmp_path).endswith("-dirty")
    code.write_text("2\n")
    assert code_version(tmp_path).endswith("-dirty")
