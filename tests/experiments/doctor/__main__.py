"""Run the doctor with faults, each of which one check has to name and no other, and without any,
where none may fail. Prints the tables of docs/doctor.md."""

import json
import subprocess
import sys
import time
from statistics import median

import click

from bench.doctor.check import FAILED
from tests.experiments.doctor.faults import FAULTS, NONE, ROOT, environment


def failed_checks(fault):
    """What each failed check of a run of the doctor says, and the seconds that it took."""
    begun = time.monotonic()
    with fault.machine():
        done = subprocess.run(
            [sys.executable, "-m", "bench.doctor", "--json", "--device", "cpu"], cwd=ROOT,
            env=environment(fault.patch), capture_output=True, text=True, check=False,
            preexec_fn=fault.limit,
        )  # fmt: skip
    if done.returncode not in (0, 1):
        raise RuntimeError(f"the doctor ended with {done.returncode}: {done.stderr}")
    findings = json.loads(done.stdout)["findings"]
    failed = {each["check"]: each["summary"] for each in findings if each["verdict"] == FAILED}
    return failed, time.monotonic() - begun


@click.command(help=__doc__)
@click.option("--runs", default=20, show_default=True, help="Runs without a fault.")
def main(runs):
    named, lines = 0, []
    for name, fault in FAULTS.items():
        try:
            failed, seconds = failed_checks(fault)
            good = list(failed) == [fault.check]
        except subprocess.SubprocessError:  # of the function called before it begins
            failed, seconds = {fault.check: "could not be injected here: it takes root"}, 0.0
            good = False
        named += good
        click.echo(f"{name}: {'' if good else 'NOT '}named, {seconds:.0f} s: {failed}", err=True)
        names = ", ".join(f"`{check}`" for check in failed) or "none"
        lines.append(f"| {fault.text} | {names} |")
    print("| fault | failed |\n|---|---|", *lines, sep="\n")
    print(f"\n{len(lines)} faults, {named} of them named by the right check and by no other.")
    times, false = [], 0
    for number in range(runs):
        failed, seconds = failed_checks(NONE)
        false += bool(failed)
        times.append(seconds)
        click.echo(f"run {number + 1} without a fault: {seconds:.0f} s: {failed or 'ok'}", err=True)
    if times:
        print(
            f"{runs} runs without a fault, {false} of them with a failed check; a run took "
            f"{median(times):.0f} s (median), and {max(times):.0f} s at most."
        )
    sys.exit(1 if false or named < len(lines) else 0)


if __name__ == "__main__":
    main()
