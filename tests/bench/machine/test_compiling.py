"""Whether compiling pays on a device, and what it lacks."""

import importlib.machinery
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from bench.machine import conditions
from bench.machine.conditions import find_conditions
from bench.machine.devices import Device, why_no_compiling
from bench.machine.environment import VISIBLE
from bench.machine.gpu_trial import GpuInfo
from tests.experiments.faults.fake_driver import FakeCuda, FakeGpu, FakeNvml

A100 = FakeGpu("GPU-8932f937")
NEW = "2.13.1+cu130"


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """All that compiling for a GPU needs, as stand-ins; the folder of Python.h."""
    (tmp_path / "Python.h").touch()
    triton = importlib.machinery.ModuleSpec("triton", None)
    monkeypatch.setitem(sys.modules, "triton", type(sys)("triton"))
    monkeypatch.setattr(sys.modules["triton"], "__spec__", triton, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/gcc" if name == "gcc" else None)
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    return tmp_path


def device(capability: tuple[int, int] = (8, 0)) -> Device:
    return Device("cuda:0", GpuInfo("NVIDIA A100", "580", capability, A100.uuid))


def test_on_a_gpu_with_a_compiler_it_pays(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(A100))
    monkeypatch.setattr(conditions, "torch_build", lambda: (NEW, "13.0"))
    monkeypatch.delenv(VISIBLE, raising=False)
    assert find_conditions("auto", FakeCuda((A100,))).no_compiling == ""
    assert find_conditions("cpu").no_compiling == "a CPU gains nothing"


def test_what_is_missing_is_named(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_no_compiling(device(), NEW) == ""
    assert why_no_compiling(device(), "3.0.0a0") == ""
    assert why_no_compiling(device(), "2.9.1+cu130") == "torch 2.9.1+cu130 is too old"
    assert why_no_compiling(device((6, 1)), NEW) == "NVIDIA A100 is too old for triton"
    assert why_no_compiling(device((7, 0)), NEW) == ""
    assert why_no_compiling(device((6, 2)), NEW) == "NVIDIA A100 is too old for triton"
    for compiler in ("clang", "/opt/cc"):
        monkeypatch.setattr(shutil, "which", lambda name, there=compiler: name == there)
        monkeypatch.setenv("CC", "/opt/cc")
        assert why_no_compiling(device(), NEW) == ""
    monkeypatch.delenv("CC")
    assert why_no_compiling(device(), NEW) == "a C compiler is missing"
    monkeypatch.setattr(shutil, "which", lambda name: name == "gcc")
    (complete / "Python.h").unlink()
    assert why_no_compiling(device(), NEW) == "Python.h is missing"
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert why_no_compiling(device(), NEW) == "a C compiler is missing"
    monkeypatch.setitem(sys.modules, "triton", None)
    assert why_no_compiling(device(), NEW) == "triton is missing"
