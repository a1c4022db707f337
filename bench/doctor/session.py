"""Checks run one after another, each in a process of its own, in the environment of workers. As a
program, `bench.doctor.session NAME FOLDER CONTEXT`, this is the process of one check."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Final

from bench.common.errors import InputError, StoppedError
from bench.doctor.check import DEVICE, FAILED, OK, SKIPPED, Check, Finding
from bench.launch.runner import run_worker
from bench.launch.signals import Signals
from bench.machine.conditions import Target, find_conditions, torch_build, usable_threads
from bench.machine.environment import VISIBLE, worker_environment
from bench.machine.memory import available_mib
from bench.machine.version import code_version

BUDGET_S: Final = 300.0
"""Seconds for all checks: on a machine so busy that they don't fit, the last ones are skipped."""
_NO_TIME: Final = "the checks do not fit into {:.0f} s here; name it to run it alone"
_GRACE_S: Final = 0.5  # seconds between asking a check to end and killing it
_FINDING: Final = "finding"


@dataclass(frozen=True)
class Examination:
    """All findings, with their checks in the order in which they ran, and the conditions of this
    machine; None without torch."""

    target: Target | None
    checks: Sequence[Check]
    findings: Sequence[Finding]

    def named(self, verdict: str) -> list[str]:
        return [finding.check for finding in self.findings if finding.verdict == verdict]

    @property
    def spoilers(self) -> list[str]:
        """The names of the checks whose failure makes measurements wrong."""
        return [f.check for f in self.findings if f.verdict == FAILED and not f.is_advice]

    def applies(self, check: Check) -> bool:
        """Whether a check applies to the kind of device that is checked, `cpu` or `cuda`."""
        device = "cpu" if self.target is None else self.target.conditions.device
        return device.partition(":")[0] in check.devices


def examine(
    checks: Sequence[Check],
    requested: str,
    folder: Path,
    show: Callable[[Check, float], AbstractContextManager[None]],
    on_finding: Callable[[Finding], None],
) -> Examination:
    """Run checks on a device as on the command line, each in the context that `show` makes of it
    and of the seconds expected for it and those after it; `on_finding` is called with each result.
    InputError if a device other than `auto` was requested and can't be used, StoppedError if the
    user stopped it."""
    findings: list[Finding] = []
    causes: dict[str, str] = {}  # of checks that can't run, the one that failed

    def add(check: Check, finding: Finding, begun: float) -> None:
        is_advice = check.is_advice or finding.is_advice
        seconds = time.monotonic() - begun
        findings.append(replace(finding, is_advice=is_advice, seconds=seconds))
        on_finding(findings[-1])

    with Signals() as signals:
        started = time.monotonic()
        with signals.raising(), show(DEVICE, sum(check.expected_s for check in checks)):
            target, finding = _find_device(requested)
        add(DEVICE, finding, started)
        examination = Examination(target, (DEVICE, *checks), findings)
        for number, check in enumerate(checks):
            begun = time.monotonic()
            left_s = BUDGET_S - (begun - started)
            failed = [name for name in check.needs if name in examination.spoilers]
            if lacking := failed + [causes[name] for name in check.needs if name in causes]:
                causes[check.name] = lacking[0]
                reason = f"it needs {lacking[0]}, which failed"
            else:
                reason = _why_not(check, examination, left_s)
            finding = Finding(check.name, SKIPPED, reason)
            if not reason:
                left = filter(examination.applies, checks[number:])
                with show(check, sum(each.expected_s for each in left)):
                    finding = _run(check, target, folder, signals, left_s)
            add(check, finding, begun)
    return examination


def _find_device(requested: str) -> tuple[Target | None, Finding]:
    """The conditions of cells on a device, or on the CPU where `auto` finds a broken GPU."""
    try:
        torch_build()
        code_version()
    except (InputError, OSError, PackageNotFoundError) as error:
        return None, Finding(DEVICE.name, SKIPPED, str(error))
    try:
        target = find_conditions(requested)
    except InputError as error:
        if requested != "auto":
            raise
        why, _, remedy = str(error).partition("; ")
        finding = Finding(DEVICE.name, FAILED, f"{why}; the CPU is checked", remedy)
        return find_conditions("cpu"), finding
    device = f"{target.conditions.device}, {target.conditions.device_name}"
    return target, Finding(DEVICE.name, OK, "; ".join((device, *target.device.notes)))


def _why_not(check: Check, examination: Examination, left_s: float) -> str:
    """The reason why a check is not run though what it needs did not fail; empty: it is."""
    if not examination.applies(check):
        return "it applies to a GPU, and there is none to check"
    available, limit = available_mib()
    if available < check.memory_mib:
        return f"it needs {check.memory_mib:,.0f} MiB, and {available:,.0f} are {limit}"
    return _NO_TIME.format(BUDGET_S) if check.expected_s > left_s else ""


def _run(
    check: Check, target: Target | None, folder: Path, signals: Signals, left_s: float
) -> Finding:
    """Run a check in its process, which is skipped if it takes longer than the seconds left; one
    that ends without a finding has failed."""
    context: dict[str, Any] = {"device": "cpu", "threads": usable_threads(), "amp_on": "bf16"}
    gpu = ""
    if target is not None:
        conditions, gpu = target.conditions, target.gpu
        types = ("off", "bf16", *(["fp16"] if target.device.gpu else []))  # a CPU emulates fp16
        context = {
            "device": conditions.worker_device, "threads": conditions.threads,
            "amp_on": target.amp_on, "visible": os.environ.get(VISIBLE),
            "amps": [amp for amp in types if amp not in target.device.failures],
        }  # fmt: skip
    files = folder / check.name
    argv = [sys.executable, "-m", "bench.doctor.session", check.name, str(files)]
    worker = run_worker(
        files, [*argv, json.dumps(context)],
        env=worker_environment(os.environ, context["threads"], gpu),
        timeout_s=min(check.limit_s, left_s), on_progress=lambda _message: None, signals=signals,
        grace_s=_GRACE_S,
    )  # fmt: skip
    shutil.rmtree(files, ignore_errors=True)
    if signals.stops:
        raise StoppedError
    if worker.status == "timeout" and left_s < check.limit_s:
        return Finding(check.name, SKIPPED, _NO_TIME.format(BUDGET_S))
    if worker.status == "ok" and worker.result and _FINDING in worker.result["columns"]:
        return Finding(**worker.result["columns"][_FINDING])
    remedy = "attach this line to a report, if it does not name what to mend here"
    if check.name == "software":
        remedy = "install torch again: pip install --force-reinstall torch"
    how = "ran out of memory" if worker.status == "oom" else "ended"
    return Finding(check.name, FAILED, f"the check {how}: {worker.message}", remedy)


def main(name: str, folder: Path, context: dict[str, Any]) -> None:
    """Write a check's finding into result.json, as a cell's worker does its columns."""
    from bench.worker.process import tie_to_parent

    tie_to_parent()
    from bench.doctor.check import BY_NAME, Context, SkipError
    from bench.worker.__main__ import write_result

    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    function = resolve_name(f"bench.doctor.checks.{BY_NAME[name].function}")
    try:
        finding = function(Context(folder=files, **context), *BY_NAME[name].arguments)
    except SkipError as reason:
        finding = Finding(name, SKIPPED, str(reason))
    write_result(folder, "ok", "", {_FINDING: asdict(finding)})  # type: ignore[dict-item]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
