"""The checks of checks.toml, in the order in which they run, and their findings. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.common.errors import InputError
from bench.common.files import read_tables

OK: Final = "ok"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"


@dataclass(frozen=True)
class Check:
    """A question about this machine."""

    name: str  # on the command line, in JSON and in docs/doctor.md
    function: str  # `file:function` in bench.doctor.checks: of a `Context` and the arguments
    question: str
    unknown: str  # if it fails or is skipped, as the end of "it is not known …"
    arguments: Sequence[str] = ()
    devices: Sequence[str] = ("cpu", "cuda")  # the kinds of devices that it applies to
    expected_s: float = 3.0  # on two cores, for the display of what is left
    limit_s: float = 180.0  # after which it is ended, and failed
    needs: Sequence[str] = ("software",)  # checks after whose failure it is pointless, and skipped
    memory_mib: float = 600.0  # of the host, by default to import torch; with less it is skipped
    is_advice: bool = False  # whether measurements are right although it fails
    advice: Sequence[str] = ()  # the failures after which they are
    limits: Mapping[str, Any] = field(default_factory=dict)  # the numbers that decide
    start: str = ""  # the beginning {start} of several summaries
    ok: str = ""  # the summary if it passed
    failed: Mapping[str, str] = field(default_factory=dict)  # and by failure, if another
    remedy: str = ""  # what to do about a failure
    remedies: Mapping[str, str] = field(default_factory=dict)  # and about some failures


@dataclass(frozen=True)
class Context:
    """What a check is given."""

    device: str  # as the worker sees it, `cpu` or `cuda:0`
    threads: int
    amp_on: str  # the type that `amp = on` stands for here, `bf16` or `fp16`
    folder: Path  # an empty folder for its files, removed afterwards
    amps: Sequence[str] = ("off", "bf16")  # the values of `amp` that the device can compute with
    visible: str | None = None  # the user's value of CUDA_VISIBLE_DEVICES; None: it is not set


@dataclass(frozen=True)
class Finding:
    """The result of a check; its fields are keys of the JSON."""

    check: str
    verdict: str  # `ok`, `failed` or `skipped`
    summary: str  # one line, with the figures that decided it, or why it was skipped
    remedy: str = ""  # what to do about a failure, one line; empty if ok
    figures: Mapping[str, Any] = field(default_factory=dict)  # named with their unit at the end
    is_advice: bool = False  # whether measurements are right although it failed
    seconds: float = 0.0


class SkipError(Exception):
    """A check that can't run here; the message is the reason."""


_TABLES: Final = read_tables(__file__, "checks.toml")
DEVICE: Final = Check(**_TABLES["device"])
"""Answered before all others, by what a grid does: it decides where they run."""
CHECKS: Final = tuple(Check(**table) for table in _TABLES["checks"])
_LOOK: Final = _TABLES["first-look"]
_PARTS: Final = tuple(Check(**_LOOK["shared"] | table) for table in _LOOK["checks"])
BY_NAME: Final = {check.name: check for check in (*CHECKS, *_PARTS)}
FIRST_LOOK: Final = tuple(BY_NAME[name] for name in _LOOK["order"])
"""What `--first-look` runs in place of the checks, on a GPU."""


def selected(names: Sequence[str]) -> list[Check]:
    """The checks with some names and those that they need, in order; all without names. An unknown
    name is an InputError."""
    known = [check.name for check in CHECKS]
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"there is no check {unknown[0]!r}; name some of {', '.join(known)}")
    wanted = set(names or known)
    for check in reversed(CHECKS):  # each comes after those that it needs
        wanted.update(check.needs if check.name in wanted else ())
    return [check for check in CHECKS if check.name in wanted]


def judged(
    name: str, figures: Mapping[str, Any], failures: Mapping[str, object], **words: object
) -> Finding:
    """The finding of a check in the words of checks.toml: the first of its failures, or ok.
    Failures have what happened by their names there, or false; `words` are values for texts."""
    check = BY_NAME[name]
    failure, happened = next((item for item in failures.items() if item[1]), ("", ""))
    happened = "; ".join(happened) if isinstance(happened, list) else happened
    values = {failure: happened, **figures, **words}
    text = check.failed.get(failure, check.ok).replace("{start}", check.start)
    remedy = check.remedies.get(failure, check.remedy) if failure else ""
    return Finding(
        name, FAILED if failure else OK, text.format_map(values), remedy.format_map(values),
        figures, failure in check.advice,
    )  # fmt: skip
