"""Starts the tests on fake tensors of a GPU, in a process where torch sees a GPU from the first."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.components import need, need_compiler

FOLDER = Path(__file__).parent / "fake"


def build_guard(folder):
    """The library of guard.cpp, compiled into a folder."""
    place, library = Path(torch.__file__).parent, folder / "guard.so"
    subprocess.run(
        [
            os.environ.get("CXX", "g++"), "-O0", "-shared", "-fPIC", "-std=c++20",
            f"-I{place / 'include'}", f"-I{place / 'include/torch/csrc/api/include'}",
            str(FOLDER / "guard.cpp"), "-o", str(library),
            f"-L{place / 'lib'}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{place / 'lib'}",
        ],
        check=True,
    )  # fmt: skip
    return library


def test_on_fake_tensors_of_a_gpu(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # plugins take a second to import
    if not torch.cuda.is_available():
        need(torch.version.cuda is None, "a torch with CUDA takes fake tensors of a GPU with one")
        need_compiler()
        environment["MINBERT_BENCH_FAKE_GPU"] = str(build_guard(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-p", "xdist.plugin", "-p",
         "pytest_benchmark.plugin", "-p", "no:cacheprovider",
         *(str(FOLDER / module) for module in ("steps.py", "counts.py"))],
        cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
