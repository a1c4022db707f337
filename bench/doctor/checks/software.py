"""Python, torch and the libraries of pyproject.toml, imported as a worker imports them."""

import os
import platform
from importlib import metadata

from bench.common.messages import one_line
from bench.doctor.check import FAILED, OK, Context, Finding
from bench.machine.conditions import torch_build
from bench.machine.environment import DROPPED

_PROJECT = "minbert-bench"


def check(context: Context) -> Finding:
    """Compare versions with the project's ranges, import, and look at the process's settings."""
    wrong = _versions(platform.python_version())
    if wrong:
        return Finding(FAILED, "; ".join(wrong), "pip install -e . in the project's folder")
    try:
        from bench.worker.imports import import_all

        import_all()
        import torch
    except Exception as error:  # noqa: BLE001 (libraries that are broken can raise anything)
        text = one_line(f"{type(error).__name__}: {error}")
        remedy = "pip install --force-reinstall torch, and what the message names"
        return Finding(FAILED, f"what cells run can't be imported: {text}", remedy)
    version, cuda = torch_build()
    figures = {
        "python": platform.python_version(), "torch": version, "cuda": cuda,
        "capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads(),
    }  # fmt: skip
    summary = f"Python {figures['python']}, torch {version}, {figures['capability']}"
    inherited = [name for name in DROPPED if name in os.environ]
    if inherited:
        summary = f"workers inherit {', '.join(inherited)}, which changes what they compute"
    elif torch.get_num_threads() != context.threads:
        summary = f"torch uses {torch.get_num_threads()} threads, and not {context.threads}"
    elif torch.get_float32_matmul_precision() != "highest":
        summary = f"fp32 products have precision {torch.get_float32_matmul_precision()}"
    elif not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        summary = "this build of torch lacks oneDNN, by which products are computed on a CPU"
    else:
        return Finding(OK, summary, figures=figures)
    remedy = "unset such variables, or install torch from its own index; else report this"
    return Finding(FAILED, summary, remedy, figures)


def _versions(python: str) -> list[str]:
    """What is not in the ranges of pyproject.toml."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        wanted = metadata.metadata(_PROJECT)["Requires-Python"]
    except metadata.PackageNotFoundError:
        return [f"{_PROJECT} is not installed"]
    is_known = SpecifierSet(wanted).contains(python, prereleases=True)
    wrong = [] if is_known else [f"Python {python} is not {wanted}"]
    for text in metadata.requires(_PROJECT) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    return wrong
