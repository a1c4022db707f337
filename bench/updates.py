"""The command `python -m bench.updates`."""

from bench.common.command import run_command
from bench.studies.updates.__main__ import command

if __name__ == "__main__":
    run_command(command)
