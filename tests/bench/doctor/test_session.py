"""Which checks run, which are skipped and why, what is then said, and faults as findings."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from unittest import mock

import psutil
import pytest
from click.testing import CliRunner

from bench.common.errors import InputError
from bench.doctor import __main__ as main
from bench.doctor import check as every
from bench.doctor import session
from bench.doctor.check import FAILED, OK, SKIPPED, Check, Finding, selected
from bench.doctor.session import Examination, examine
from bench.machine.conditions import find_conditions
from tests.experiments.doctor.faults import FAULTS, ROOT, environment

conditions = cache(find_conditions)
TRUSTED = "Measurements on this machine can be trusted, "


@pytest.fixture(autouse=True)
def few_checks(monkeypatch):
    """One check decides what is trusted, on a machine with little time and memory."""
    monkeypatch.setattr(main, "CHECKS", (check("a"),))
    monkeypatch.setattr(session, "find_conditions", conditions)
    monkeypatch.setattr(session, "BUDGET_S", 20.0)
    monkeypatch.setattr(session, "available_mib", lambda: (3000.0, "free on this machine"))


def check(name, **fields):
    return Check(name, "", "Is it?", f"whether {name}", **{"needs": (), **fields})


def run(monkeypatch, checks, requested="cpu", **verdicts):
    """An examination in which checks find what is given, and ok otherwise."""

    def fake(check, *_):
        return Finding(check.name, verdicts.get(check.name, OK), f"{check.name} was run")

    monkeypatch.setattr(session, "_run", fake)
    return examine(checks, requested, Path(), lambda *_: nullcontext(), lambda _each: None)


def invoke(*words):
    return CliRunner().invoke(main.command, words, standalone_mode=False, catch_exceptions=False)


def test_checks_have_a_function_a_place_and_what_to_do_about_each_failure():
    seen: set[str] = set()
    for each in every.BY_NAME.values():
        function = resolve_name(f"bench.doctor.checks.{each.function}")
        assert list(signature(function).parameters)[1:] == ["mode"] * len(each.arguments)
        assert each.remedy or each.remedies.keys() >= each.failed.keys()
        assert each.ok
        assert seen.issuperset(each.needs)
        seen.add(each.name)
    for checks in (every.CHECKS, every.FIRST_LOOK):  # in five minutes
        assert sum(each.expected_s for each in checks) < 300
        assert all(each.expected_s < each.limit_s for each in checks)


def test_naming_a_check_selects_what_it_needs_in_order():
    names = [each.name for each in selected(["frequency"])]
    assert names == ["software", "disturbance", "cores", "frequency"]
    assert selected([]) == list(every.CHECKS)
    with pytest.raises(InputError, match=r"no check 'clock'; name some of memory-limit, .*step-cl"):
        selected(["clock"])
    with pytest.raises(InputError, match="--first-look: it looks at a GPU, and there is none"):
        invoke("--first-look", "--device", "cpu")
    with pytest.raises(InputError, match="leave out grid"):
        invoke("--first-look", "grid")


@pytest.mark.parametrize(("checks", "verdicts", "expected", "says", "verdict"), [
    ([check("a"), check("b", needs=("a",)), check("c", needs=("b",)), check("d")],
     {"a": FAILED}, [FAILED, SKIPPED, SKIPPED, OK], {"c": "it needs a, which failed"}, ""),
    ([check("a"), check("b", needs=("a",))], {"a": SKIPPED}, [SKIPPED, OK], {}, ""),
    ([check("a"), check("gpu", devices=("cuda",))], {}, [OK, SKIPPED],
     {"gpu": "applies to a GPU"}, "1 passed. Nothing is known of a GPU."),
    ([check("a"), check("b", memory_mib=4000)], {}, [OK, SKIPPED],
     {"b": "it needs 4,000 MiB, and 3,000 are free on this machine"},
     "It is not known whether b."),
    ([check("a", expected_s=30.0), check("b", expected_s=1.0)], {}, [SKIPPED, OK],
     {"a": "do not fit into 20 s"}, ""),
    ([check("a", is_advice=True), check("b", needs=("a",)), check("c")], {"a": FAILED},
     [FAILED, OK, OK], {}, "2 passed. a failed, but that leaves measurements right."),
    ([check("a", is_advice=True), check("c")], {"a": FAILED, "c": FAILED}, [FAILED, FAILED],
     {}, "can't be trusted: c failed. a failed, but that"),
])  # fmt: skip
def test_what_runs_and_what_is_then_said(monkeypatch, checks, verdicts, expected, says, verdict):
    examination = run(monkeypatch, checks, **verdicts)
    assert [finding.verdict for finding in examination.findings] == [OK, *expected]
    summaries = {finding.check: finding.summary for finding in examination.findings}
    assert all(text in summaries[name] for name, text in says.items())
    assert verdict in main.verdict(examination)


def test_a_broken_gpu_or_no_torch_is_a_finding_and_what_works_without_is_checked(monkeypatch):
    def find(requested):
        if requested == "cpu":
            return conditions("cpu")
        raise InputError("no GPU can be used: CUDA error; mend that, or --device cpu")

    monkeypatch.setattr(session, "find_conditions", find)
    examination = run(monkeypatch, [check("a")], "auto")
    gpu, other = examination.findings
    assert (gpu.verdict, gpu.remedy, other.verdict) == (FAILED, "mend that, or --device cpu", OK)
    assert gpu.summary == "no GPU can be used: CUDA error; the CPU is checked"
    assert "can't be trusted: device failed" in main.verdict(examination)
    with pytest.raises(InputError, match="no GPU can be used"):
        run(monkeypatch, [check("a")], "cuda")

    missing = InputError("torch is not installed; install this project with pip")
    monkeypatch.setattr(session, "torch_build", mock.Mock(side_effect=missing))
    examination = run(monkeypatch, list(every.CHECKS), software=FAILED)
    assert examination.target is None
    assert examination.named(OK) == ["memory-limit"]
    assert examination.named(FAILED) == ["software"]
    assert main.verdict(examination) == (
        "Measurements on this machine can't be trusted: software failed. Nothing else is known."
    )


def test_without_all_checks_nothing_is_trusted(monkeypatch):
    a, b, gpu = check("a"), check("b"), check("c", devices=("cuda",))
    monkeypatch.setattr(main, "CHECKS", (a, b, gpu, check("d", is_advice=True)))
    assert main.trusted(run(monkeypatch, [a, b])) is True
    examination = run(monkeypatch, [a, b], b=SKIPPED)
    assert main.trusted(examination) is None
    assert main.verdict(examination).startswith("Too few checks passed to say")
    assert main.trusted(run(monkeypatch, [a], a=FAILED)) is False


def test_a_finding_is_two_lines_without_names_and_json_has_every_figure(monkeypatch):
    """Names of a user, a host or a folder."""
    failed = Finding("products", FAILED, "1 ≠ 2", "do")
    assert main.lines(Finding("products", OK, "fine"), "utf-8") == ["✓ products         fine"]
    assert main.lines(failed, "utf-8") == ["✗ products         1 ≠ 2", "  → do"]
    assert main.lines(failed, "ascii") == ["FAILED  products         1 ? 2", "        -> do"]
    monkeypatch.setattr(main.socket, "gethostname", lambda: "gpu-7")
    monkeypatch.setattr(main.getpass, "getuser", lambda: "ada")
    monkeypatch.setenv("HOME", "/home/ada")
    text = "/home/ada/x.py of ada on gpu-7, in '/srv/big data/y': adapters\nof nvidia-gpu-7"
    assert main.anonymous(text) == "~/x.py of … on …, in 'y': adapters of nvidia-gpu-7"
    examination = examined(FAILED, ms=[1 / 3, float("nan")], of={"a": float("inf")})
    values = json.loads(json.dumps(main.as_json(examination, "auto", "No."), allow_nan=False))
    assert values["findings"][1] == {
        "check": "a", "verdict": FAILED, "summary": "it is y.py", "remedy": "mend",
        "figures": {"ms": [0.333333, None], "of": {"a": None}}, "is_advice": False, "seconds": 1.23,
    }  # fmt: skip
    assert {"schema": main.SCHEMA, "verdict": "No.", "trusted": False}.items() <= values.items()


def examined(verdict, **figures):
    remedy = "mend" if verdict == FAILED else ""
    finding = Finding("a", verdict, "it is /tmp/x/y.py", remedy, figures, seconds=1.234)
    device = Finding(every.DEVICE.name, OK, "cpu", seconds=0.1)
    return Examination(conditions("cpu"), [every.DEVICE, check("a")], [device, finding])


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--json", "--first-look")])
@pytest.mark.parametrize(("result", "code", "verdict", "look"), [
    (OK, 0, f"{TRUSTED}as far as checks show: 1 passed. Nothing is known of a GPU.",
     "All is as expected."),
    (SKIPPED, 0, "Too few checks passed to say whether measurements can be trusted: 0. "
     "It is not known whether a. Nothing is known of a GPU.",
     "All is as expected. Not looked at: a."),
    (FAILED, 1, "Measurements on this machine can't be trusted: a failed. "
     "It is not known whether a. Nothing is known of a GPU.", "Not as expected: a."),
])  # fmt: skip
def test_the_command_ends_with_the_verdict(monkeypatch, arguments, result, code, verdict, look):
    def fake(_checks, _requested, _folder, show, on_finding):
        examination = examined(result)
        for each, finding in zip(examination.checks, examination.findings, strict=True):
            with show(each, 1.0):
                on_finding(finding)
        return examination

    monkeypatch.setattr(main, "find_conditions", mock.Mock())
    monkeypatch.setattr(main, "examine", fake)
    done = invoke(*arguments)
    sentence = look if "--first-look" in arguments else verdict
    text = done.stderr if arguments else done.stdout
    assert done.return_value == code
    assert text.splitlines()[0] == "✓ device           cpu"
    assert text.splitlines()[-1] == sentence
    assert not arguments or json.loads(done.stdout)["verdict"] == sentence


def doctor(*arguments):
    return [sys.executable, "-m", "bench.doctor", *arguments, "--device", "cpu"]


@pytest.mark.parametrize(("patch", "limits", "verdict", "summary"), [
    ("check_raises", {}, FAILED, "the check ended: RuntimeError: no such thing in files"),
    ("check_skips", {}, SKIPPED, "not today"),
    ("check_hangs", {"limit_s": 1.5}, FAILED, "took longer than 1.5 s"),
    ("check_hangs", {"expected_s": 0.1}, SKIPPED, "do not fit into 1 s"),
])  # fmt: skip
def test_what_befalls_a_check_is_its_finding(
    monkeypatch, tmp_path, patch, limits, verdict, summary
):
    others = psutil.Process().children(recursive=True)  # such as a cluster of other tests
    for name, value in environment(patch).items():
        monkeypatch.setenv(name, value)
    if "expected_s" in limits:
        monkeypatch.setattr(session, "BUDGET_S", 1.0)
    checks = [replace(check, **limits) for check in selected(["memory-limit"])]
    examination = examine(checks, "cpu", tmp_path, lambda *_: nullcontext(), lambda _each: None)
    finding = examination.findings[-1]
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
    processes: list[psutil.Process] = []
    while "sleep" not in [each.name() for each in processes]:
        assert command.poll() is None
        time.sleep(0.02)
        processes = psutil.Process(command.pid).children(recursive=True)
    os.kill(command.pid, signal.SIGINT)
    command.communicate()
    assert command.returncode == 130
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
    assert not list(tmp_path.iterdir())


def test_a_fault_is_named_by_its_check_and_by_no_other(tmp_path):
    """With --json, which alone is on stdout and names no folder; every check of a CPU has one."""
    names = {check.name for check in every.CHECKS if "cpu" in check.devices}
    assert {fault.check for fault in FAULTS.values()} == names
    assert len(FAULTS) >= 20
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
