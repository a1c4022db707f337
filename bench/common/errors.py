"""Errors whose message is the one line that a user sees; a traceback means a bug."""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.common.messages import one_line
from minbert.errors import InputError as InputError
from minbert.errors import reading as reading


class RefusedError(Exception):
    """What was to run was refused before any of it ran; the exit code is 2."""


class DeviceError(Exception):
    """The device of a run is broken or can't be used, so no further cell would succeed: the run has
    to stop, with exit code 1."""


class DiskFullError(Exception):
    """A result can't be written any more, most often because the disk is full: the run has to stop,
    with exit code 1. Everything written before stays intact."""


class StoppedError(Exception):
    """The user stopped the run while it waited for something."""


@contextmanager
def writing(what: object, end: str = "", kind: type[Exception] = DiskFullError) -> Iterator[None]:
    """Within the block, an OSError says in a line that something can't be written, and why."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: can't be written ({error.strerror}){end}") from error


def cause_of(error: BaseException) -> str:
    """The text of any error in one line, or its type where it has none."""
    return one_line(getattr(error, "strerror", None) or str(error)) or type(error).__name__
