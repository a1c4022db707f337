"""The command `python -m bench.track`."""

from bench.common.command import run_command
from bench.results.tracking import main

if __name__ == "__main__":
    run_command(main)
