"""Checks run one after another, each in a process of its own, in the environment of workers."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, Final

from bench.common.errors import InputError, StoppedError
from bench.doctor.check import FAILED, OK, SKIPPED, Check, Context, Finding
from bench.doctor.memory import available_mib
from bench.doctor.process import FINDING
from bench.launch.runner import WorkerEnd, run_worker
from bench.launch.signals import Signals
from bench.machine.conditions import Found, find_conditions, torch_build, usable_threads
from bench.machine.environment import VISIBLE, worker_environment
from bench.machine.version import code_version

DEVICE: Final = Check(
    "device", "Which device do cells run on?", "whether the GPU can be used", needs=()
)
"""Answered before all others, by what a grid does: it decides where they run."""

BUDGET_S: Final = 300.0
"""Seconds for all checks: on a machine so busy that they don't fit, the last ones are skipped."""
_NO_TIME: Final = "the checks do not fit into {:.0f} s here; name it to run it alone"
_GRACE_S: Final = 0.5
"""Seconds between asking a check to end and killing it."""


@dataclass(frozen=True)
class Examined:
    """A check with its finding and the seconds it took."""

    check: Check
    finding: Finding
    seconds: float

    @property
    def is_advice(self) -> bool:
        """Whether measurements are right although the check failed."""
        return self.check.is_advice or self.finding.is_advice


@dataclass(frozen=True)
class Examination:
    """All checks in the order they ran, and the conditions of this machine; None without torch."""

    target: Found | None
    checks: Sequence[Examined]

    def named(self, verdict: str) -> list[str]:
        """The names of the checks with a verdict."""
        return [each.check.name for each in self.checks if each.finding.verdict == verdict]

    @property
    def spoilers(self) -> list[str]:
        """The names of the checks whose failure makes measurements wrong."""
        failed = [each for each in self.checks if each.finding.verdict == FAILED]
        return [each.check.name for each in failed if not each.is_advice]


def examine(
    checks: Sequence[Check],
    requested: str,
    folder: Path,
    show: Callable[[Check, float], AbstractContextManager[None]],
    on_finding: Callable[[Examined], None],
) -> Examination:
    """Run checks.

    Args:
        requested: the device as on the command line.
        folder: for their files.
        show: the context in which a check runs, made from it and the seconds expected for it and
            those after it.
        on_finding: called with each result.

    Raises:
        InputError: if a device other than `auto` was requested and can't be used.
        StoppedError: if the user stopped it.
    """
    done: list[Examined] = []

    def add(check: Check, finding: Finding, begun: float) -> None:
        done.append(Examined(check, finding, time.monotonic() - begun))
        on_finding(done[-1])

    with Signals() as signals:
        begun = started = time.monotonic()
        with signals.raising(), show(DEVICE, sum(check.expected_s for check in checks)):
            target, finding = _find_device(requested)
        add(DEVICE, finding, begun)
        for number, check in enumerate(checks):
            begun = time.monotonic()
            reason = _why_not(check, done, target)
            if reason is None and begun - started + check.expected_s > BUDGET_S:
                reason = _NO_TIME.format(BUDGET_S)
            if reason is None:
                left = [e.expected_s for e in checks[number:] if device_kind(target) in e.devices]
                with show(check, sum(left)):
                    left_s = BUDGET_S - (begun - started)
                    finding = _run(check, target, folder, signals, left_s)
            add(check, finding if reason is None else Finding(SKIPPED, reason), begun)
    return Examination(target, done)


def _find_device(requested: str) -> tuple[Found | None, Finding]:
    """The conditions of cells on a device, or on the CPU where `auto` finds a broken GPU.

    Raises:
        InputError: as `examine`.
    """
    try:
        torch_build()
        code_version()
    except (InputError, OSError, PackageNotFoundError) as error:
        return None, Finding(SKIPPED, str(error))
    try:
        target = find_conditions(requested)
    except InputError as error:
        if requested != "auto":
            raise
        why, _, remedy = str(error).partition("; ")
        return find_conditions("cpu"), Finding(FAILED, f"{why}; the CPU is checked", remedy)
    conditions = target.conditions
    summary = f"{conditions.device}, {conditions.device_name}"
    return target, Finding(OK, "; ".join((summary, *target.device.notes)))


def _why_not(check: Check, done: Sequence[Examined], target: Found | None) -> str | None:
    """The reason why a check is not run; None: it is."""
    failed = Examination(target, done).spoilers
    if lacking := [name for name in _all_needs(check, done) if name in failed]:
        return f"it needs {lacking[0]}, which failed"
    if device_kind(target) not in check.devices:
        return "it applies to a GPU, and there is none to check"
    available, limit = available_mib()
    if available < check.memory_mib:
        return f"it needs {check.memory_mib:,.0f} MiB, and {available:,.0f} are {limit}"
    return None


def device_kind(target: Found | None) -> str:
    """The kind of the device that is checked, `cpu` or `cuda`."""
    return "cpu" if target is None else target.conditions.device.partition(":")[0]


def _all_needs(check: Check, done: Sequence[Examined]) -> list[str]:
    """The checks that a check needs, and those that these need."""
    by_name = {each.check.name: each.check for each in done}
    needs = [name for name in check.needs if name in by_name]
    return needs + [other for name in needs for other in _all_needs(by_name[name], done)]


def _run(
    check: Check, target: Found | None, folder: Path, signals: Signals, left_s: float
) -> Finding:
    """Run a check in its process, which is skipped if it takes longer than the seconds left."""
    files, gpu = folder / check.name, ""
    context = Context("cpu", usable_threads(), "bf16", files)
    if target is not None:
        conditions, gpu = target.conditions, target.gpu
        device, threads = conditions.worker_device, conditions.threads
        visible = os.environ.get(VISIBLE)
        context = Context(device, threads, target.amp_on, files, _amps(target), visible)
    fields = {**vars(context), "folder": str(files)}
    outcome = run_worker(
        files, [sys.executable, "-m", "bench.doctor.process", check.name, json.dumps(fields)],
        env=worker_environment(os.environ, context.threads, gpu),
        timeout_s=min(check.limit_s, left_s), on_progress=lambda _message: None, signals=signals,
        grace_s=_GRACE_S,
    )  # fmt: skip
    shutil.rmtree(files, ignore_errors=True)
    if signals.stops:
        raise StoppedError
    if outcome.status == "timeout" and left_s < check.limit_s:
        return Finding(SKIPPED, _NO_TIME.format(BUDGET_S))
    return _finding(check, outcome)


def _amps(target: Found) -> tuple[str, ...]:
    """The values of `amp` that a device can compute with; a CPU only emulates fp16."""
    types = ("off", "bf16") if target.device.gpu is None else ("off", "bf16", "fp16")
    return tuple(amp for amp in types if amp not in target.device.failures)


def _finding(check: Check, outcome: WorkerEnd) -> Finding:
    """The finding in a process's result; one that ended otherwise has failed."""
    columns: Mapping[str, Any] = {} if outcome.result is None else outcome.result["columns"]
    if outcome.status == "ok" and FINDING in columns:
        return Finding(**columns[FINDING])
    remedy = "attach this line to a report, if it does not name what to mend here"
    if check.name == "software":
        remedy = "install torch again: pip install --force-reinstall torch"
    how = "ran out of memory" if outcome.status == "oom" else "ended"
    return Finding(FAILED, f"the check {how}: {outcome.message}", remedy)
