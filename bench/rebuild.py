"""The command `python -m bench.rebuild`."""

from bench.common.command import run_command
from bench.results.rebuild import main

if __name__ == "__main__":
    run_command(main)
