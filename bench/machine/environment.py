"""The environment of a worker: variables that change its numbers are set, dropped or recorded. A
test compares the table of them in docs/measuring.md with the lists here."""

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from bench.common.files import read_tables
from bench.common.messages import CALLED

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
ORDER: Final = "CUDA_DEVICE_ORDER"
BY_BUS: Final = "PCI_BUS_ID"
"""The variables that decide which GPUs a process sees, and in which order."""

_TUNABLES: Final = "GLIBC_TUNABLES"
_MALLOC: Final = "glibc.malloc."
_THREADS: Final = ("MKL_NUM_THREADS", "OMP_NUM_THREADS")
SET: Final = (VISIBLE, ORDER, *_THREADS, _TUNABLES)
"""Variables that are set; the last only if the user doesn't configure the allocator with it."""

_VARIABLES: Final[Mapping[str, tuple[str, ...]]] = read_tables(__file__, "environment.toml")
DROPPED: Final = _VARIABLES["dropped"]
RECORDED: Final = _VARIABLES["recorded"]
RECORDED_ON_GPU: Final = _VARIABLES["recorded_on_gpu"]

_SEPARATORS: Final = re.compile(r"([:;,\s]+)")
_KNOWN: Final = re.compile(
    r"(?:(?:[a-z][a-z_.]*(?=[:=])|[\w+-]+\.so[.\d]*|-?\d{1,12}(?:\.\d+)?[a-z]{0,2}|"
    rf"{'|'.join(_VARIABLES['words'])}|)(?:[:;,|=(){{}}\s]+|$))*",
    re.IGNORECASE,
)
"""Values that are recorded as they are: numbers, words that these variables take, names of
libraries, and lists of these, also with names before them."""


def worker_environment(
    inherited: Mapping[str, str], threads: int, gpu: str = "", *, tuned: bool = True
) -> dict[str, str]:
    """The whole environment of a worker, which sees the GPU of this UUID alone; empty: none. If
    tuned, the allocator keeps memory, unless the user configures it."""
    tunables = inherited.get(_TUNABLES, "")
    if tuned and _MALLOC not in tunables:
        tunables = ":".join(filter(None, (tunables, *_VARIABLES["allocator"])))
    kept = {name: value for name, value in inherited.items() if name not in (*DROPPED, CALLED)}
    return {
        **kept,
        **({_TUNABLES: tunables} if tunables else {}),
        VISIBLE: gpu,
        ORDER: BY_BUS,
        **dict.fromkeys(_THREADS, str(threads)),
    }


def command_line(environment: Mapping[str, str], argv: Sequence[str]) -> str:
    """The shell command that runs a worker by hand, with the variables that are set for it."""
    names = (*SET, "PYTHONPATH", "PYTHONSAFEPATH")
    pairs = [f"{name}={environment[name]}" for name in names if name in environment]
    return shlex.join(["env", *pairs, *argv])


def recorded(inherited: Mapping[str, str], *, on_gpu: bool) -> str | None:
    """Inherited variables that change numbers, for the column `environment`; None without any."""
    patterns = (*RECORDED, *(RECORDED_ON_GPU if on_gpu else ()))
    pairs = [
        f"{name}={shlex.quote(_shown(value))}"
        for name, value in sorted(inherited.items())
        if value
        and name not in (*DROPPED, *_THREADS, *_VARIABLES["set_by_libraries"])
        and not name.endswith(_VARIABLES["places"])
        and any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    return " ".join(pairs) or None


def _shown(value: str) -> str:
    """A value with paths cut to their last part; one that may be a secret as a digest."""
    parts = _SEPARATORS.split(value.encode(errors="backslashreplace").decode())
    text = " ".join("".join(part.rpartition("/")[2] for part in parts).split())
    if _KNOWN.fullmatch(text):
        return text
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
