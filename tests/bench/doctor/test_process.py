"""Each check runs in a process of its own, and whatever happens there becomes a finding."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bench.doctor import session
from bench.doctor.check import FAILED, OK, SKIPPED, Finding, selected
from bench.doctor.session import examine
from tests.experiments.doctor import patches
from tests.experiments.doctor.injection import ROOT, environment

COMMAND = [sys.executable, "-m", "bench.doctor", "memory-limit", "--device", "cpu"]


def finding_of(patch: object, monkeypatch: pytest.MonkeyPatch, folder: Path, **limits) -> Finding:
    """The finding of a check that a fault strikes."""
    for name, value in environment(patch).items():
        monkeypatch.setenv(name, value)
    checks = [replace(check, **limits) for check in selected(["memory-limit"])]
    show = lambda _check, _left: nullcontext()  # noqa: E731
    return examine(checks, "cpu", folder, show, lambda _each: None).findings[-1]


def test_a_check_that_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    finding = finding_of(None, monkeypatch, tmp_path)
    assert (finding.verdict, finding.remedy) == (OK, "")
    assert finding.figures["needed_mib"] == 2048


def test_a_check_that_raises_has_failed_with_its_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    finding = finding_of(patches.check_raises, monkeypatch, tmp_path)
    assert finding.verdict == FAILED
    assert finding.summary == "the check ended: RuntimeError: no such thing in files"
    assert finding.remedy
    assert not list(tmp_path.iterdir())


def test_a_check_that_crashes_has_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    finding = finding_of(patches.check_is_killed, monkeypatch, tmp_path)
    assert finding.verdict == FAILED
    assert "SIGSEGV" in finding.summary


def test_a_check_that_skips_gives_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    finding = finding_of(patches.check_skips, monkeypatch, tmp_path)
    assert (finding.verdict, finding.summary) == (SKIPPED, "not today")


def test_a_check_that_hangs_is_ended_with_its_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    others = psutil.Process().children(recursive=True)  # such as a cluster of other tests
    finding = finding_of(patches.check_hangs, monkeypatch, tmp_path, limit_s=1.5)
    assert finding.verdict == FAILED
    assert "took longer than 1.5 s" in finding.summary
    assert set(psutil.Process().children(recursive=True)) <= set(others)


def test_ctrl_c_ends_the_doctor_and_leaves_nothing(tmp_path: Path) -> None:
    environ = environment(patches.check_hangs, TMPDIR=str(tmp_path))
    doctor = subprocess.Popen(
        COMMAND, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    started = psutil.Process(doctor.pid)
    processes: list[psutil.Process] = []
    while "sleep" not in [each.name() for each in processes]:
        assert doctor.poll() is None
        time.sleep(0.02)
        processes = started.children(recursive=True)
    os.kill(doctor.pid, signal.SIGINT)
    doctor.communicate()
    assert doctor.returncode == 130
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
    assert not list(tmp_path.iterdir())


def test_json_alone_is_on_stdout_and_names_no_place(tmp_path: Path) -> None:
    environ = environment(patches.check_raises, TMPDIR=str(tmp_path))
    done = subprocess.run(
        [*COMMAND, "--json"], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    result = json.loads(done.stdout)
    assert done.returncode == 1
    assert result["trusted"] is None
    assert [each["verdict"] for each in result["findings"]] == [OK, FAILED]
    assert result["conditions"]["threads"] >= 1
    assert not re.search(r"(^|[\s\"'])/\w", done.stdout)
    assert "memory-limit" in done.stderr
    assert "memory-limit failed, but" in done.stderr


def test_a_check_that_exceeds_the_budget_is_skipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(session, "BUDGET_S", 1.0)
    finding = finding_of(patches.check_hangs, monkeypatch, tmp_path, expected_s=0.1)
    assert finding.verdict == SKIPPED
    assert "do not fit into 1 s" in finding.summary
