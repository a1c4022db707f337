"""Faults of the suite `python -m tests.experiments.doctor`, of which one is injected here."""

import json
import os
import subprocess
import sys

from bench.doctor.check import CHECKS, FAILED, OK
from tests.experiments.doctor import patches
from tests.experiments.doctor.faults import FAULTS
from tests.experiments.doctor.injection import ROOT, environment


def test_every_check_of_a_cpu_has_a_fault_that_it_must_name() -> None:
    names = {check.name for check in CHECKS if "cpu" in check.devices}
    assert {fault.check for fault in FAULTS.values()} == names
    assert len(FAULTS) >= 20


def test_a_fault_is_named_by_its_check_and_by_no_other() -> None:
    fault = FAULTS["clock-fast"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.doctor", "step-clock", "--device", "cpu", "--json"],
        cwd=ROOT, env=environment(fault.patch), capture_output=True, text=True, check=False,
    )  # fmt: skip
    verdicts = {each["check"]: each["verdict"] for each in json.loads(done.stdout)["findings"]}
    assert verdicts == {"device": OK, "software": OK, fault.check: FAILED}


def test_a_patch_strikes_the_processes_of_a_process() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch'])"
    environ = environment(patches.torch_is_broken)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert "ImportError: libtorch_cpu.so" in done.stderr
    assert "FAULT" not in os.environ
