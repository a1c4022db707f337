"""The one error that stands for bad input: its text is the line that a user sees."""


class InputError(ValueError):
    """Something given by the user can't be used.

    The message is one line that says what was wrong, where, and what to do about it; commands
    print it and leave with exit code 2.
    """
