"""The command `python -m bench.predict`."""

from bench.common.command import run_command
from bench.export.predict import command

if __name__ == "__main__":
    run_command(command)
