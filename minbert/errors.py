"""The error for bad input; its text is the line that a user sees."""


class InputError(ValueError):
    """Input that can't be used. The message is one line: what was wrong, where, and what to do;
    commands print it and leave with exit code 2."""
