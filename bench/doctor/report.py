"""An examination in words, and as JSON without names of users, hosts and folders."""

import getpass
import platform
import re
import socket
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from bench.common.messages import enumerated, finite, one_line
from bench.doctor.check import CHECKS, DEVICE, FAILED, OK, SKIPPED, Finding
from bench.doctor.session import Examination
from bench.machine.version import code_version

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
