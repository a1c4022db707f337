"""The error for bad input; its text is the line that a user sees."""


class InputError(ValueError):
    """Input from the user that can't be used.

    The message is one line that says what was wrong, where, and what to do about it; commands
    print it and leave with exit code 2.
    """
