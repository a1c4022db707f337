"""Errors whose text is the line that a user sees; a traceback is for bugs."""


class InputError(ValueError):
    """Something given by the user can't be used.

    The message is one line that says what was wrong, where, and what to do about it; commands
    print it and leave with exit code 2.
    """


class DeviceError(Exception):
    """The device of a run is broken or can't be used, so that no further cell would end otherwise.

    The message is one line; the run has to stop, with exit code 1.
    """


class DiskFullError(Exception):
    """A result can't be written any more, most often because the disk is full.

    What was written before is kept whole. The message is one line; the run has to stop, with exit
    code 1.
    """


class StoppedError(Exception):
    """The user stopped the run while it waited for something."""
