"""Check whether measurements can be trusted on this machine, in under five minutes.

Example: python -m bench.doctor --json
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import click
from rich.progress import BarColumn, Progress, TextColumn

from bench.common.command import options_in, run_command
from bench.common.errors import InputError, writing
from bench.common.messages import echo
from bench.common.progress import Console
from bench.doctor.check import CHECKS, FAILED, FIRST_LOOK, Check, Finding, selected
from bench.doctor.report import as_json, lines, verdict
from bench.doctor.session import examine
from bench.machine.conditions import find_conditions

_EPILOG: Final = f"""\b
Examples:
  python -m bench.doctor
  python -m bench.doctor products step-clock --device cpu
  python -m bench.doctor --json > doctor.json
  python -m bench.doctor --first-look --json > first-look.json

Checks: {", ".join(check.name for check in CHECKS)}. docs/doctor.md explains them. The exit code is
1 if one fails."""


@click.command(help=__doc__.partition("\n\n")[0], epilog=_EPILOG)
@click.argument("names", nargs=-1, metavar="[CHECK...]")
@options_in(__file__, "options.toml")
def command(names: tuple[str, ...], device: str, first_look: bool, json_wanted: bool) -> int:
    checks = selected(names)
    if first_look:
        if names:
            raise InputError(f"--first-look: it runs no check by name; leave out {names[0]}")
        if find_conditions(device).device.gpu is None:
            raise InputError("--first-look: it looks at a GPU, and there is none that can be used")
        checks = list(FIRST_LOOK)
    out = sys.stderr if json_wanted else sys.stdout
    if out is None:
        raise InputError("there is no stdout to print to; redirect it to a file")

    def on_finding(finding: Finding) -> None:
        for line in lines(finding, out.encoding):
            echo(line, err=json_wanted)

    with tempfile.TemporaryDirectory(prefix="minbert-doctor-") as folder:
        show = partial(_progress, total_s=sum(check.expected_s for check in checks))
        examination = examine(checks, device, Path(folder), show, on_finding)
    sentence = verdict(examination, first_look=first_look)
    echo(f"\n{sentence}", err=json_wanted)
    if json_wanted:
        with writing("stdout"):
            echo(json.dumps(as_json(examination, device, sentence), indent=2))
    return 1 if examination.named(FAILED) else 0


@contextmanager
def _progress(check: Check, left_s: float, total_s: float) -> Iterator[None]:
    """Show the check that runs and what is left, drawn once: the parent must not disturb it."""
    console = Console(stderr=True)
    with Progress(
        BarColumn(), TextColumn("{task.description}"), console=console, transient=True,
        auto_refresh=False, disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        text = f"about {left_s:.0f} s left · {check.name}: {check.question}"
        bar.add_task(text, total=total_s, completed=round(total_s - left_s))
        bar.refresh()
        yield


if __name__ == "__main__":
    run_command(command)
