"""The command `python -m bench.ensemble`."""

from bench.common.command import run_command
from bench.studies.ensemble.__main__ import command

if __name__ == "__main__":
    run_command(command)
