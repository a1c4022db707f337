"""An examination in words, and as JSON without names of users, hosts and folders. Pure but for the
names that are removed."""

import getpass
import math
import platform
import re
import socket
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, Final

from bench.common.messages import enumerated, one_line
from bench.doctor.catalogue import CHECKS
from bench.doctor.check import FAILED, OK, SKIPPED, Check
from bench.doctor.session import DEVICE, Examination, Examined, device_kind
from bench.machine.version import code_version

SCHEMA: Final = 1
"""Raised when a key of the JSON changes its meaning."""
_SIGNS: Final = {OK: "✓", FAILED: "✗", SKIPPED: "–"}
_WORDS: Final = {OK: "ok     ", FAILED: "FAILED ", SKIPPED: "skipped"}
"""The same where stdout can't show these signs."""
_WIDTH: Final = 16
"""Columns for the name of a check."""


def lines(examined: Examined, encoding: str | None) -> list[str]:
    """A check's line, and the line of its remedy."""
    finding, encoding = examined.finding, encoding or "ascii"
    sign, arrow = _SIGNS[finding.verdict], "→"
    try:
        f"{sign}{arrow}".encode(encoding)
    except UnicodeEncodeError:
        sign, arrow = _WORDS[finding.verdict], "->"
    texts = [f"{sign} {examined.check.name:{_WIDTH}} {' '.join(finding.summary.split())}"]
    if finding.remedy:
        texts.append(f"{'':{len(sign) + 1}}{arrow} {' '.join(finding.remedy.split())}")
    return [text.encode(encoding, "replace").decode(encoding) for text in texts]


def trusted(examination: Examination) -> bool | None:
    """Whether measurements can be trusted; None if a check that decides it was not run."""
    if examination.spoilers:
        return False
    passed = examination.named(OK)
    needed = [check for check in CHECKS if _applies(check, examination) and not check.is_advice]
    failed = examination.named(FAILED)  # for a reason that is advice
    return True if all(check.name in (*passed, *failed) for check in needed) else None


def verdict(examination: Examination) -> str:
    """Whether measurements can be trusted, and what is not known."""
    spoilers, failed = examination.spoilers, examination.named(FAILED)
    passed = len(set(examination.named(OK)) - {DEVICE.name})
    if spoilers:
        text = f"Measurements on this machine can't be trusted: {enumerated(spoilers)} failed."
    elif trusted(examination) is None:
        text = f"Too few checks passed to say whether measurements can be trusted: {passed}."
    else:
        text = "Measurements on this machine can be trusted, as far as checks show: "
        text += f"{passed} passed."
    if harmless := [name for name in failed if name not in spoilers]:
        text += f" {enumerated(harmless)} failed, but that leaves measurements right."
    unknown = [
        each.check.unknown
        for each in examination.checks
        if each.finding.verdict == FAILED
        or (each.finding.verdict == SKIPPED and _applies(each.check, examination))
    ]
    if examination.target is None or "software" in failed:
        text += " Nothing else is known."
    elif unknown:
        text += f" It is not known {enumerated(unknown)}."
    if examination.target is not None and examination.target.device.gpu is None:
        text += " Nothing is known of a GPU."
    return text


def looked(examination: Examination) -> str:
    """What a first look says as a whole."""
    failed, skipped = examination.named(FAILED), examination.named(SKIPPED)
    text = "All is as expected." if not failed else f"Not as expected: {enumerated(failed)}."
    return text + (f" Not looked at: {enumerated(skipped)}." if skipped else "")


def _applies(check: Check, examination: Examination) -> bool:
    """Whether a check applies to the device that was checked."""
    return device_kind(examination.target) in check.devices


def as_json(examination: Examination, requested: str) -> dict[str, Any]:
    """Everything, to attach to a report."""
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
            {"check": e.check.name, **asdict(e.finding), "is_advice": e.is_advice,
             "seconds": round(e.seconds, 2)}
            for e in examination.checks
        ],
    }  # fmt: skip
    return {**_clean(values), "verdict": verdict(examination)}


def _clean(value: Any) -> Any:
    """A value with anonymous texts and rounded numbers, null where they are not finite."""
    if isinstance(value, dict):
        return {key: _clean(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return anonymous(value) if isinstance(value, str) else value


def anonymous(text: str) -> str:
    """A text as one line, without absolute paths and the names of this user and host."""
    home, names = str(Path.home()), {socket.gethostname()}
    with suppress(OSError, KeyError, ImportError):
        names.add(getpass.getuser())
    text = text.replace(home, "~") if home != "/" else text
    for name in names - {"", "root", "localhost"}:
        text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", "…", text)
    return one_line(text)
