"""The sides of a comparison. Pure."""

from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Final

from bench.common.errors import InputError

OURS: Final = "ours"
TRAINER: Final = "trainer"
"""A whole script around transformers' Trainer, for `--vs trainer` alone."""
COMPILED: Final = "compiled"
DEFAULT: Final = "default"
BASELINES: Final = (DEFAULT, "grouped", COMPILED)
UNTUNED: Final = (DEFAULT, TRAINER)
"""Sides in the environment of a user's script; the others have that of our workers, where the
allocator keeps memory for the next step."""

ABOUT: Final = {
    OURS: "this project, as a cell trains, on batches of similar length",
    DEFAULT: "transformers + PEFT as its Trainer does by default: shuffled batches, padded to "
    "their longest text",
    "grouped": "transformers + PEFT on the same batches as ours, of similar length, and with our "
    "allocator settings",
    COMPILED: "as grouped, with the model through torch.compile(dynamic=True)",
    TRAINER: "transformers' Trainer with PEFT in a typical script, on shuffled batches",
}
LIBRARIES: Final = ("transformers", "peft")
PAGES: Final = "peers"
"""The name of the pages and of the folder with their figures."""


def check_libraries() -> None:
    """Check that the libraries to compare with are installed.

    Raises:
        InputError: with the missing libraries and the command that installs them.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"{' and '.join(missing)} can't be imported, and the comparison is with transformers "
            "and peft; install both: pip install -e '.[transformers]'"
        )


def versions() -> dict[str, str]:
    """The installed versions of the libraries to compare with."""
    return {name: metadata.version(name) for name in LIBRARIES}


def parse_baselines(text: str) -> tuple[str, ...]:
    """Names such as `"default,grouped"`, in the order of `BASELINES`.

    Raises:
        InputError: if a name is unknown or there is none.
    """
    given = [name for name in text.split(",") if name]
    unknown = [name for name in given if name not in BASELINES]
    if unknown or not given:
        problem = f"unknown baseline {unknown[0]!r}" if unknown else "no baseline given"
        raise InputError(f"--peers: {problem}; choose from {', '.join(BASELINES)}")
    return tuple(name for name in BASELINES if name in given)


def eager(sides: Sequence[str]) -> str | None:
    """The baseline whose losses are compared for all that run the same code uncompiled."""
    return next((side for side in sides if side not in (OURS, COMPILED)), None)
