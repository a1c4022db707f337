"""What all commands share: errors of the user's as one line and exit code 2."""

import sys
from typing import Final

import click

from adapters.errors import InputError as AdaptersInputError
from bench.errors import InputError
from bench.signals import StoppedError
from minbert.errors import InputError as MinbertInputError

_LONGEST: Final = 2000
"""Characters of an error that are printed."""

BAD_INPUT = (InputError, AdaptersInputError, MinbertInputError)


def run_command(command: click.Command) -> None:
    """Run a click command and leave with its exit code.

    Bad usage and bad input are one line on stderr and exit code 2, an interrupt is 130.
    """
    try:
        code = command.main(standalone_mode=False)
    except (click.exceptions.Abort, StoppedError):
        sys.exit(130)
    except click.ClickException as error:
        _fail(error.format_message())
    except BAD_INPUT as error:
        _fail(str(error))
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> None:
    line = " ".join(message.split())[:_LONGEST]
    # what would move a terminal's cursor, or turn the text around, is made visible
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    sys.stderr.write(f"error: {shown}\n")
    sys.exit(2)
