"""What some tests need beside Python. Where it is absent they skip and say why; what the variable
`MINBERT_BENCH_REQUIRE` names, separated by commas, has to be there, or they fail, as in CI."""

import os
import shutil
from pathlib import Path
from typing import Final

import pytest

COMPONENTS: Final = {
    "cgroups": "the right to limit memory by control groups of version 1",
    "chromium": "a Chromium or Chrome to look at reports with",
    "compiler": "a C++ compiler, for torch.compile on a CPU and for fake tensors of a GPU",
    "cuda": "a GPU",
    "data": "pyarrow and datasets, the extra of that name",
    "docs": "sphinx, myst-parser and furo, the extra of that name",
    "mounts": "the right to mount a small disk, which root mostly has",
    "onnx": "onnx, onnxruntime and onnxscript, the extra of that name",
    "sentence-transformers": "sentence-transformers and peft, the extra of that name",
    "shared": "the shared data, in a folder beside the checkout or named by MINBERT_BENCH_SHARED",
    "slurm": "a Slurm with munge (slurm-wlm, munge), for a cluster on this machine",
    "trackers": "mlflow-skinny and tensorboard, the extra of that name",
    "transformers": "transformers and peft, the extra of that name",
}

SHARED = Path(os.environ.get("MINBERT_BENCH_SHARED", Path(__file__).parents[2] / "shared"))
CS224N = SHARED / "data" / "cs224n"


def _required() -> set[str]:
    names = set(filter(None, os.environ.get("MINBERT_BENCH_REQUIRE", "").split(",")))
    if unknown := names - COMPONENTS.keys():
        raise ValueError(
            f"MINBERT_BENCH_REQUIRE: {unknown} unknown; known: {', '.join(COMPONENTS)}"
        )
    return names


REQUIRED: Final = _required()


def need(condition: bool, why: str, *, component: str | None = None) -> None:
    """Skip unless the condition holds; fail where the component, or any if None, is required."""
    if condition:
        return
    if component is not None and component not in COMPONENTS:
        raise ValueError(f"{component!r} is no component; known: {', '.join(COMPONENTS)}")
    if REQUIRED and component in {None, *REQUIRED}:
        pytest.fail(f"required here, but missing: {why}")
    pytest.skip(why)


def chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def need_compiler() -> None:
    """Skip, or fail where it is required, without the compiler that torch would take."""
    found = shutil.which(os.environ.get("CXX", "g++")) is not None
    need(found, COMPONENTS["compiler"], component="compiler")
