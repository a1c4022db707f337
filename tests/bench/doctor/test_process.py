"""Each check runs in a process of its own, and whatever happens there becomes a finding; faults are
those of the suite `python -m tests.experiments.doctor`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace

import psutil
import pytest

from bench.doctor import session
from bench.doctor.check import CHECKS, FAILED, OK, SKIPPED, selected
from bench.doctor.session import examine
from tests.experiments.doctor.faults import FAULTS, ROOT, environment


def doctor(*arguments):
    return [sys.executable, "-m", "bench.doctor", *arguments, "--device", "cpu"]


@pytest.mark.parametrize(
    ("patch", "limits", "verdict", "summary"),
    [
        ("check_raises", {}, FAILED, "the check ended: RuntimeError: no such thing in files"),
        ("check_skips", {}, SKIPPED, "not today"),
        ("check_hangs", {"limit_s": 1.5}, FAILED, "took longer than 1.5 s"),
        ("check_hangs", {"expected_s": 0.1}, SKIPPED, "do not fit into 1 s"),
    ],
)
def test_what_happens_to_a_check_is_its_finding(
    monkeypatch, tmp_path, patch, limits, verdict, summary
):
    others = psutil.Process().children(recursive=True)  # such as a cluster of other tests
    for name, value in environment(patch).items():
        monkeypatch.setenv(name, value)
    if "expected_s" in limits:
        monkeypatch.setattr(session, "BUDGET_S", 1.0)
    checks = [replace(check, **limits) for check in selected(["memory-limit"])]
    show = lambda _check, _left: nullcontext()  # noqa: E731
    *_, finding = examine(checks, "cpu", tmp_path, show, lambda _each: None).findings
    assert finding.verdict == verdict
    assert summary in finding.summary
    assert bool(finding.remedy) == (verdict == FAILED)
    assert not list(tmp_path.iterdir())
    assert set(psutil.Process().children(recursive=True)) <= set(others)


def test_ctrl_c_ends_the_doctor_and_leaves_nothing(tmp_path):
    environ = environment("check_hangs", TMPDIR=str(tmp_path))
    command = subprocess.Popen(
        doctor("memory-limit"), cwd=ROOT, env=environ, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    started = psutil.Process(command.pid)
    processes: list[psutil.Process] = []
    while "sleep" not in [each.name() for each in processes]:
        assert command.poll() is None
        time.sleep(0.02)
        processes = started.children(recursive=True)
    os.kill(command.pid, signal.SIGINT)
    command.communicate()
    assert command.returncode == 130
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
    assert not list(tmp_path.iterdir())


def test_a_fault_is_named_by_its_check_and_by_no_other(tmp_path):
    """With --json, which alone is on stdout and names no folder."""
    done = subprocess.run(
        doctor("memory-limit", "step-clock", "--json"), cwd=ROOT, capture_output=True, text=True,
        env=environment(FAULTS["clock-fast"].patch, TMPDIR=str(tmp_path)), check=False,
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert {each["check"]: each["verdict"] for each in result["findings"]} == {
        "device": OK, "memory-limit": OK, "software": OK, "step-clock": FAILED,
    }  # fmt: skip
    assert (done.returncode, result["trusted"]) == (1, False)
    assert result["findings"][1]["figures"]["needed_mib"] > 0
    assert result["conditions"]["threads"] >= 1
    assert not re.search(r"(^|[\s\"'])/\w", done.stdout)
    assert "step-clock failed" in done.stderr


def test_every_check_of_a_cpu_has_a_fault_that_it_must_name():
    names = {check.name for check in CHECKS if "cpu" in check.devices}
    assert {fault.check for fault in FAULTS.values()} == names
    assert len(FAULTS) >= 20
