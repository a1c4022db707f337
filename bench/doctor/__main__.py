"""Check whether measurements can be trusted on this machine, in under five minutes.

Example: python -m bench.doctor --json
"""

import getpass
import json
import platform
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, Final

import click
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.progress import BarColumn, Progress, TextColumn

from bench.common.command import options_in, run_command
from bench.common.errors import InputError, writing
from bench.common.messages import echo, enumerated, finite, one_line
from bench.common.progress import Console
from bench.doctor.check import (
    CHECKS,
    DEVICE,
    FAILED,
    FIRST_LOOK,
    OK,
    SKIPPED,
    Check,
    Finding,
    selected,
)
from bench.doctor.session import Examination, examine
from bench.machine.conditions import find_conditions
from bench.machine.version import code_version

_EPILOG: Final = f"""\b
Examples:
  python -m bench.doctor
  python -m bench.doctor products step-clock --device cpu
  python -m bench.doctor --json > doctor.json
  python -m bench.doctor --first-look --json > first-look.json

Checks: {", ".join(check.name for check in CHECKS)}. docs/doctor.md explains them. The exit code is
1 if one fails."""
SCHEMA: Final = 1  # raised when a key of the JSON changes its meaning
_SIGNS: Final = {OK: "✓", FAILED: "✗", SKIPPED: "–"}
_WORDS: Final = {OK: "ok     ", FAILED: "FAILED ", SKIPPED: "skipped"}
"""The same where stdout can't show these signs."""
_WIDTH: Final = 16


def lines(finding: Finding, encoding: str | None) -> list[str]:
    encoding, sign, arrow = encoding or "ascii", _SIGNS[finding.verdict], "→"
    try:
        f"{sign}{arrow}".encode(encoding)
    except UnicodeEncodeError:
        sign, arrow = _WORDS[finding.verdict], "->"
    texts = [f"{sign} {finding.check:{_WIDTH}} {' '.join(finding.summary.split())}"]
    if finding.remedy:
        texts.append(f"{'':{len(sign) + 1}}{arrow} {' '.join(finding.remedy.split())}")
    return [text.encode(encoding, "replace").decode(encoding) for text in texts]


def trusted(examination: Examination) -> bool | None:
    """Whether measurements can be trusted; None if a check that decides it was not run."""
    if examination.spoilers:
        return False
    decided = examination.named(OK) + examination.named(FAILED)  # the latter for an advice
    needed = [check.name for check in filter(examination.applies, CHECKS) if not check.is_advice]
    return set(decided).issuperset(needed) or None


def verdict(examination: Examination, *, first_look: bool = False) -> str:
    """Whether measurements can be trusted, and what is not known; or whether all that a first look
    saw is as expected."""
    spoilers, failed = examination.spoilers, examination.named(FAILED)
    environment = Environment(  # noqa: S701 (plain text)
        loader=PackageLoader("bench.doctor"), undefined=StrictUndefined
    )
    environment.filters["enumerated"] = enumerated
    text = environment.get_template("verdict.txt.jinja").render(
        first_look=first_look, target=examination.target, trusted=trusted(examination),
        spoilers=spoilers, failed=failed, skipped=examination.named(SKIPPED),
        harmless=[name for name in failed if name not in spoilers],
        passed=len(set(examination.named(OK)) - {DEVICE.name}),
        unknown=[
            check.unknown
            for check, finding in zip(examination.checks, examination.findings, strict=True)
            if finding.verdict == FAILED
            or (finding.verdict == SKIPPED and examination.applies(check))
        ],
    )  # fmt: skip
    return " ".join(text.split())


def as_json(examination: Examination, requested: str, sentence: str) -> dict[str, Any]:
    """Everything with its verdict, a sentence, to attach to a report."""
    target = examination.target
    version = None
    with suppress(PackageNotFoundError):
        version = code_version()
    values: dict[str, Any] = {
        "schema": SCHEMA, "code_version": version, "requested_device": requested,
        "conditions": None if target is None else target.conditions.columns(),
        "platform": {
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            "libc": " ".join(platform.libc_ver()),
        },
        "trusted": trusted(examination),
        "findings": [
            vars(finding) | {"seconds": round(finding.seconds, 2)}
            for finding in examination.findings
        ],
    }  # fmt: skip
    rounded = finite(values, anonymous, lambda number: float(f"{number:.6g}"))
    return {**rounded, "verdict": sentence}


def anonymous(text: str) -> str:
    """A text as one line, without absolute paths and the names of this user and host."""
    home, names = str(Path.home()), {socket.gethostname()}
    with suppress(OSError, KeyError, ImportError):
        names.add(getpass.getuser())
    text = text.replace(home, "~") if home != "/" else text
    for name in names - {"", "root", "localhost"}:
        text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", "…", text)
    return one_line(text)


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
