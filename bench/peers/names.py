"""Who is compared, and what each does with the same work. Pure."""

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
PEERS: Final = (DEFAULT, "grouped", COMPILED)
UNTUNED: Final = (DEFAULT, TRAINER)
"""Those in the environment that a user's script has; the others have that of our workers, where
the allocator keeps memory for the next step."""

ABOUT: Final = {
    OURS: "this project, as a cell trains, on batches of like length",
    DEFAULT: "transformers + PEFT as its Trainer does by default: shuffled batches, padded to "
    "their longest text",
    "grouped": "transformers + PEFT on batches of like length, the very ones of ours, and with our "
    "settings of the allocator",
    COMPILED: "as grouped, the model through torch.compile(dynamic=True)",
    TRAINER: "transformers' Trainer with PEFT in its usual script, batches shuffled",
}
LIBRARIES: Final = ("transformers", "peft")
PAGES: Final = "peers"
"""The name of the pages and of the folder of their figures."""


def check_libraries() -> None:
    """Refuse to begin where a peer is not installed.

    Raises:
        InputError: naming it and the command that installs it.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"{' and '.join(missing)} can't be imported, and the comparison is with transformers "
            "and peft; install both: pip install -e '.[peers]'"
        )


def versions() -> dict[str, str]:
    """The peers' installed versions, by library."""
    return {name: metadata.version(name) for name in LIBRARIES}


def parse_peers(text: str) -> tuple[str, ...]:
    """`"default,grouped"` as the peers that are asked for, in our order.

    Raises:
        InputError: for another name, or none.
    """
    given = [name for name in text.split(",") if name]
    unknown = [name for name in given if name not in PEERS]
    if unknown or not given:
        told = repr(unknown[0]) if unknown else "nothing"
        raise InputError(f"--peers: {told} is no peer; choose among {', '.join(PEERS)}")
    return tuple(name for name in PEERS if name in given)


def eager(sides: Sequence[str]) -> str | None:
    """The peer whose losses stand for all that run the same code uncompiled."""
    return next((side for side in sides if side not in (OURS, COMPILED)), None)
