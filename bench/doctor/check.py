"""What a check is, and what it finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

OK: Final = "ok"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"


@dataclass(frozen=True)
class Check:
    """A question about this machine.

    Attributes:
        name: of the check on the command line, in JSON and in docs/doctor.md; also of its module in
            `bench.doctor.checks`, with _ in place of -, which has a function `check`.
        question: what it answers.
        unknown: what is not known if it fails or is skipped, as the end of "it is not known …".
        devices: the kinds of devices it applies to.
        expected_s: how long it takes on two cores, for the display of what is left.
        limit_s: after which it is ended, and failed.
        needs: the checks whose failure makes this one pointless; it is then skipped.
        is_advice: whether measurements are right although it fails.
        memory_mib: host memory that it needs, by default to import torch; with less available it
            is skipped.
    """

    name: str
    question: str
    unknown: str
    devices: Sequence[str] = ("cpu", "cuda")
    expected_s: float = 3.0
    limit_s: float = 180.0
    needs: Sequence[str] = ("software",)
    memory_mib: float = 600.0
    is_advice: bool = False


@dataclass(frozen=True)
class Context:
    """What a check is given.

    Attributes:
        device: as the worker sees it, `cpu` or `cuda:0`.
        threads: the number of threads of torch.
        amp_on: the type that `amp = on` stands for here, `bf16` or `fp16`.
        folder: an empty folder for its files, removed afterwards.
        amps: the values of `amp` that the device can compute with.
        visible: the user's value of CUDA_VISIBLE_DEVICES; None: it is not set.
    """

    device: str
    threads: int
    amp_on: str
    folder: Path
    amps: tuple[str, ...] = ("off", "bf16")
    visible: str | None = None


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        verdict: `ok`, `failed` or `skipped`.
        summary: one line, with the figures that decided it, or why it was skipped.
        remedy: what to do about a failure, one line; empty if ok.
        figures: what was measured, for JSON; names end in their unit.
        is_advice: whether measurements are right although it failed.
    """

    verdict: str
    summary: str
    remedy: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    is_advice: bool = False


def judged(ok: bool, summary: str, remedy: str, figures: Mapping[str, Any]) -> Finding:
    """The finding of a check that passed or failed; one that passed needs no remedy."""
    return Finding(OK if ok else FAILED, summary, "" if ok else remedy, figures)


class SkipError(Exception):
    """A check that can't run here; the message is the reason."""
