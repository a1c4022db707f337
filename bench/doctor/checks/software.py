"""Python, torch and the libraries of pyproject.toml, imported as a worker imports them; and the
host memory that a process started now could use."""

import os
import platform
from importlib import metadata

from bench.common.messages import one_line
from bench.doctor.check import BY_NAME, Context, Finding, judged
from bench.machine.conditions import torch_build
from bench.machine.environment import DROPPED
from bench.machine.memory import available_mib

_PROJECT = "minbert-bench"


def check(context: Context) -> Finding:
    """Compare versions with the project's ranges, import, and look at the process's settings."""
    python = platform.python_version()
    if wrong := _versions(python):
        return judged("software", {}, {"versions": wrong})
    try:
        from bench.worker.process import import_all

        import_all()
        import torch
    except Exception as error:  # noqa: BLE001 (libraries that are broken can raise anything)
        text = one_line(f"{type(error).__name__}: {error}")
        return judged("software", {}, {"imports": text})
    version, cuda = torch_build()
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    figures = {
        "python": python, "torch": version, "cuda": cuda,
        "capability": torch.backends.cpu.get_cpu_capability(), "threads": threads,
    }  # fmt: skip
    failures = {
        "inherited": ", ".join(name for name in DROPPED if name in os.environ),
        "threads": threads != context.threads,
        "precision": precision != "highest",
        "onednn": not torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
    }
    return judged("software", figures, failures, wanted=context.threads, precision=precision)


def _versions(python: str) -> list[str]:
    from packaging.requirements import Requirement

    try:
        texts = [f"Python{metadata.metadata(_PROJECT)['Requires-Python']}"]
    except metadata.PackageNotFoundError:
        return [f"{_PROJECT} is not installed"]
    wrong = []
    for requirement in map(Requirement, texts + (metadata.requires(_PROJECT) or [])):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = requirement.name
        try:
            version = python if name == "Python" else metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{name} {version} is not {requirement.specifier}")
    return wrong


def memory(context: Context) -> Finding:  # noqa: ARG001
    """Compare the memory that is available now with the largest peak."""
    available, limit = available_mib()
    figures = {"available_mib": available, **BY_NAME["memory-limit"].limits}
    failures = {"little": available < figures["needed_mib"]}
    return judged("memory-limit", figures, failures, limit=limit)
